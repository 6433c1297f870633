"""The input of the small ("synthetic") variants: the rows below the sky, shrunk, in OpenCV's colour order."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FRAME = (590, 1640)
"""(H, W) of CULane's frames, in which the crop is stated."""


@dataclass(frozen=True)
class RoadCrop:
    """Rows ``rows`` of a 590-row frame (in proportion for other heights), resized to ``size`` (H, W)."""

    rows: tuple[int, int] = (206, 590)
    size: tuple[int, int] = (128, 384)
    mean: float = 0.4
    std: float = 0.25

    def rows_in(self, height: int) -> tuple[int, int]:
        """The first row of the crop and the one after its last, in a frame of this height."""
        top, bottom = (round(row * height / FRAME[0]) for row in self.rows)
        return top, bottom

    def cut(self, image_bgr: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A frame [h, w, 3] -> [H, W, 3], still uint8. Averages areas when shrinking, so that thin lines
        survive.
        """
        top, bottom = self.rows_in(image_bgr.shape[0])
        road = image_bgr[top:bottom]
        shrinks = road.shape[0] >= self.size[0] and road.shape[1] >= self.size[1]
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(road, self.size[::-1], interpolation=method), dtype=np.uint8)

    def normalise(self, images: npt.NDArray[np.uint8]) -> Tensor:
        """uint8 [..., H, W, 3] -> float32 [..., 3, H, W], about zero mean and unit deviation."""
        x = torch.from_numpy(np.ascontiguousarray(images)).movedim(-1, -3).float()
        return (x / 255 - self.mean) / self.std

    def to_network(
        self, points: npt.NDArray[np.float64], image_size: tuple[int, int] = FRAME
    ) -> npt.NDArray[np.float64]:
        """Points [P, 2] in pixels of a frame of ``image_size`` (H, W) -> pixels of the network's image."""
        scale, shift = self._scale(image_size)
        return (np.asarray(points, dtype=np.float64) - shift) / scale

    def to_frame(
        self, points: npt.NDArray[np.float64], image_size: tuple[int, int] = FRAME
    ) -> npt.NDArray[np.float64]:
        """The inverse of ``to_network``."""
        scale, shift = self._scale(image_size)
        return np.asarray(points, dtype=np.float64) * scale + shift

    def _scale(self, image_size: tuple[int, int]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        top, bottom = self.rows_in(image_size[0])
        scale = np.array([image_size[1] / self.size[1], (bottom - top) / self.size[0]])
        return scale, np.array([0.0, top])
