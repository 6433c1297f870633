"""LaneATT's anchors: straight lines from the left, bottom and right edge of the image (Line-CNN, Li et
al. 2019).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

Anchors = npt.NDArray[np.float64]
"""[A, 3]: origin x (0 left .. 1 right), origin y (0 top .. 1 bottom), angle in degrees as LaneATT counts it:
dx/width = dy/height / tan(angle), dy upwards."""

Order = Literal["stable", "quicksort"]

LEFT = (72.0, 60.0, 49.0, 39.0, 30.0, 22.0)
BOTTOM = (165.0, 150.0, 141.0, 131.0, 120.0, 108.0, 100.0, 90.0, 80.0, 72.0, 60.0, 49.0, 39.0, 30.0, 15.0)
RIGHT = (108.0, 120.0, 131.0, 141.0, 150.0, 158.0)

CULANE = Path(__file__).with_name("culane_anchors.json")
"""How often each of the 2784 anchors matched a CULane training lane: data of LaneATT (MIT), see the file."""


def line_anchors(
    left: tuple[float, ...] = LEFT,
    bottom: tuple[float, ...] = BOTTOM,
    right: tuple[float, ...] = RIGHT,
    lateral_origins: int = 72,
    bottom_origins: int = 128,
) -> Anchors:
    """All anchors in LaneATT's order: sides left, bottom, right; origins from the bottom/right; then
    angles.
    """
    ys = np.linspace(1.0, 0.0, lateral_origins)
    xs = np.linspace(1.0, 0.0, bottom_origins)
    sides = (
        [(0.0, y, angle) for y in ys for angle in left],
        [(x, 1.0, angle) for x in xs for angle in bottom],
        [(1.0, y, angle) for y in ys for angle in right],
    )
    return np.array([anchor for side in sides for anchor in side])


def culane_anchors(order: Order = "stable", count: int = 1000) -> Anchors:
    """The anchors used most on CULane, most used first.

    The attention layer's columns are tied to this order, and 54 ties in it were broken by whatever sort
    the authors' PyTorch had: a checkpoint fits one order only. "stable" breaks ties by position,
    "quicksort" as old versions did on a CPU. Where it matters, take the one with the higher F1.
    """
    data = json.loads(CULANE.read_text())
    if order == "stable":
        chosen = np.argsort(-np.array(data["frequency"]), kind="stable")[:count]
    else:
        chosen = np.array(data["quicksort_order"])[:count]
    return line_anchors()[chosen]


def anchor_xs(anchors: Anchors, rows: int, width: int) -> npt.NDArray[np.float32]:
    """[A, rows]: x in pixels at rows from the bottom edge to the top edge, in the official float32
    arithmetic.
    """
    ys = np.linspace(1.0, 0.0, rows).astype(np.float32)
    one = np.float32(1)
    x, y = (anchors[:, i, None].astype(np.float32) for i in range(2))
    slope = np.tan(np.deg2rad(anchors[:, 2, None])).astype(np.float32)
    return np.asarray((x + (one - ys - one + y) / slope) * np.float32(width), dtype=np.float32)


def feature_columns(
    anchors: Anchors, size: tuple[int, int], stride: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Where an anchor reads the feature map: column [A, R] of every row (0 = top), and whether it may
    read there.

    R = H // stride: a last partial row of the map is never read. Columns left of the map, or more than
    one right of it, give zeros; the one just right of it reads the last column (so does the official code).
    """
    rows, columns = size[0] // stride, size[1] // stride
    column = np.round(anchor_xs(anchors, rows, size[1])[:, ::-1] / np.float32(stride)).astype(np.int64)
    return np.clip(column, 0, columns - 1), (column >= 0) & (column <= columns)


def cover(
    lanes: npt.NDArray[np.float32], candidates: Anchors, width: int, count: int, within: float
) -> npt.NDArray[np.int64]:
    """Indices of ``count`` candidates chosen greedily, each time the one that fits most lanes not fitted yet.

    lanes [L, rows] in pixels, NaN where a lane has no x. Fitted: mean |dx| below ``within`` pixels over
    the lane's rows from the anchor's start on. When every lane that can be is fitted, the search starts
    anew with 3/4 of the distance, for a finer set.
    """
    distance = _distances(lanes, candidates, width)
    chosen: list[int] = []
    while len(chosen) < count and within > 0.5:
        fits = distance < within
        open_lanes = ~fits[chosen].any(axis=0)
        while len(chosen) < count:
            gain = (fits & open_lanes).sum(axis=1)
            gain[chosen] = 0
            best = int(gain.argmax())
            if gain[best] == 0:
                break
            chosen.append(best)
            open_lanes &= ~fits[best]
        within *= 0.75
    # Too few lanes to tell candidates apart: the nearest ones.
    taken = set(chosen)
    others = [int(i) for i in distance.min(axis=1).argsort(kind="stable") if i not in taken]
    return np.array((chosen + others)[:count])


def _distances(lanes: npt.NDArray[np.float32], candidates: Anchors, width: int) -> npt.NDArray[np.float32]:
    rows = lanes.shape[1]
    xs = anchor_xs(candidates, rows, width)
    start = np.round((1 - candidates[:, 1]) * (rows - 1)).astype(int)
    result = np.full((len(candidates), len(lanes)), np.inf, dtype=np.float32)
    present = ~np.isnan(lanes)
    for i, line in enumerate(xs):
        counted = present[:, start[i] :]
        number = counted.sum(axis=1)
        total = np.where(counted, np.abs(lanes[:, start[i] :] - line[start[i] :]), 0).sum(axis=1)
        # An anchor that begins above a third of the lane describes another lane.
        whole = number >= 2 / 3 * present.sum(axis=1)
        result[i] = np.where(whole & (number > 0), total / np.maximum(number, 1), np.inf)
    return result
