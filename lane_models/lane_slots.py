"""Lanes as classes of pixels in four slots, and whether each slot holds one: what SCNN and RESA share.

Heads, for N images:

    pixel_classes  [N, 5, h, w]  logits: background, then the slots from left to right
    existence      [N, 4, 1]     logit of each slot to hold a lane
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lane_models.road_crop import FRAME, RoadCrop
from selective_focus import Lane

SLOTS = 4
"""Places of a lane, from the left; 2 and 3 are the borders of the own lane. Class 0 is background."""

STRIDE = 8
"""Pixels of the input for one of the features that are classified."""

GAP = 20
"""Rows of a 590-row frame between two points of a lane."""
POINTS = 18
BLUR = 9
"""Side of the box that smooths a slot's probabilities, in network pixels."""
EXISTS = 0.5
VISIBLE = 0.3
"""Probabilities that a slot must exceed to hold a lane, and a pixel to be a point of it."""

FloatArray = npt.NDArray[np.float64]


class Existence(nn.Module):
    """Class probabilities [N, 5, h, w] at stride 8 -> logits of the four slots to hold a lane, [N, 4, 1].

    map_size: (h, w).
    """

    def __init__(self, map_size: tuple[int, int]) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(2, 2)
        self.linear1 = nn.Linear((SLOTS + 1) * (map_size[0] // 2) * (map_size[1] // 2), 128)
        self.relu = nn.ReLU()
        self.linear2 = nn.Linear(128, SLOTS)

    def forward(self, probabilities: Tensor) -> Tensor:
        x = self.relu(self.linear1(self.pool(probabilities).flatten(1)))
        return self.linear2(x).unsqueeze(-1)


class Reducer(nn.Module):
    """1x1 convolution, batch norm, ReLU: [N, C, h, w] -> [N, channels, h, w]."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn1(self.conv1(x)))


@dataclass(frozen=True)
class SlotRules:
    """How one set of weights is decoded.

    input_size: (H, W) of the network's image. rows: of it, where lanes have points, bottom first.
    ys: their y in a 590-row frame. xs: x in a 1640-wide frame of each column [W]; 0 says "no point".
    aligned: whether logits are resized with the corners' centres in place (``align_corners``).
    refine: columns on either side of the most probable one that are averaged; 0: none, as published.
    """

    input_size: tuple[int, int]
    rows: Sequence[int]
    ys: FloatArray
    xs: FloatArray
    aligned: bool = True
    refine: int = 0


def whole_frame_rules(size: tuple[int, int]) -> SlotRules:
    """The rules of pytorch-auto-drive for a frame that is not cut. size: (H, W) of the network's image."""
    height, width = size
    rows = [int(height - i * GAP / FRAME[0] * height - 1) for i in range(POINTS)]
    ys = np.asarray(FRAME[0] - GAP * np.arange(POINTS) - 1.0, dtype=np.float64)
    xs = np.floor(np.arange(width) / width * FRAME[1])
    return SlotRules(size, rows, ys, xs)


def crop_rules(crop: RoadCrop, refine: int) -> SlotRules:
    """The rules of a small variant: rows as far apart, from the lowest of the crop up; columns refined."""
    height = crop.size[0]
    top, bottom = crop.rows
    step = GAP * height / (bottom - top)
    rows = [round(height - 1 - i * step) for i in range(int((height - 1) / step) + 1)]
    ys = crop.to_frame(np.stack((np.zeros(len(rows)), rows), axis=1))[:, 1]
    return replace(whole_frame_rules(crop.size), rows=rows, ys=ys, refine=refine)


def class_logits(heads: Mapping[str, Tensor], size: tuple[int, int], aligned: bool = True) -> Tensor:
    """Logits of background and slots at the size (H, W) of the network's image, [N, 5, H, W], float32."""
    logits = heads["pixel_classes"].float()
    if logits.shape[-2:] == size:
        return logits
    return F.interpolate(logits, size, mode="bilinear", align_corners=aligned)


@torch.no_grad()
def decode(
    heads: Mapping[str, Tensor], rules: SlotRules, image_size: tuple[int, int] = FRAME
) -> list[list[Lane]]:
    """Heads of N images -> their lanes from left to right, in pixels of a frame of ``image_size`` (H, W).

    A lane's points run from the bottom up; rows without a probable column are left out. Its score is the
    slot's probability. Slots with values that are not finite hold none.
    """
    exists = heads["existence"][..., 0].float().sigmoid().cpu().numpy()
    maps = class_logits(heads, rules.input_size, rules.aligned).softmax(dim=1)[:, 1:].cpu().numpy()
    scale = np.array(image_size[::-1]) / FRAME[::-1]
    images = []
    for scores, slots in zip(exists, maps, strict=True):
        found = [(_points(slots[k], rules), float(scores[k])) for k in np.flatnonzero(scores > EXISTS)]
        images.append([Lane(points * scale, score) for points, score in found if len(points) > 1])
    return images


def foreground(heads: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every pixel's probability to be lane, [N, 1, h, w]; 1 for the slots' logits, which have no background."""
    return {
        "pixel_classes": 1 - heads["pixel_classes"].detach().softmax(dim=1)[:, :1],
        "existence": torch.ones_like(heads["existence"]),
    }


def geometry(heads: Mapping[str, Tensor], rules: SlotRules) -> tuple[Tensor, Tensor]:
    """Where the lanes are, differentiably: x in pixels of CULane's frame at R rows, weights [N, 4, R].

    x is the mean column of a slot's probabilities about the most probable one. The weight, without
    gradient, is the slot's probability times the row's highest.
    """
    logits = class_logits(heads, rules.input_size, rules.aligned)[:, :, list(rules.rows)]
    lines = logits.softmax(dim=1)[:, 1:]
    column = torch.arange(lines.shape[-1], dtype=lines.dtype, device=lines.device)
    near = (column - lines.argmax(dim=-1, keepdim=True)).abs() <= STRIDE
    share = lines * near
    mean = (share * column).sum(dim=-1) / share.sum(dim=-1).clamp(min=1e-12)
    weight = (heads["existence"].sigmoid() * lines.amax(dim=-1)).detach()
    return mean * (FRAME[1] / rules.input_size[1]), weight


def _points(probability: npt.NDArray[np.float32], rules: SlotRules) -> FloatArray:
    """Points [P, 2] of one slot's probabilities [H, W], in pixels of CULane's frame."""
    smooth = cv2.blur(probability, (BLUR, BLUR), borderType=cv2.BORDER_REPLICATE)
    lines = smooth[rules.rows]
    columns = lines.argmax(axis=1)
    visible = lines.max(axis=1) > VISIBLE
    if rules.refine == 0:
        xs = rules.xs[columns]
        visible &= xs > 0
    else:
        xs = _centres(lines, columns, rules.refine) * FRAME[1] / rules.input_size[1]
    return np.stack((xs, rules.ys), axis=1)[visible]


def _centres(lines: npt.NDArray[np.float32], columns: npt.NDArray[np.int64], reach: int) -> FloatArray:
    """The mean column about ``columns`` [R], weighted by lines [R, W]: finer than the features' cells."""
    near = columns[:, None] + np.arange(-reach, reach + 1)
    inside = (near >= 0) & (near < lines.shape[1])
    read = np.take_along_axis(lines, np.clip(near, 0, lines.shape[1] - 1), axis=1)
    weight = np.where(inside, read, 0).astype(np.float64)
    return np.asarray((weight * near).sum(axis=1) / np.maximum(weight.sum(axis=1), 1e-12))
