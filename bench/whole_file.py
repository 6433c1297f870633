"""Files that appear whole or not at all, whatever stops the program."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from bench.errors import StoreError


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """An open file that takes the place of ``path`` when the block succeeds; until then what was there stays.

    Written as a temporary neighbour, synced to the disk, renamed; missing folders are made. Raises StoreError (one
    line) when the folder cannot be written or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")  # no two writers share one
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise StoreError(cannot_write(path, error)) from error
        raise


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file completely or leaves what was there; StoreError as for ``whole_file``."""
    with whole_file(path) as file:
        file.write(content)


def cannot_write(path: Path, error: OSError) -> str:
    """One line on why a path cannot be written, and what to do; a name from an archive may hold a line break."""
    path = Path(" ".join(str(path).splitlines()))
    if error.errno == errno.ENOSPC:
        return f"{path}: the disk is full; free some room or choose another folder (--results DIR for runs)"
    why = error.strerror or type(error).__name__
    return f"{path}: cannot be written ({why}); choose a folder of your own (--results DIR for runs)"


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself durable. Not every platform can open a folder; there the rename has to do."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
