"""Fetching one file: resumed where it stopped, under another name until it was verified."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from lane_models.checkpoint import CheckpointError

CHUNK = 2**18
ATTEMPTS = 3
TIMEOUT_S = 60
DRIVE = "gdrive:"
QUOTA = re.compile(rb"quota|too many users|virus scan|sign in|ServiceLogin", re.IGNORECASE)

Drive = Callable[[str, Path], None]
"""(file id, target): fetches a file from Google Drive, resuming what there is."""
Progress = Callable[[int, int | None], None]
"""(bytes so far, bytes in all if known)"""


class DownloadError(BenchError):
    """A file that could not be fetched. ``resumable``: the same command goes on where this attempt ended."""

    def __init__(self, message: str, resumable: bool = False) -> None:
        super().__init__(message)
        self.resumable = resumable


@dataclass(frozen=True)
class Wanted:
    """A file to fetch. address: an http(s) URL or "gdrive:ID". size in bytes and sha256 where they are known."""

    address: str
    target: Path
    size: int | None = None
    sha256: str = ""

    @property
    def page(self) -> str:
        """What to open in a browser."""
        if self.address.startswith(DRIVE):
            return f"https://drive.google.com/file/d/{self.address.removeprefix(DRIVE)}/view"
        return self.address

    @property
    def partial(self) -> Path:
        """Where the file grows."""
        return self.target.with_name(f".{self.target.name}.part")


def fetch(
    wanted: Wanted,
    drive: Drive | None = None,
    progress: Progress = lambda done, total: None,
    check: Callable[[Path], None] = lambda path: None,
) -> bool:
    """Fetches a file unless it is there already. Returns whether it was fetched now.

    check: what else must hold of the file, raising BenchError or CheckpointError. A file that exists is verified too.
    Raises DownloadError; then nothing new is at ``wanted.target``, and what came so far is kept only if it can be
    continued, or, if ``check`` fails, as NAME.refused.
    """
    if wanted.target.exists():
        verify(wanted.target, wanted)
        check(wanted.target)
        return False
    wanted.target.parent.mkdir(parents=True, exist_ok=True)
    if wanted.address.startswith(DRIVE):
        (drive or google_drive)(wanted.address.removeprefix(DRIVE), wanted.partial)
        if not wanted.partial.is_file():
            raise DownloadError(f"{wanted.page}: nothing came from Google Drive")
    else:
        _fetch_url(wanted, progress)
    try:
        verify(wanted.partial, wanted)
    except DownloadError:
        _forget(wanted)
        raise
    try:
        check(wanted.partial)
    except (BenchError, CheckpointError) as error:
        refused = wanted.target.with_name(wanted.target.name + ".refused")
        os.replace(wanted.partial, refused)
        raise DownloadError(f"{str(error).replace(str(wanted.partial), str(refused))}") from error
    os.replace(wanted.partial, wanted.target)
    _etag(wanted).unlink(missing_ok=True)
    return True


def verify(path: Path, wanted: Wanted) -> None:
    """Raises DownloadError if a file is empty, a web page, or other than it should be."""
    size = path.stat().st_size
    if size == 0:
        raise DownloadError(f"{wanted.page}: the file that came is empty")
    _refuse_page(path, wanted)
    if wanted.size is not None and size != wanted.size:
        raise DownloadError(f"{path}: has {size} bytes, expected {wanted.size}; it was damaged or replaced")
    if wanted.sha256:
        found = sha256(path)
        if found != wanted.sha256:
            raise DownloadError(
                f"{path}: SHA-256 is {found}, expected {wanted.sha256}; it was damaged or replaced"
            )


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def google_drive(file_id: str, target: Path) -> None:
    """Fetches a public file of Google Drive with gdown."""
    try:
        import gdown
    except ImportError:
        raise DownloadError("gdown is not installed, which Google Drive needs; run make setup") from None
    try:
        gdown.download(id=file_id, output=str(target), resume=True, quiet=False)
    except Exception as error:  # gdown passes on whatever its HTTP library raises
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DownloadError(f"Google Drive refuses file {file_id} ({reason})", resumable=True) from error


def _refuse_page(path: Path, wanted: Wanted) -> None:
    with path.open("rb") as file:
        start = file.read(2**16)
    if start.lstrip(b"\xef\xbb\xbf \t\r\n")[:15].lower().startswith((b"<!doctype html", b"<html")):
        why = (
            "its quota is used up, or it asks for a confirmation"
            if QUOTA.search(start)
            else "no file is there"
        )
        raise DownloadError(f"{wanted.page}: a web page came in place of the file ({why})")


def _fetch_url(wanted: Wanted, progress: Progress) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _continue(wanted, progress)
            return
        except DownloadError as error:
            if not error.resumable or attempt == ATTEMPTS:
                raise
            time.sleep(attempt - 1)


def _continue(wanted: Wanted, progress: Progress) -> None:
    """One request for what is missing of the partial file; the server may also send all of it again."""
    have = wanted.partial.stat().st_size if wanted.partial.exists() else 0
    mark = _etag(wanted).read_text() if _etag(wanted).exists() else ""
    headers = {"User-Agent": "selective-focus-bench", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if mark:
            headers["If-Range"] = mark
    try:
        request = urllib.request.Request(wanted.address, headers=headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            _receive(wanted, answer, have, progress)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            if error.headers.get("Content-Range", "") == f"bytes */{have}":
                return  # it is all here; the checks that follow say whether it is right
            _forget(wanted)
            raise DownloadError(
                f"{wanted.address}: is shorter now than what was fetched before", True
            ) from error
        raise DownloadError(f"{wanted.address}: the server says {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise DownloadError(f"{wanted.address}: cannot be fetched ({reason})", resumable=True) from error


def _receive(wanted: Wanted, answer: http.client.HTTPResponse, have: int, progress: Progress) -> None:
    start = have if answer.status == http.client.PARTIAL_CONTENT else 0
    if start and not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        _forget(wanted)
        raise DownloadError(f"{wanted.address}: the server sent another part than it was asked for", True)
    length = answer.headers.get("Content-Length")
    total = start + int(length) if length and length.isdigit() else None
    done = start
    _etag(wanted).write_text(answer.headers.get("ETag") or "")
    with wanted.partial.open("ab" if start else "wb") as file:
        while chunk := answer.read(CHUNK):
            file.write(chunk)
            done += len(chunk)
            progress(done, total)
    if total is not None and done < total:
        raise DownloadError(
            f"{wanted.address}: ended after {done} of {total} bytes; the same command goes on there",
            resumable=True,
        )


def _etag(wanted: Wanted) -> Path:
    """Beside the partial file: which state of the file on the server it is a part of."""
    return wanted.partial.with_suffix(".etag")


def _forget(wanted: Wanted) -> None:
    wanted.partial.unlink(missing_ok=True)
    _etag(wanted).unlink(missing_ok=True)
