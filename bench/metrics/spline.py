"""The curve that CULane's C++ evaluator lays through the points of a lane.

A natural cubic spline of x and of y against the chord length. The order of the floating point operations is
part of the definition: the samples are rounded to pixels, and equal scores need equal pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

PixelArray = npt.NDArray[np.int32]

SAMPLES_PER_INTERVAL = 50
NOT_A_PIXEL = -(2**31)
"""What the reference's rounding makes of a value that is not a number or beyond 32 bits (x86: INT_MIN)."""


def pixel_paths(lanes: Sequence[npt.ArrayLike]) -> list[PixelArray]:
    """Lanes [P, 2] (x, y in pixels, any P) -> the pixels [M, 2] their curves visit, without repetitions.

    A lane of fewer than two points has no curve: M = 0. One whose curve is not a number (a point that follows
    itself) visits ``NOT_A_PIXEL`` and then its last point, which is what the reference draws.
    """
    paths = [np.empty((0, 2), dtype=np.int32)] * len(lanes)
    curved: list[int] = []
    points: list[npt.NDArray[np.float32]] = []
    for index, lane in enumerate(lanes):
        lane = np.asarray(lane, dtype=np.float32)
        if len(lane) == 2:
            paths[index] = _without_repetitions(_to_pixels(lane))
        elif len(lane) > 2:
            curved.append(index)
            points.append(lane)
    if curved:
        pixels = _to_pixels(_samples(points))
        ends = np.cumsum([SAMPLES_PER_INTERVAL * (len(lane) - 1) + 1 for lane in points])
        for index, path in zip(curved, np.split(pixels, ends[:-1]), strict=True):
            paths[index] = _without_repetitions(path)
    return paths


def _samples(lanes: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """The sampled curves of lanes of three and more points, one after the other: [sum(50 (P - 1) + 1), 2]."""
    steps = [np.diff(lane, axis=0).astype(np.float64) for lane in lanes]
    lengths = [np.sqrt((step**2).sum(axis=1)) for step in steps]
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = [step / length[:, None] for step, length in zip(steps, lengths, strict=True)]
    bends = [_second_derivatives(*pair) for pair in zip(lengths, slopes, strict=True)]

    start = np.concatenate([lane[:-1] for lane in lanes]).astype(np.float64)
    h = np.concatenate(lengths)[:, None]
    first = np.concatenate([bend[:-1] for bend in bends])
    second = np.concatenate([bend[1:] for bend in bends])
    with np.errstate(divide="ignore", invalid="ignore"):
        linear = np.concatenate(slopes) - (2 * h * first + h * second) / 6
        cubic = (second - first) / (6 * h)
    t = h / SAMPLES_PER_INTERVAL * np.arange(SAMPLES_PER_INTERVAL)
    # [intervals, 2, 50], summed from the constant to the cubic term, as the reference does
    with np.errstate(invalid="ignore", over="ignore"):
        curve = start[:, :, None] + linear[:, :, None] * t[:, None]
        curve += (first / 2)[:, :, None] * (t * t)[:, None]
        curve += cubic[:, :, None] * (t * t * t)[:, None]
        samples = curve.astype(np.float32).transpose(0, 2, 1).reshape(-1, 2)
    # The last input point closes each lane's list.
    ends = SAMPLES_PER_INTERVAL * np.cumsum([len(length) for length in lengths])
    return np.insert(samples, ends, [lane[-1] for lane in lanes], axis=0)


def _second_derivatives(
    lengths: npt.NDArray[np.float64], slopes: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Second derivatives [P, 2] of the natural spline at its P >= 3 points: Thomas's algorithm, no pivoting.

    Two identical neighbours (a length of 0) leave nothing but not-a-number at the inner points.
    """
    bends = np.zeros((len(lengths) + 1, 2))
    if not lengths.all():
        bends[1:-1] = np.nan
        return bends
    h = lengths.tolist()
    right = (6 * np.diff(slopes, axis=0)).tolist()
    upper: list[float] = []
    solution: list[tuple[float, float]] = []
    previous_upper = previous_x = previous_y = below = 0.0  # the first row has nothing on its left
    for i, (x, y) in enumerate(right):
        pivot = 2 * (h[i] + h[i + 1]) - below * previous_upper
        previous_upper = h[i + 1] / pivot
        previous_x = (x - below * previous_x) / pivot
        previous_y = (y - below * previous_y) / pivot
        below = h[i + 1]
        upper.append(previous_upper)
        solution.append((previous_x, previous_y))
    for i in range(len(solution) - 2, -1, -1):
        x, y = solution[i]
        next_x, next_y = solution[i + 1]
        solution[i] = (x - upper[i] * next_x, y - upper[i] * next_y)
    bends[1:-1] = solution
    return bends


def _to_pixels(samples: npt.NDArray[np.float32]) -> PixelArray:
    """Round half to even; what fits no 32-bit integer becomes ``NOT_A_PIXEL``, on every platform."""
    rounded = np.rint(samples)
    fits = np.abs(rounded) < 2.0**31  # false for not-a-number
    if fits.all():
        return rounded.astype(np.int32)
    return np.where(fits, rounded, 0).astype(np.int32) + np.where(fits, 0, NOT_A_PIXEL).astype(np.int32)


def _without_repetitions(pixels: PixelArray) -> PixelArray:
    """Drop every pixel that equals the one before it: drawing it again changes nothing."""
    keep = np.ones(len(pixels), dtype=bool)
    np.any(pixels[1:] != pixels[:-1], axis=1, out=keep[1:])
    return pixels[keep]
