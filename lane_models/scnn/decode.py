"""From SCNN's heads to lanes: in each existing slot, the most probable column of every twentieth row."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from lane_models.road_crop import FRAME
from lane_models.scnn.model import SCNNConfig
from selective_focus import Lane

GAP = 20
"""Rows of a 590-row frame between two points of a lane."""
POINTS = 18
BLUR = 9
"""Side of the box that smooths a slot's probabilities, in network pixels."""
EXISTS = 0.5
VISIBLE = 0.3
"""Probabilities that a slot must exceed to hold a lane, and a pixel to be a point of it."""

FloatArray = npt.NDArray[np.float64]


def sampled_rows(config: SCNNConfig) -> tuple[list[int], FloatArray]:
    """Rows of the network's image where lanes have points, bottom first, and their y in a 590-row frame."""
    height = config.input_size[0]
    if config.crop is None:
        rows = [int(height - i * GAP / FRAME[0] * height - 1) for i in range(POINTS)]
        return rows, np.asarray(FRAME[0] - GAP * np.arange(POINTS) - 1.0, dtype=np.float64)
    top, bottom = config.crop.rows
    step = GAP * height / (bottom - top)
    rows = [round(height - 1 - i * step) for i in range(int((height - 1) / step) + 1)]
    return rows, config.crop.to_frame(np.stack((np.zeros(len(rows)), rows), axis=1))[:, 1]


def class_logits(heads: Mapping[str, Tensor], config: SCNNConfig) -> Tensor:
    """Logits of background and slots at the size of the network's image, [N, 5, H, W], float32."""
    logits = heads["pixel_classes"].float()
    return F.interpolate(logits, config.input_size, mode="bilinear", align_corners=True)


@torch.no_grad()
def decode(
    heads: Mapping[str, Tensor], config: SCNNConfig, image_size: tuple[int, int] = FRAME
) -> list[list[Lane]]:
    """Heads of N images -> their lanes from left to right, in pixels of a frame of ``image_size`` (H, W).

    A lane's points run from the bottom up; rows without a probable column are left out. Its score is the
    slot's probability. Slots with values that are not finite hold none.
    """
    exists = heads["existence"][..., 0].float().sigmoid().cpu().numpy()
    maps = class_logits(heads, config).softmax(dim=1)[:, 1:].cpu().numpy()
    scale = np.array(image_size[::-1]) / FRAME[::-1]
    rows = sampled_rows(config)
    images = []
    for scores, slots in zip(exists, maps, strict=True):
        found = [
            (_points(slots[k], config, *rows), float(scores[k])) for k in np.flatnonzero(scores > EXISTS)
        ]
        images.append([Lane(points * scale, score) for points, score in found if len(points) > 1])
    return images


def _points(
    probability: npt.NDArray[np.float32], config: SCNNConfig, rows: list[int], ys: FloatArray
) -> FloatArray:
    """Points [P, 2] of one slot's probabilities [H, W] at these rows, in pixels of CULane's frame."""
    smooth = cv2.blur(probability, (BLUR, BLUR), borderType=cv2.BORDER_REPLICATE)
    lines = smooth[rows]
    columns = lines.argmax(axis=1)
    visible = lines.max(axis=1) > VISIBLE
    width = config.input_size[1]
    if config.refine == 0:
        xs = np.floor(columns / width * FRAME[1])
        visible &= xs > 0  # in the official format 0 says "no point"
    else:
        xs = _centres(lines, columns, config.refine) * FRAME[1] / width
    return np.stack((xs, ys), axis=1)[visible]


def _centres(lines: npt.NDArray[np.float32], columns: npt.NDArray[np.int64], reach: int) -> FloatArray:
    """The mean column about ``columns`` [R], weighted by lines [R, W]: finer than the features' cells."""
    near = columns[:, None] + np.arange(-reach, reach + 1)
    inside = (near >= 0) & (near < lines.shape[1])
    read = np.take_along_axis(lines, np.clip(near, 0, lines.shape[1] - 1), axis=1)
    weight = np.where(inside, read, 0).astype(np.float64)
    return np.asarray((weight * near).sum(axis=1) / np.maximum(weight.sum(axis=1), 1e-12))
