"""From GANet's heads to lanes, in floating point: key points, grouped by where they say their lane starts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lane_models.below_sky import in_frame
from lane_models.ganet.model import STRIDE, GANetConfig
from lane_models.key_points import peak_scores
from lane_models.road_crop import FRAME
from selective_focus import Lane

FloatArray = npt.NDArray[np.float64]


def key_points(heads: Mapping[str, Tensor]) -> Tensor:
    """The probability of a key point, [N, 1, h, w]; 0 where the cell to the left or right has more."""
    return peak_scores(heads["keypoint_map"], (1, 3))


def at_points(heads: Mapping[str, Tensor], name: str) -> Tensor:
    """Cells (x, y) plus their offsets ``name``, [N, 2, h, w], in cells, differentiably."""
    offsets = heads[name]
    h, w = offsets.shape[2:]
    x = torch.arange(w, dtype=offsets.dtype, device=offsets.device).expand(h, w)
    y = torch.arange(h, dtype=offsets.dtype, device=offsets.device)[:, None].expand(h, w)
    return torch.stack((x, y)) + offsets


def groups_of(roots: FloatArray, radius: float) -> npt.NDArray[np.int64]:
    """Roots [K, 2] in cells -> the group of each, counted in the order in which groups begin.

    In order, each joins the first group that has a member within ``radius``, or begins a new one.
    """
    group = np.zeros(len(roots), dtype=np.int64)
    count = 0
    for i, root in enumerate(roots):
        near = np.square(roots[:i] - root).sum(axis=1) <= radius**2
        group[i] = group[:i][near].min(initial=count)
        count = max(count, group[i] + 1)
    return group


@torch.no_grad()
def decode(
    heads: Mapping[str, Tensor], config: GANetConfig, image_size: tuple[int, int] = FRAME
) -> list[list[Lane]]:
    """Heads of N images -> their lanes, in pixels of a frame of ``image_size`` (H, W).

    Each network's own key points count. A lane's points run from the top down, one or several a row, in whole pixels
    of CULane's frame as published (small variant: in fractions); its score, which the official code does not give, is
    the mean of theirs. Key points with values that are not finite are left out.
    """
    peaks = key_points(heads)[:, 0].cpu().numpy()
    points, roots = (
        at_points(heads, name).permute(0, 2, 3, 1).cpu().double().numpy()
        for name in ("cell_offsets", "root_offsets")
    )
    scale = np.array(image_size[::-1]) / FRAME[::-1]
    return [_lanes(*one, config, scale) for one in zip(peaks, points, roots, strict=True)]


def _lanes(
    peaks: npt.NDArray[np.float32],
    points: FloatArray,
    roots: FloatArray,
    config: GANetConfig,
    scale: FloatArray,
) -> list[Lane]:
    finite = np.isfinite(points).all(axis=2) & np.isfinite(roots).all(axis=2)
    chosen = (peaks > config.threshold) & finite
    found, score = points[chosen], peaks[chosen]
    frame = in_frame(found * STRIDE, config.input_size, FRAME, config.crop)
    if config.crop is None:
        frame = np.trunc(frame)
    group = groups_of(roots[chosen], config.radius)
    members = [group == g for g in range(group.max(initial=-1) + 1)]
    return [Lane(frame[m] * scale, float(score[m].mean())) for m in members if m.sum() > config.least]
