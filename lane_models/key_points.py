"""Points on a heat map, by which CondLaneNet and GANet find lanes: their scores, labels and loss."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

Polyline = npt.NDArray[np.float64]


def scores(logits: Tensor) -> Tensor:
    """The probability of a point in every cell of a heat map's logits, float32."""
    return logits.float().sigmoid().clamp(1e-4, 1 - 1e-4)


def peak_scores(logits: Tensor, window: tuple[int, int]) -> Tensor:
    """The same of logits [N, 1, h, w], but 0 where a cell of the window (rows, columns) about it has more."""
    heat = scores(logits)
    return heat * (F.max_pool2d(heat, window, 1, (window[0] // 2, window[1] // 2)) == heat)


def row_columns(lane: Polyline, map_size: tuple[int, int], stride: int) -> npt.NDArray[np.float64]:
    """Where a polyline [P, 2] in network pixels crosses each row of cells, in cells [rows]; NaN outside.

    map_size: (rows, columns); row r is at r times the stride.
    """
    rows, columns = map_size
    order = np.argsort(lane[:, 1], kind="stable")
    x, y = lane[order, 0], lane[order, 1]
    xs = np.interp(np.arange(rows) * stride, y, x, left=np.nan, right=np.nan) / stride
    return np.where((xs >= 0) & (xs < columns - 1), xs, np.nan)


def heat_map(image: Tensor, points: Tensor, shape: tuple[int, int, int], blur: float) -> Tensor:
    """The heat map to be learned, [N, h, w]: 1 at cells (x, y) [K, 2] of the images [K], falling off about them.

    blur: standard deviation of the slope, in cells.
    """
    _, h, w = shape
    y = torch.arange(h, device=points.device)[:, None]
    x = torch.arange(w, device=points.device)
    target = torch.zeros(shape, device=points.device)
    for i, (column, row) in zip(image.tolist(), points.tolist(), strict=True):
        distance = (x - column) ** 2 + (y - row) ** 2
        target[i] = torch.maximum(target[i], torch.exp(-distance / (2 * blur**2)))
    return target


def focal(logits: Tensor, target: Tensor, alpha: float = 2.0, beta: float = 4.0) -> Tensor:
    """The focal loss of key points (Law and Deng 2018) of logits and a heat map [N, h, w], each point's share."""
    positive = target == 1
    score = logits.sigmoid()
    hit = -((1 - score) ** alpha) * F.logsigmoid(logits)
    miss = -((1 - target) ** beta) * score**alpha * F.logsigmoid(-logits)
    return torch.where(positive, hit, miss).sum() / positive.sum().clamp(min=1)
