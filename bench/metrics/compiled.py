"""The curves, strokes and intersections of ``spline`` and ``strokes`` as compiled loops: equal numbers, less time.

Needs Numba (the extra ``fast``). What no table of steps knows (long steps, corners of the image) is left to the caller.
Compiled code is kept beside this file, so that only a first process waits for the compiler.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from bench.metrics.spline import NOT_A_PIXEL, SAMPLES_PER_INTERVAL
from bench.metrics.step_strokes import LONGEST_STEP, UNKNOWN, StepStrokes
from bench.metrics.strokes import NOWHERE

__all__ = ["intersections", "pixels", "walk"]

MOST_PIECES = 64
"""Stretches of one vertical direction that a lane may have; one with more is drawn."""

compiled = njit(cache=True, error_model="numpy", nogil=True)


class _Table(NamedTuple):
    """``StepStrokes`` as the loops want it. first: [forms + 1], where the additions of each form begin and end."""

    half_widths: npt.NDArray[np.int16]
    clear: int
    form: npt.NDArray[np.int32]
    form_at: npt.NDArray[np.int32]
    first: npt.NDArray[np.int64]
    added_row: npt.NDArray[np.int64]
    added_side: npt.NDArray[np.int64]
    added_reach: npt.NDArray[np.int16]


def walk(
    points: npt.NDArray[np.float32],
    bounds: npt.NDArray[np.int64],
    image_size: tuple[int, int],
    strokes: StepStrokes,
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Runs [L, 2, H] of lanes, how many of these layers each lane has, and between which of its pixels, if any, it
    has to be drawn: [lanes, 2], first and end.

    points: [S, 2], lane after lane; bounds: [lanes + 1], where each begins and ends.
    """
    return _walk_all(points, bounds, *image_size, _table(strokes))


