"""The input of CondLaneNet and GANet: the rows below the sky, in OpenCV's colour order, by CULane's statistics."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lane_models.road_crop import FRAME, RoadCrop

MEAN_BGR = (75.3, 76.6, 77.6)
STD_BGR = (50.5, 53.8, 54.3)
"""Of values in 0..255."""

CUT_HEIGHT = 270
"""Rows of a 590-row frame that are cut off the top."""

FloatArray = npt.NDArray[np.float64]


def network_input(
    image_bgr: npt.NDArray[np.uint8], size: tuple[int, int], crop: RoadCrop | None = None
) -> Tensor:
    """A frame [h, w, 3] uint8 -> [3, H, W] float32 of ``size`` (H, W); crop: of a small variant, replaces it all."""
    if crop is not None:
        return crop.normalise(crop.cut(image_bgr))
    top = round(CUT_HEIGHT * image_bgr.shape[0] / FRAME[0])
    image = cv2.resize(image_bgr[top:], size[::-1], interpolation=cv2.INTER_LINEAR)
    normalised = (image.astype(np.float32) - np.float32(MEAN_BGR)) / np.float32(STD_BGR)
    return torch.from_numpy(normalised).permute(2, 0, 1).contiguous()


def in_frame(
    points: FloatArray, size: tuple[int, int], image_size: tuple[int, int], crop: RoadCrop | None = None
) -> FloatArray:
    """Points [P, 2] in pixels of the network's image of ``size`` -> pixels of a frame of ``image_size`` (H, W)."""
    if crop is not None:
        return crop.to_frame(points, image_size)
    top = CUT_HEIGHT * image_size[0] / FRAME[0]
    scale = np.array([image_size[1] / size[1], (image_size[0] - top) / size[0]])
    return np.asarray(points * scale + (0, top))
