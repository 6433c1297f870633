"""CULane's lane files: one lane a line, ``x y x y ...`` in pixels, separated by blanks."""

from __future__ import annotations

import math
import os
import re
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from datasets.errors import DatasetError, DatasetWarning

Points = npt.NDArray[np.float64]

FURTHEST = 32768
"""Pixels. Drawing lanes further out depends on the version of OpenCV."""

LARGEST_FILE = 16 * 2**20
"""Bytes. A real lane file has a few thousand."""

_FORMAT = "expected numbers 'x y x y ...' separated by blanks, one lane a line"
_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?![eE])")


class HasPoints(Protocol):
    """Anything with points [P, 2] in pixels, such as ``selective_focus.detector.Lane``."""

    @property
    def points(self) -> Points: ...


LaneLike: TypeAlias = "HasPoints | npt.ArrayLike"


def read_lanes(path: str | Path, mode: Literal["strict", "reference"] = "strict") -> list[Points]:
    """The lanes of one ``.lines.txt`` file, [P, 2] float64 pixels each, in the order of the file.

    A blank line is a lane without points, as in the C++ evaluator. ``strict`` raises DatasetError, with file,
    line and token, for whatever is no plain list of coordinate pairs, and warns of lanes that can match
    nothing. ``reference`` does what the evaluator does, in silence: a line counts up to its first flaw, and a
    file that cannot be opened has no lanes.
    """
    path = Path(path)
    if mode not in ("strict", "reference"):
        raise ValueError(f"mode must be 'strict' or 'reference', not {mode!r}")
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        if mode == "reference":
            return []
        raise DatasetError(
            f"{path}: cannot read this lane file ({error.strerror}); check the folder, and that an image without "
            f"lanes has an empty file"
        ) from None
    if mode == "reference":
        return [_until_first_flaw(line) for line in _lines(data.decode("latin-1"))]
    if len(data) > LARGEST_FILE:
        raise DatasetError(f"{path}: larger than {LARGEST_FILE} bytes, so not a lane file; {_FORMAT}")
    lanes = [_strict(path, number, line) for number, line in enumerate(_lines(_text(path, data)), start=1)]
    _warn_of_dead_lanes(path, lanes)
    return lanes


def write_lanes(path: str | Path, lanes: Iterable[LaneLike]) -> None:
    """Write lanes ([P, 2] pixels, or ``Lane``) so that they read back equal; the file appears whole or not at
    all.

    Numbers have their shortest decimal form. Missing folders are made. Raises DatasetError for points that
    ``read_lanes`` would refuse.
    """
    path = Path(path)
    lines = []
    for number, lane in enumerate(lanes, start=1):
        points = np.asarray(getattr(lane, "points", lane), dtype=np.float64)
        if points.size and (points.ndim != 2 or points.shape[1] != 2):
            raise DatasetError(
                f"{path}: lane {number} has the shape {list(points.shape)}; expected [points, 2], x and y in pixels"
            )
        if not (np.abs(points) <= FURTHEST).all():  # false for not-a-number as well
            raise DatasetError(
                f"{path}: lane {number} has a coordinate that is not a number within +-{FURTHEST}; drop the points "
                f"that lie far outside of the image before writing"
            )
        lines.append(" ".join(repr(value).removesuffix(".0") for value in points.ravel().tolist()) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="ascii", newline="\n") as file:
            file.write("".join(lines))
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _lines(text: str) -> list[str]:
    """Lines as the evaluator counts them: a last line needs no line break, and none follows the last break."""
    lines = text.split("\n")
    return lines if lines[-1] else lines[:-1]


def _text(path: Path, data: bytes) -> str:
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise DatasetError(f"{path}:1: begins with a byte order mark; save the file as plain ASCII text")
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DatasetError(
            f"{path}:{line}: the byte 0x{data[error.start]:02x} is not ASCII text; {_FORMAT}"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DatasetError(f"{path}:{line}: holds a NUL byte; {_FORMAT}; copy or write the file again")
    return text


def _strict(path: Path, number: int, line: str) -> Points:
    tokens = line.split()
    try:
        values = np.array([float(token) for token in tokens], dtype=np.float64)
        fine = "_" not in line and len(tokens) % 2 == 0 and bool((np.abs(values) <= FURTHEST).all())
    except ValueError:
        fine = False
    if not fine:
        raise DatasetError(f"{path}:{number}: {_flaw(tokens)}")
    return values.reshape(-1, 2)


def _flaw(tokens: list[str]) -> str:
    """What is wrong with the first bad token of a line that does not read."""
    for token in tokens:
        if "," in token or ";" in token:
            return f"{token[:40]!r} uses another separator; {_FORMAT}"
        try:
            value = float(token.replace("_", "?"))
        except ValueError:
            return f"{token[:40]!r} is not a number; {_FORMAT}"
        if not math.isfinite(value):
            return f"{token[:40]!r} is not a finite number; leave out points without a position"
        if abs(value) > FURTHEST:
            return f"{token[:40]!r} lies beyond +-{FURTHEST} pixels; leave out points so far outside of the image"
    return f"{len(tokens)} numbers, and the last, {tokens[-1][:40]!r}, has no partner; {_FORMAT}"


def _until_first_flaw(line: str) -> Points:
    """The pairs that come before the first thing that is not a number; an odd last number is dropped."""
    values: list[float] = []
    position = 0
    while (match := _NUMBER.match(line, position)) is not None and math.isfinite(value := float(match[1])):
        values.append(value)
        position = match.end()
    return np.array(values[: len(values) // 2 * 2], dtype=np.float64).reshape(-1, 2)


def _repeats(points: Points) -> bool:
    """Whether a point follows itself, in the single precision of the evaluator."""
    pairs = points.astype(np.float32).view(np.complex64)  # x and y compared at once
    return bool((pairs[1:] == pairs[:-1]).any())


def _warn_of_dead_lanes(path: Path, lanes: list[Points]) -> None:
    """One warning a file for lanes that count but can match nothing."""
    flaws = []
    for number, points in enumerate(lanes, start=1):
        if len(points) < 2:
            flaws.append(
                f"line {number} has {len(points)} points"
                if len(points) != 1
                else f"line {number} has 1 point"
            )
        elif len(points) > 2 and _repeats(points):
            flaws.append(f"line {number} repeats a point")
    if flaws:
        shown = ", ".join(flaws[:3]) + (f" and {len(flaws) - 3} more" if len(flaws) > 3 else "")
        message = f"{path}: {shown}; such a lane counts but cannot match, remove it if it is a mistake"
        warnings.warn(message, DatasetWarning, stacklevel=3)
