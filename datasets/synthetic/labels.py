"""Labels as CULane writes them: a point each 10 rows from the bottom of the frame up."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from .camera import HEIGHT, WIDTH, View

ROW_STEP = 10
OUTSIDE = 20  # px that a label may lie beyond the left or right border


def lane_points(view: View, u: float, margin: float) -> NDArray[np.float64]:
    """The line at `u` metres in frame pixels, [P, 2], rows 590, 580, ... to `margin` rows below the skyline.

    Points further than 20 px outside the frame are left out; of a line that leaves the frame and comes back
    only the nearest stretch is kept.
    """
    curve = view.project(u, view.depths)
    x, y = curve[:, 0], curve[:, 1]
    turn = np.flatnonzero(np.diff(y) >= 0)
    if len(turn):
        x, y = x[: turn[0] + 1], y[: turn[0] + 1]
    top = max(float(y[-1]), view.skyline + view.roll * (float(x[-1]) - view.vanish)) + margin
    rows = np.arange(HEIGHT, max(top, ROW_STEP), -ROW_STEP, dtype=np.float64)
    rows = rows[rows <= y[0]]
    columns = np.interp(rows, y[::-1], x[::-1])
    inside = (columns >= -OUTSIDE) & (columns <= WIDTH + OUTSIDE)
    start = int(np.argmax(inside)) if inside.any() else len(rows)
    leaves = np.flatnonzero(~inside[start:])
    stop = start + int(leaves[0]) if len(leaves) else len(rows)
    return np.stack([columns[start:stop], rows[start:stop]], axis=1)


def to_text(lanes: Sequence[NDArray[np.float64]]) -> str:
    """CULane's `.lines.txt`: a lane a line, `x y x y ...`; empty without lanes."""
    return "".join(" ".join(f"{x:.3f} {y:.0f}" for x, y in lane) + " \n" for lane in lanes)


def class_map(
    lanes: Sequence[NDArray[np.float64]], slots: Sequence[int], width: int = 16
) -> NDArray[np.uint8]:
    """[590, 1640] with 0 = background and 1..4 = lane slot, lanes drawn `width` px wide (for training)."""
    image = np.zeros((HEIGHT, WIDTH), np.uint8)
    for lane, slot in zip(lanes, slots, strict=True):
        points = np.round(lane * 16).astype(np.int32)
        cv2.polylines(image, [points], False, int(slot), width, cv2.LINE_8, 4)
    return image
