"""Lane files without anything unusual in them, read by compiled loops: equal numbers to ``datasets.lane_files``.

Whatever is not plain (flaws, exponents, long numbers, lanes worth a warning) is left to that reader.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.metrics.compiled import compiled
from datasets.lane_files import FURTHEST

MOST_DIGITS = 15
"""A number of so many digits and a power of ten are both exact, so their quotient is rounded as ``float`` rounds."""

LARGEST = 2**20
"""Bytes."""

SPACE, TAB, RETURN, NEWLINE, PLUS, MINUS, POINT, ZERO, NINE = b" \t\r\n+-.09"


def plain_lanes(data: bytes) -> list[npt.NDArray[np.float64]] | None:
    """The lanes of a file's bytes, [P, 2] pixels each; None unless the file is plain."""
    if len(data) > LARGEST:
        return None
    content = np.frombuffer(data, dtype=np.uint8)
    values = np.empty(len(data) // 2 + 1)
    ends = np.empty(data.count(b"\n") + 1, dtype=np.int64)
    lanes = _read(content, values, ends)
    if lanes < 0:
        return None
    begins = [0, *ends[:lanes].tolist()]
    points = values.reshape(-1, 1)[: begins[-1]].reshape(-1, 2)
    return [points[a // 2 : b // 2] for a, b in pairwise(begins)]


@compiled
def _read(content: Any, values: Any, ends: Any) -> int:
    """Fills in the numbers, and how many there are at the end of each line; the number of lines, -1 if not plain."""
    lines, count, begin, i = 0, 0, 0, 0
    while i < len(content):
        letter = content[i]
        if letter in (SPACE, TAB, RETURN):
            i += 1
        elif letter == NEWLINE:
            if not _is_lane(values[begin:count]):
                return -1
            ends[lines] = begin = count
            lines += 1
            i += 1
        else:
            i, values[count] = _number(content, i)
            if i < 0:
                return -1
            count += 1
    if len(content) and content[-1] != NEWLINE:
        if not _is_lane(values[begin:count]):
            return -1
        ends[lines] = count
        lines += 1
    return lines


@compiled
def _number(content: Any, i: int) -> tuple[int, float]:
    """Where a number ends, and its value; -1 unless it is a plain decimal within bounds."""
    negative = content[i] == MINUS
    if negative or content[i] == PLUS:
        i += 1
    whole, digits, power, fraction = np.int64(0), 0, 1.0, False
    while i < len(content):
        letter = content[i]
        if ZERO <= letter <= NINE:
            whole = 10 * whole + np.int64(letter - ZERO)
            digits += 1
            if digits > MOST_DIGITS:
                return -1, 0.0
            if fraction:
                power *= 10.0
        elif letter == POINT and not fraction:
            fraction = True
        elif letter in (SPACE, TAB, RETURN, NEWLINE):
            break
        else:
            return -1, 0.0
        i += 1
    value = np.float64(whole) / power
    if digits == 0 or value > FURTHEST:
        return -1, 0.0
    return i, -value if negative else value


@compiled
def _is_lane(values: Any) -> bool:
    """Whether a line has pairs, two at least, none of them the one before it in single precision."""
    if len(values) < 4 or len(values) % 2:
        return False
    for k in range(2, len(values), 2):
        repeats = np.float32(values[k]) == np.float32(values[k - 2])
        if len(values) > 4 and repeats and np.float32(values[k + 1]) == np.float32(values[k - 1]):
            return False
    return True
