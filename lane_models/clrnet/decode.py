"""CLRNet's post-processing, in floating point: threshold, non-maximum suppression, geometry."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lane_models.clrnet.model import CLRNet, CLRNetConfig
from lane_models.nms import suppress
from lane_models.road_crop import FRAME
from lane_models.row_lanes import lane_points
from selective_focus import Lane

Array = npt.NDArray[np.float32]


@torch.no_grad()
def decode(
    heads: Mapping[str, Tensor], model: CLRNet, image_size: tuple[int, int] = FRAME
) -> list[list[Lane]]:
    """Raw heads -> the lanes of each image, best first, in pixels of a frame of ``image_size`` (H, W).

    A prior counts when its lane score (softmax) reaches the threshold; of similar ones the best stays. Its
    points run from the top down. Priors with values that are not finite never become lanes.
    """
    scores = heads["classification"].float().softmax(dim=-1)[..., 1].cpu().numpy()
    starts = heads["start"][..., 0].float().cpu().numpy()
    lengths = heads["length"][..., 0].float().cpu().numpy()
    xs = lane_xs(heads, model).cpu().numpy()
    return [_lanes(model.config, image_size, *one) for one in zip(scores, starts, lengths, xs, strict=True)]


def lane_xs(heads: Mapping[str, Tensor], model: CLRNet) -> Tensor:
    """x of every prior at every row, [N, P, R], bottom row first, in parts of (width - 1), differentiably."""
    start, angle, offsets = (heads[name].float() for name in ("start", "angle", "offsets"))
    return model.heads.lines(start, angle) + offsets


def _lanes(
    config: CLRNetConfig,
    image_size: tuple[int, int],
    scores: Array,
    starts: Array,
    lengths: Array,
    xs: Array,
) -> list[Lane]:
    strips = np.float32(config.rows - 1)
    chosen = np.flatnonzero(scores >= config.score_threshold)
    finite = np.isfinite(starts) & np.isfinite(lengths) & np.isfinite(xs).all(axis=1)
    chosen = chosen[finite[chosen]]
    lengths = np.clip(lengths, -1, 2) * strips
    starts = np.clip(starts, -1, 2)
    pixels = xs * np.float32(config.input_size[1] - 1)
    kept = suppress(
        scores[chosen],
        starts[chosen],
        lengths[chosen],
        pixels[chosen],
        config.nms_threshold,
        config.max_lanes,
    )
    lanes = []
    for i in chosen[kept]:
        start = min(max(round(float(starts[i] * strips)), 0), config.rows - 1)
        points = lane_points(xs[i], start, round(float(lengths[i])))
        if len(points) > 1:
            lanes.append(Lane(in_frame(points, config, image_size), float(scores[i])))
    return lanes


def in_frame(
    points: npt.NDArray[np.float64], config: CLRNetConfig, image_size: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """Points [P, 2] in parts of the network's image -> pixels of a frame of ``image_size`` (H, W)."""
    if config.crop is not None:
        return config.crop.to_frame(points * config.crop.size[::-1], image_size)
    top = config.cut_height / FRAME[0]
    scale = np.array([1.0, 1 - top])
    return (points * scale + (0, top)) * image_size[::-1]
