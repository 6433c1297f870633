"""What a lane covers when the CULane evaluator draws it, as runs of pixels in rows instead of a picture.

The stroke of a path is the union of OpenCV's 8-connected lines of some thickness between successive pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from bench.metrics.spline import PixelArray

RunArray = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Strokes:
    """The strokes of the lanes of one image, as layers of at most one run a row, disjoint within a lane.

    starts, ends: [L, H], half open, in pixels; an empty run has start = end. lane: [L], ascending, the lane
    that each layer belongs to. areas: [count], pixels of each lane. curveless: [count], true for a lane of fewer
    than two points, which has no curve to draw.
    """

    starts: RunArray
    ends: RunArray
    lane: npt.NDArray[np.intp]
    areas: npt.NDArray[np.int64]
    curveless: npt.NDArray[np.bool_]

    def intersections(self, other: Strokes) -> npt.NDArray[np.int64]:
        """Pixels that lane i of self and lane j of other share: [count, other count]."""
        shared = np.minimum(self.ends[:, None], other.ends) - np.maximum(self.starts[:, None], other.starts)
        by_layer = np.maximum(shared, 0).sum(axis=2)
        result = np.zeros((len(self.areas), len(other.areas)), dtype=np.int64)
        np.add.at(result, (self.lane[:, None], other.lane), by_layer)
        return result


def draw(paths: Sequence[PixelArray], image_size: tuple[int, int], thickness: int) -> Strokes:
    """Strokes of paths [M, 2] (x, y) on an image of size (H, W)."""
    layers = [_drawn_layers(path, image_size, thickness) for path in paths]
    runs = np.concatenate([np.empty((0, 2, image_size[0]), dtype=np.int32), *layers])
    lane = np.repeat(np.arange(len(paths)), [len(layer) for layer in layers])
    areas = np.zeros(len(paths), dtype=np.int64)
    np.add.at(areas, lane, (runs[:, 1] - runs[:, 0]).sum(axis=1))
    curveless = np.array([len(path) == 0 for path in paths], dtype=bool)
    return Strokes(runs[:, 0], runs[:, 1], lane, areas, curveless)


def _drawn_layers(path: PixelArray, image_size: tuple[int, int], thickness: int) -> RunArray:
    """Runs [layers, 2, H] of one path, read off a drawing."""
    height, width = image_size
    if len(path) == 0:
        return np.empty((0, 2, height), dtype=np.int32)
    # A smaller canvas may only cut where nothing is drawn: OpenCV clips an outline before it fills it in, so
    # a cut through a stroke can change pixels along the cut.
    margin = thickness // 2 + 3
    left, top = np.clip(path.min(axis=0).astype(np.int64) - margin, 0, (width, height))
    right, bottom = np.clip(path.max(axis=0).astype(np.int64) + margin + 1, 0, (width, height))
    if path.min() < -(2**30):  # a curve that is not a number: integers are at their limit, so shift nothing
        left, top, right, bottom = 0, 0, width, height
    if left >= right or top >= bottom:
        return np.empty((0, 2, height), dtype=np.int32)
    canvas = np.zeros((bottom - top, right - left), dtype=np.uint8)
    if len(path) == 1:
        path = np.repeat(path, 2, axis=0)  # a line to itself is a disc; a polyline of one point is nothing
    cv2.polylines(canvas, [path - np.array([left, top], dtype=np.int32)], False, 1, thickness)
    return _runs(canvas, int(left), int(top), height)


def _runs(canvas: npt.NDArray[np.uint8], left: int, top: int, height: int) -> RunArray:
    """The runs of ones in a canvas with its corner at (left, top) of an image of H rows: [layers, 2, H]."""
    edges = np.diff(canvas.astype(np.int8), axis=1, prepend=0, append=0)
    rows, starts = np.nonzero(edges > 0)
    ends = np.nonzero(edges < 0)[1]
    first_of_row = np.searchsorted(rows, rows)
    layer = np.arange(len(rows)) - first_of_row
    runs = np.zeros((layer.max(initial=-1) + 1, 2, height), dtype=np.int32)
    runs[layer, 0, rows + top] = starts + left
    runs[layer, 1, rows + top] = ends + left
    return runs