def pixels(points: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """[2, M], the pixels that a lane's curve visits, none twice in a row. points: [P, 2]."""
    path = np.empty((2, SAMPLES_PER_INTERVAL * len(points) + 2), dtype=np.int32)
    return path[:, : _trace(points, *path)]


def _table(strokes: StepStrokes) -> _Table:
    first = np.concatenate([[0], np.cumsum(strokes.additions)]).astype(np.int64)
    tables = (strokes.added_row, strokes.added_side, strokes.added_reach)
    return _Table(strokes.half_widths, strokes.clear, strokes.form, strokes.form_at, first, *tables)


@compiled
def intersections(
    runs: npt.NDArray[np.int16],
    lane: npt.NDArray[np.int64],
    others: npt.NDArray[np.int16],
    other_lane: npt.NDArray[np.int64],
    shared: npt.NDArray[np.int64],
) -> None:
    """Adds to shared [lanes, other lanes] the pixels that layers [L, 2, R] of either side have in common."""
    for i in range(len(runs)):
        for j in range(len(others)):
            total = 0
            for row in range(runs.shape[2]):
                end = min(runs[i, 1, row], others[j, 1, row])
                total += max(end - max(runs[i, 0, row], others[j, 0, row]), 0)
            shared[lane[i], other_lane[j]] += total


@compiled
def _walk_all(points: Any, bounds: Any, height: int, width: int, table: Any) -> Any:
    lanes = len(bounds) - 1
    longest = 0
    for lane in range(lanes):
        longest = max(longest, bounds[lane + 1] - bounds[lane])
    x, y, forms = np.empty((3, SAMPLES_PER_INTERVAL * longest + 2), np.int32)
    margin = 2 * table.clear
    # The furthest to the left (0) and right (1) of column 0 that each piece of a lane reaches, by row.
    reach = np.empty((MOST_PIECES, 2, height + 2 * margin), np.int16)
    centres = np.empty_like(reach)
    runs = np.empty((lanes + MOST_PIECES, 2, height), np.int16)
    layers = np.zeros(lanes, np.int64)
    to_draw = np.zeros((lanes, 2), np.int64)
    used = 0
    for lane in range(lanes):
        count = _trace(points[bounds[lane] : bounds[lane + 1]], x, y)
        first, last = _known(x[:count], y[:count], height, width, table, forms)
        shape, pieces = (height, width), 0
        for begin, end in ((0, first + 1), (last, count)):
            if end > begin + 1 and pieces <= MOST_PIECES:
                pieces += _walk(
                    x[begin:end],
                    y[begin:end],
                    forms[begin:],
                    shape,
                    margin,
                    table,
                    centres[pieces:],
                    reach[pieces:],
                )
        if count == 1 or pieces > MOST_PIECES:
            pieces, first, last = 0, 0, count - 1
        to_draw[lane] = (first, last + 1) if count == 1 or last > first else (0, 0)
        if used + pieces > len(runs):
            more = np.empty((2 * len(runs), 2, height), np.int16)
            more[:used] = runs[:used]
            runs = more
        layers[lane] = _join(reach[:pieces], margin, width, runs[used : used + pieces])
        used += layers[lane]
    return runs[:used], layers, to_draw


@compiled
def _trace(points: Any, x: Any, y: Any) -> int:
    """The pixels that a lane's curve visits, none twice in a row, into x and y; how many."""
    count = len(points)
    if count < 2:
        return 0
    if count == 2:
        for i in range(2):
            x[i], y[i] = _pixel(points[i, 0]), _pixel(points[i, 1])
        return 1 if x[0] == x[1] and y[0] == y[1] else 2
    intervals = count - 1
    h = np.empty(intervals)
    slope = np.empty((2, intervals))
    for i in range(intervals):
        dx, dy = np.float64(points[i + 1, 0] - points[i, 0]), np.float64(points[i + 1, 1] - points[i, 1])
        h[i] = np.sqrt(dx * dx + dy * dy)
        slope[0, i], slope[1, i] = dx / h[i], dy / h[i]
    bend = _second_derivatives(h, slope)
    sample = np.empty((2, SAMPLES_PER_INTERVAL), np.float32)
    visited = 0
    for i in range(intervals):
        for axis in range(2):
            first, second = bend[axis, i], bend[axis, i + 1]
            start = np.float64(points[i, axis])
            linear = slope[axis, i] - (2 * h[i] * first + h[i] * second) / 6
            square, cubic = first / 2, (second - first) / (6 * h[i])
            for k in range(SAMPLES_PER_INTERVAL):
                t = h[i] / SAMPLES_PER_INTERVAL * k
                sample[axis, k] = np.rint(
                    np.float32(linear * t + start + square * (t * t) + cubic * (t * t * t))
                )
        for k in range(SAMPLES_PER_INTERVAL):
            visited = _visit(_whole(sample[0, k]), _whole(sample[1, k]), x, y, visited)
    return _visit(_pixel(points[intervals, 0]), _pixel(points[intervals, 1]), x, y, visited)


@compiled
def _second_derivatives(h: Any, slope: Any) -> Any:
    """[2, points] of a natural spline; the same eliminations as ``spline._second_derivatives``."""
    intervals = len(h)
    upper = np.zeros(intervals)
    bend = np.zeros((2, intervals + 1))
    for i in range(1, intervals):
        lower = h[i - 1] if i > 1 else 0.0
        pivot = 2 * (h[i - 1] + h[i]) - lower * upper[i - 1]
        upper[i] = h[i] / pivot
        for axis in range(2):
            right = 6 * (slope[axis, i] - slope[axis, i - 1])
            bend[axis, i] = (right - lower * bend[axis, i - 1]) / pivot
    for i in range(intervals - 1, 0, -1):
        for axis in range(2):
            bend[axis, i] -= upper[i] * bend[axis, i + 1]
    return bend


@compiled
def _visit(px: int, py: int, x: Any, y: Any, visited: int) -> int:
    """Adds a pixel to a path unless the path is there already; the new length."""
    if visited and x[visited - 1] == px and y[visited - 1] == py:
        return visited
    x[visited], y[visited] = px, py
    return visited + 1


@compiled
def _pixel(value: Any) -> Any:
    return _whole(np.rint(value))


@compiled
def _whole(value: Any) -> Any:
    """A rounded float32 as a pixel; not-a-number and what needs more than 32 bits are NOT_A_PIXEL."""
    return np.int32(value) if abs(value) < np.float32(2.0**31) else np.int32(NOT_A_PIXEL)


@compiled
def _known(x: Any, y: Any, height: int, width: int, table: Any, forms: Any) -> tuple[int, int]:
    """Writes the form of each step of a path; the pixels between which it has to be drawn, equal if nowhere."""
    first, last = len(x) - 1, len(x) - 1
    for i in range(len(x) - 1):
        dx, dy = np.int64(x[i + 1]) - np.int64(x[i]), np.int64(y[i + 1]) - np.int64(y[i])
        forms[i] = _form(x[i], y[i], dx, dy, height, width, table)
        if forms[i] == UNKNOWN:
            first, last = min(first, i), i + 1
    return first, last


@compiled
def _walk(
    x: Any, y: Any, forms: Any, shape: tuple[int, int], margin: int, table: Any, centres: Any, reach: Any
) -> int:
    """How far each piece of a stretch of known steps reaches, into ``reach``; the number of pieces.

    centres: [pieces, 2, rows] like reach, of the path itself. More pieces than there is room for are only counted.
    """
    pieces, direction = 0, 0
    for i in range(len(x) - 1):
        dy = np.int64(y[i + 1]) - np.int64(y[i])
        column, row = _shown(x[i], shape[1], table.clear), _shown(y[i], shape[0], table.clear) + margin
        turned = dy * direction < 0
        if turned:
            _reach_out(centres[pieces - 1], row, column)  # the pixel of a turn belongs to both pieces
        if i == 0 or turned:
            pieces += 1
            if pieces > len(reach):
                return pieces
            centres[pieces - 1], reach[pieces - 1] = NOWHERE, NOWHERE
        direction = dy if dy else direction
        _reach_out(centres[pieces - 1], row, column)
        for a in range(table.first[forms[i]], table.first[forms[i] + 1]):
            outward = (column if table.added_side[a] else -column) + table.added_reach[a]
            place = row + table.added_row[a]
            if outward > reach[pieces - 1, table.added_side[a], place]:
                reach[pieces - 1, table.added_side[a], place] = outward
    if pieces:
        column, row = _shown(x[-1], shape[1], table.clear), _shown(y[-1], shape[0], table.clear) + margin
        _reach_out(centres[pieces - 1], row, column)
    for piece in range(pieces):
        for side in range(2):
            _add_discs(centres[piece, side], table.half_widths, reach[piece, side])
    return pieces


@compiled
def _reach_out(centres: Any, row: int, column: int) -> None:
    if -column > centres[0, row]:
        centres[0, row] = -column
    if column > centres[1, row]:
        centres[1, row] = column


@compiled
def _add_discs(centres: Any, half_widths: Any, reach: Any) -> None:
    """Raises what one side reaches, [rows], by the discs on the furthest pixels of each row."""
    first, last = 0, len(centres) - 1
    while centres[first] == NOWHERE:
        first += 1
    while centres[last] == NOWHERE:
        last -= 1
    radius = len(half_widths) // 2
    for k in range(len(half_widths)):
        half_width = half_widths[k]
        inner, outer = centres[first : last + 1], reach[first + k - radius : last + 1 + k - radius]
        for row in range(len(inner)):
            outer[row] = max(outer[row], np.int16(inner[row] + half_width))


@compiled
def _form(px: int, py: int, dx: int, dy: int, height: int, width: int, table: Any) -> int:
    """The form of the stroke of one step, UNKNOWN if it has to be drawn."""
    if abs(dx) > LONGEST_STEP or abs(dy) > LONGEST_STEP:
        return UNKNOWN
    px, py = np.int64(px), np.int64(py)  # the smallest int32 has no positive counterpart
    number = (dx + LONGEST_STEP) * (2 * LONGEST_STEP + 1) + dy + LONGEST_STEP
    clear = table.clear
    left, right, top, bottom = px, width - 1 - px, py, height - 1 - py
    beside = abs(left) <= clear or abs(right) <= clear
    if abs(top) <= clear or abs(bottom) <= clear:
        if beside:
            return UNKNOWN  # in a corner two borders work together
        border, inside = (2, top) if abs(top) <= clear else (3, bottom)
        return np.int64(table.form_at[border, inside + clear, number])
    if beside:
        border, inside = (0, left) if abs(left) <= clear else (1, right)
        return np.int64(table.form_at[border, inside + clear, number])
    return np.int64(table.form[number])


@compiled
def _shown(place: int, size: int, clear: int) -> int:
    """A coordinate, or one just far enough outside of the image that nothing shows."""
    return min(max(np.int64(place), -clear), size - 1 + clear)


@compiled
def _join(reach: Any, margin: int, width: int, runs: Any) -> int:
    """Disjoint runs [pieces, 2, H] of what the pieces of one lane cover; how many layers hold any."""
    pieces, height = len(reach), runs.shape[2]
    for piece in range(pieces):
        for row in range(height):
            start = min(max(-reach[piece, 0, row + margin], 0), width)
            runs[piece, 0, row] = start
            runs[piece, 1, row] = min(max(reach[piece, 1, row + margin] + 1, start), width)
    if pieces < 2:
        return pieces
    most = 0
    for row in range(height):
        most = max(most, _merge(runs[:, 0, row], runs[:, 1, row]))
    return most


@compiled
def _merge(starts: Any, ends: Any) -> int:
    """Sorts the runs of one row and merges those that touch, in place; how many are left, the others are empty."""
    filled = 0
    for i in range(len(starts)):
        start, end = starts[i], ends[i]
        if start == end:
            continue
        place = filled
        while place > 0 and starts[place - 1] > start:
            starts[place], ends[place] = starts[place - 1], ends[place - 1]
            place -= 1
        starts[place], ends[place] = start, end
        filled += 1
    merged = 0
    for i in range(filled):
        if merged and starts[i] <= ends[merged - 1]:
            ends[merged - 1] = max(ends[merged - 1], ends[i])
        else:
            starts[merged], ends[merged] = starts[i], ends[i]
            merged += 1
    starts[merged:] = 0
    ends[merged:] = 0
    return merged
