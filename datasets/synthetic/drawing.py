"""Filling projected shapes on a raster."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from .camera import Floats, Raster

_SHIFT = 4
_LIMIT = 400000.0  # fixed-point: keeps far-out points well inside 32 bits


class Canvas:
    """A uint8 image [H, W] or [H, W, C] on a raster; shapes are given in frame pixels."""

    def __init__(self, image: NDArray[np.uint8], raster: Raster) -> None:
        self.image = image
        self.raster = raster
        scale = np.array(raster.scale) * (1 << _SHIFT)
        self._scale = scale
        self._offset = np.array([0.5, 0.5 - raster.rows[0]]) * scale - (1 << _SHIFT) / 2
        self._edge = cv2.LINE_AA if raster.fine <= 2 else cv2.LINE_8

    def _fixed(self, points: Floats) -> NDArray[np.int32]:
        placed = points * self._scale
        placed += self._offset
        np.minimum(placed, _LIMIT, out=placed)
        np.maximum(placed, -_LIMIT, out=placed)
        return np.rint(placed, out=placed).astype(np.int32)

    def fill(self, points: Floats, colour: Sequence[float] | float) -> None:
        """Fill a polygon [P, 2]."""
        value = np.asarray(colour, float).ravel().tolist()
        cv2.fillPoly(self.image, [self._fixed(points)], value, self._edge, _SHIFT)

    def faces(self, points: Floats, counts: Sequence[int], colours: Floats) -> None:
        """Fill F polygons one after the other: each takes the next of `counts` [F] of `points` [N, 2].

        `colours` [F, C]. The same as `fill` for each, with one conversion of the points for all.
        """
        corners, start = self._fixed(points), 0
        for count, colour in zip(counts, colours.tolist(), strict=True):
            cv2.fillPoly(self.image, [corners[start : start + count]], colour, self._edge, _SHIFT)
            start += count

    def strips(self, left: Floats, right: Floats, values: Floats) -> None:
        """Fill N strips between edges [N, K, 2]; `values` [N, K - 1, C] is the colour of each of their quads."""
        a, b = self._fixed(left), self._fixed(right)
        corners = np.stack([a[:, :-1], a[:, 1:], b[:, 1:], b[:, :-1]], axis=2).reshape(-1, 4, 2)
        low, high = corners.min(axis=1), corners.max(axis=1)
        h, w = self.image.shape[:2]
        seen = (high[:, 0] >= 0) & (low[:, 0] < w << _SHIFT) & (high[:, 1] >= 0) & (low[:, 1] < h << _SHIFT)
        colours = values.reshape(len(corners), -1)[seen].tolist()
        for corner, colour in zip(corners[seen], colours, strict=True):
            cv2.fillConvexPoly(self.image, corner, colour, cv2.LINE_8, _SHIFT)

    def polygons(self, points: Floats, colour: Sequence[float]) -> None:
        """Fill N polygons [N, P, 2] of one colour."""
        colour = np.asarray(colour, float).tolist()
        for polygon in self._fixed(points):
            cv2.fillConvexPoly(self.image, polygon, colour, self._edge, _SHIFT)
