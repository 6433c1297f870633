"""Unpacking archives from outside: nothing leaves the folder, no links, no more than was allowed for."""

from __future__ import annotations

import errno
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from bench.errors import BenchError
from bench.whole_file import cannot_write

CHUNK = 2**20
LONGEST_NAME, LONGEST_PATH = 255, 2048
"""Bytes of one name, characters of a path: what file systems take."""


class ArchiveError(BenchError):
    """An archive that is damaged, or that no honest project would publish."""


@dataclass(frozen=True)
class Limits:
    """The most that an archive may hold: entries, and bytes of all files unpacked."""

    entries: int
    size: int


@dataclass(frozen=True)
class _Member:
    """An entry: a regular file that can be opened, or a folder (open is None)."""

    name: str
    size: int
    open: Callable[[], IO[bytes]] | None


def unpack(archive: Path, folder: Path, limits: Limits, pattern: str = "*") -> list[Path]:
    """Files of a .zip, .tar or .tar.gz whose names match ``pattern`` (shell style) appear below ``folder``.

    All entries are checked, wanted or not. Nothing appears before the whole archive was unpacked beside ``folder``;
    then existing files are replaced. Returns the new files, none if nothing matches. Raises ArchiveError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=folder) as name:
        stage = Path(name)
        files = list(_unpacked(archive, stage, limits, pattern))
        for relative in files:
            target = folder / relative
            _check_inside(folder, target, archive)
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(stage / relative, target)
            except OSError as error:
                raise ArchiveError(cannot_write(target, error)) from error
    return [folder / relative for relative in files]


def _unpacked(archive: Path, stage: Path, limits: Limits, pattern: str) -> Iterator[Path]:
    entries, written = 0, 0
    try:
        with ExitStack() as stack:
            for member in _members(archive, stack):
                entries += 1
                if entries > limits.entries:
                    raise ArchiveError(f"{archive}: holds more than {limits.entries} entries; {_REFUSED}")
                relative = _safe(member.name, archive)
                if member.open is None or not fnmatchcase(member.name, pattern):
                    continue
                if written + member.size > limits.size:
                    raise ArchiveError(f"{archive}: unpacks to more than {limits.size} bytes; {_REFUSED}")
                target = stage / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                with member.open() as source, target.open("xb") as file:
                    written += _copy(source, file, limits.size - written, archive)
                yield relative
    except ArchiveError:
        raise
    except FileExistsError as error:
        name = str(Path(error.filename).relative_to(stage))
        raise ArchiveError(f"{archive}: holds {name!r} twice; {_REFUSED}") from error
    except Exception as error:  # what tarfile and zipfile say to damaged archives is open-ended
        if isinstance(error, OSError) and error.errno in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EROFS,
            errno.EACCES,
        ):
            raise ArchiveError(cannot_write(stage, error)) from error
        raise ArchiveError(
            f"{archive}: damaged or cut short ({' '.join(str(error).split())[:100]}); delete it and download it again"
        ) from error


_REFUSED = "refused; unpack it by hand if you trust it"


def _members(archive: Path, stack: ExitStack) -> Iterator[_Member]:
    """The entries of an archive in their order, links and devices refused."""
    if zipfile.is_zipfile(archive):
        zipped = stack.enter_context(zipfile.ZipFile(archive))
        for info in zipped.infolist():
            mode = info.external_attr >> 16
            if mode & 0o170000 not in (0, 0o100000, 0o040000):
                raise ArchiveError(f"{archive}: {info.filename!r} is a link or a device; {_REFUSED}")
            opener = None if info.filename.endswith("/") else lambda info=info: zipped.open(info)
            yield _Member(info.filename, info.file_size, opener)
        return
    try:
        tarred = stack.enter_context(tarfile.open(archive, "r|*"))  # noqa: SIM115
    except Exception as error:  # open-ended, as above
        raise ArchiveError(f"{archive}: neither a zip nor a tar archive; download it again") from error
    for entry in tarred:
        if not (entry.isreg() or entry.isdir()):
            raise ArchiveError(f"{archive}: {entry.name!r} is a link or a device; {_REFUSED}")
        opener = None if entry.isdir() else lambda entry=entry: _content(tarred, entry)
        yield _Member(entry.name, entry.size, opener)


def _content(tarred: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    content = tarred.extractfile(entry)
    assert content is not None  # it is a regular file
    return content


def _safe(name: str, archive: Path) -> Path:
    """The entry's path if it stays below the folder on every system."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    outside = posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts
    if outside or "\0" in name or not name.strip("./"):
        if name.strip("/") == ".":
            return Path(".")
        raise ArchiveError(f"{archive}: {name!r} would be written outside the folder; {_REFUSED}")
    if any(len(part.encode()) > LONGEST_NAME for part in posix.parts) or len(name) > LONGEST_PATH:
        raise ArchiveError(f"{archive}: {name[:40]!r}... is too long a name; {_REFUSED}")
    return Path(*posix.parts)


def _check_inside(folder: Path, target: Path, archive: Path) -> None:
    """Refuses to write through a link that leads out of the folder."""
    if not target.resolve().is_relative_to(folder.resolve()):
        raise ArchiveError(f"{archive}: {target} lies outside {folder} by way of a link; remove that link")


def _copy(source: IO[bytes], target: IO[bytes], room: int, archive: Path) -> int:
    """Copies at most ``room`` bytes: what headers say of sizes need not be true."""
    written = 0
    while chunk := source.read(CHUNK):
        written += len(chunk)
        if written > room:
            raise ArchiveError(f"{archive}: unpacks to more than was allowed; {_REFUSED}")
        target.write(chunk)
    return written


def room_for(archive: Path, folder: Path, factor: float = 1.1) -> None:
    """Raises ArchiveError when the disk cannot take the archive's size once more."""
    free, needed = shutil.disk_usage(folder).free, factor * archive.stat().st_size
    if free < needed:
        raise ArchiveError(
            f"{folder}: {free / 1e9:.1f} GB free, about {needed / 1e9:.1f} GB are needed to unpack {archive.name}"
        )
