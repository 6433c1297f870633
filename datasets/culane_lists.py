"""CULane's list files: one image path a line, and how the names of files follow from each other."""

from __future__ import annotations

import re
import sys
from pathlib import Path, PurePosixPath

from datasets.errors import DatasetError

CATEGORIES = ("normal", "crowd", "hlight", "shadow", "noline", "arrow", "curve", "cross", "night")
"""CULane's own, in the order of their list files ``test0_normal.txt`` ... ``test8_night.txt``."""


def read_list(path: str | Path) -> list[str]:
    """The image names of a list file: relative, with ``/``, in its order.

    The first column counts; leading slashes, blank lines and Windows line ends are fine. Raises DatasetError, with
    the line, for a list that is unreadable or empty, names a frame twice, or leaves the data set's folder.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot read this list ({error.strerror}); check the data set folder"
        ) from None
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{path}: not UTF-8 text (byte {error.start}); save the list as plain text"
        ) from None
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        columns = line.split()
        if not columns:
            continue
        name = _relative(path, number, columns[0])
        if name in seen:
            raise DatasetError(
                f"{path}:{number}: {name!r} is already in line {seen[name]}; remove one of the two lines"
            )
        seen[name] = number
    if not seen:
        raise DatasetError(f"{path}: this list is empty; expected one image path a line")
    return list(seen)


def annotation_name(image: str) -> str:
    """The lane file that belongs to an image: ``a/00000.jpg`` -> ``a/00000.lines.txt``."""
    return str(PurePosixPath(image).with_suffix(".lines.txt"))


def _relative(path: Path, number: int, entry: str) -> str:
    """A list entry as a clean relative path; CULane's entries begin with a slash that means the data set."""
    name = PurePosixPath(entry.lstrip("/"))
    if ".." in name.parts or "\\" in entry or ":" in entry or "\0" in entry or entry.startswith("\ufeff"):
        raise DatasetError(
            f"{path}:{number}: {entry[:80]!r} is no path inside of the data set; expected one like "
            f"'/driver_37_30frame/05181432_0203.MP4/00000.jpg'"
        )
    if not name.suffix:
        raise DatasetError(
            f"{path}:{number}: {entry[:80]!r} is no image file; expected a name such as 00000.jpg"
        )
    return str(name)


def category_of(file: Path) -> str:
    """The category that a list of the test split is about: ``test0_normal.txt`` -> ``normal``."""
    return re.sub(r"^test\d+_", "", file.stem)


def category_order(file: Path) -> tuple[int, str]:
    """Sorts lists of the test split by their number, those without one last."""
    number = re.match(r"test(\d+)_", file.name)
    return (int(number[1]) if number else sys.maxsize, file.name)
