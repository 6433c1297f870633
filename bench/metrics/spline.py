"""The curve that CULane's C++ evaluator lays through the points of a lane.

A natural cubic spline of x and of y against the chord length. The order of the floating point operations is part of
the definition: the samples are rounded to pixels, and equal scores need equal pixels. Many lanes are cheaper together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SAMPLES_PER_INTERVAL = 50
NOT_A_PIXEL = -(2**31)
"""What the reference's rounding makes of a value that is not a number or beyond 32 bits (x86: INT_MIN)."""


@dataclass(frozen=True, eq=False)
class PixelPaths:
    """The pixels that the curves of some lanes visit, none of them twice in a row.

    pixels: [2, S] int32, x and y, lane after lane. bounds: [lanes + 1], where each lane begins and ends.
    """

    pixels: npt.NDArray[np.int32]
    bounds: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, lane: int) -> npt.NDArray[np.int32]:
        """[2, M], the pixels of one lane."""
        return self.pixels[:, self.bounds[lane] : self.bounds[lane + 1]]


def pixel_paths(lanes: Sequence[npt.ArrayLike]) -> PixelPaths:
    """Lanes [P, 2] (x, y in pixels, any P) -> the pixels of their curves.

    A lane of fewer than two points has no curve and visits nothing. One whose curve is not a number (a point that
    follows itself) visits ``NOT_A_PIXEL`` and then its last point, which is what the reference draws.
    """
    points = [np.asarray(lane, dtype=np.float32).reshape(-1, 2).T for lane in lanes]
    curved = [lane for lane in points if lane.shape[1] > 2]
    samples = _samples(curved) if curved else np.empty((2, 0), dtype=np.float32)
    parts, used = [], 0
    for lane in points:
        intervals = lane.shape[1] - 1
        if intervals > 1:
            end = used + SAMPLES_PER_INTERVAL * intervals
            parts += [samples[:, used:end], lane[:, -1:]]  # the last input point closes the list
            used = end
        elif intervals == 1:
            parts.append(lane)
    if not parts:
        return PixelPaths(np.empty((2, 0), dtype=np.int32), np.zeros(len(points) + 1, dtype=np.int64))
    counts = [_sample_count(lane.shape[1]) for lane in points]
    return _without_repetitions(_to_pixels(np.concatenate(parts, axis=1)), np.cumsum([0, *counts]))


def _sample_count(points: int) -> int:
    return points if points == 2 else max(points - 1, 0) * SAMPLES_PER_INTERVAL + (points > 1)


def _samples(lanes: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """The sampled curves of lanes [2, P >= 3], without their last points: [2, sum(50 (P - 1))]."""
    joined = np.concatenate(lanes, axis=1)
    counts = np.array([lane.shape[1] for lane in lanes])
    within = np.ones(joined.shape[1] - 1, dtype=bool)
    within[np.cumsum(counts)[:-1] - 1] = False  # from one lane to the next
    step = np.diff(joined, axis=1)[:, within].astype(np.float64)
    h = np.sqrt(step[0] * step[0] + step[1] * step[1])
    with np.errstate(all="ignore"):  # a point that follows itself: all not-a-number, as in the reference
        slope = step / h
        first, second = _second_derivatives(h, slope, counts - 1)
        linear = slope - (2 * h * first + h * second) / 6
        cubic = (second - first) / (6 * h)
        t = (h / SAMPLES_PER_INTERVAL)[:, None] * np.arange(SAMPLES_PER_INTERVAL)
        # [2, intervals, 50], summed from the constant to the cubic term, as the reference does
        curve: npt.NDArray[np.float64] = linear[..., None] * t
        curve += joined[:, :-1][:, within, None]
        power = t * t
        curve += (first / 2)[..., None] * power
        power *= t
        curve += cubic[..., None] * power
        return curve.astype(np.float32).reshape(2, -1)


def _second_derivatives(
    h: npt.NDArray[np.float64], slope: npt.NDArray[np.float64], counts: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Second derivatives [2, intervals] of natural splines at the start and at the end of each interval.

    h: [intervals], slope: [2, intervals], of lanes of so many intervals, at least two each. Thomas's algorithm
    without pivoting, for all lanes at once; shorter lanes are filled up with rows whose solution is 0.
    """
    first = np.cumsum(counts) - counts
    lane = np.repeat(np.arange(len(counts)), counts)
    row = np.arange(len(h)) - first[lane]
    rows = int(counts.max())
    lower, upper = np.zeros((2, rows + 1, len(counts)))
    right = np.zeros((rows + 1, 2, len(counts)))
    diagonal = np.ones((rows + 1, len(counts)))
    inner = row > 0  # the row of an inner point is about the interval before it and the one after it
    at, of = row[inner], lane[inner]
    after = np.flatnonzero(inner)
    lower[at, of] = np.where(at > 1, h[after - 1], 0)
    upper[at, of] = h[after]
    diagonal[at, of] = 2 * (h[after - 1] + h[after])
    right[at, :, of] = (6 * (slope[:, after] - slope[:, after - 1])).T
    for i in range(1, rows):
        pivot = diagonal[i] - lower[i] * upper[i - 1]
        upper[i] /= pivot
        right[i] = (right[i] - lower[i] * right[i - 1]) / pivot
    for i in range(rows - 1, 0, -1):
        right[i] -= upper[i] * right[i + 1]
    return right[row, :, lane].T, right[row + 1, :, lane].T


def _to_pixels(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """Round half to even; what fits no 32-bit integer becomes ``NOT_A_PIXEL``, on every platform."""
    rounded = np.rint(samples)
    fits = np.abs(rounded) < 2.0**31  # false for not-a-number
    if not fits.all():
        rounded[~fits] = NOT_A_PIXEL
    return rounded.astype(np.int32)


def _without_repetitions(pixels: npt.NDArray[np.int32], bounds: npt.NDArray[np.int64]) -> PixelPaths:
    """Drop every pixel that equals the one before it: drawing it again changes nothing."""
    moved = pixels[:, 1:] != pixels[:, :-1]
    keep = np.ones(pixels.shape[1], dtype=bool)
    np.logical_or(moved[0], moved[1], out=keep[1:])
    keep[bounds[:-1][bounds[:-1] < len(keep)]] = True
    kept = np.concatenate([[0], np.cumsum(keep)])
    return PixelPaths(pixels[:, keep], kept[bounds])
