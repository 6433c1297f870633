"""Lanes given as one x a row, counted from the bottom of the network's image: their points and their
labels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def lane_points(xs: npt.NDArray[np.floating], start: int, length: int) -> FloatArray:
    """Points [P, 2], top first, x and y relative to the network's image (y 0 at its top edge, 1 at its
    bottom).

    xs [R]: relative x of rows at equal distances from the bottom (row 0) to the top edge. Rows
    start..start+length-1 belong to the lane, without those left of the image; below ``start`` it is
    continued while it stays inside the image. (Official LaneATT and CLRNet decoding. A length below 1
    gives no rows above the start here; the official slice then wraps around.)
    """
    rows = len(xs)
    end = max(min(start + length - 1, rows - 1), -1)
    keep = (xs >= 0) & np.isfinite(xs)
    keep[end + 1 :] = False
    inside = keep[:start] & (xs[:start] <= 1)
    keep[:start] = np.logical_and.accumulate(inside[::-1])[::-1]
    ys = np.linspace(1.0, 0.0, rows)
    return np.stack([xs[keep], ys[keep]], axis=1).astype(np.float64)[::-1]


def lane_rows(
    points: FloatArray, size: tuple[int, int], rows: int
) -> tuple[npt.NDArray[np.float32], int, int]:
    """A label as (xs [R] in pixels, first row, number of rows); xs holds NaN where the lane has none.

    points [P, 2] in pixels of the network's image of ``size`` (H, W). The lane is continued in a straight
    line to the bottom edge (as LaneATT's labels are); only rows with x inside the image count. Zero rows:
    not in the image.
    """
    height, width = size
    order = np.argsort(points[:, 1], kind="stable")
    x, y = points[order, 0], points[order, 1]
    row_ys = np.linspace(height, 0, rows)
    xs = np.interp(row_ys, y, x, left=np.nan)
    below = row_ys > y[-1]
    if below.any() and len(y) > 1 and y[-1] > y[-2]:
        xs[below] = x[-1] + (row_ys[below] - y[-1]) * (x[-1] - x[-2]) / (y[-1] - y[-2])
    found = np.flatnonzero((xs >= 0) & (xs < width))
    if len(found) == 0:
        return np.full(rows, np.nan, np.float32), 0, 0
    outside = np.ones(rows, dtype=bool)
    outside[found[0] : found[-1] + 1] = False
    xs[outside] = np.nan
    return xs.astype(np.float32), int(found[0]), int(found[-1] - found[0] + 1)
