"""LaneATT's post-processing, in floating point: threshold, non-maximum suppression, geometry."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from lane_models.laneatt.model import LaneATT
from lane_models.nms import suppress
from lane_models.row_lanes import lane_points
from selective_focus import Lane


@torch.no_grad()
def decode(
    heads: Mapping[str, Tensor], model: LaneATT, image_size: tuple[int, int] = (590, 1640)
) -> list[list[Lane]]:
    """Raw heads -> the lanes of each image, best first, in pixels of a frame of ``image_size`` (H, W).

    A proposal counts when its lane score (softmax) is above the threshold; of similar ones the best
    stays. Its points run from the top down. Proposals with values that are not finite never become lanes.
    """
    scores = heads["classification"].float().softmax(dim=-1)[..., 1].cpu().numpy()
    lengths = heads["length"][..., 0].float().cpu().numpy()
    xs = lane_xs(heads, model).cpu().numpy()
    starts = (1 - model.anchors[:, 1]).float().cpu().numpy()
    return [_lanes(model, image_size, starts, *one) for one in zip(scores, lengths, xs, strict=True)]


def lane_xs(heads: Mapping[str, Tensor], model: LaneATT) -> Tensor:
    """x of every proposal at every row, [N, A, rows], bottom row first, in network pixels, where the heads are."""
    offsets = heads["offsets"].float()
    return model.anchor_xs.to(offsets) + offsets


def _lanes(
    model: LaneATT,
    image_size: tuple[int, int],
    starts: np.ndarray,
    scores: np.ndarray,
    lengths: np.ndarray,
    xs: np.ndarray,
) -> list[Lane]:
    config = model.config
    chosen = np.flatnonzero(scores > config.score_threshold)
    chosen = chosen[np.isfinite(lengths[chosen]) & np.isfinite(xs[chosen]).all(axis=1)]
    lengths = np.clip(lengths, -config.rows, 2 * config.rows)
    kept = suppress(
        scores[chosen], starts[chosen], lengths[chosen], xs[chosen], config.nms_threshold, config.max_lanes
    )
    lanes = []
    for i in chosen[kept]:
        start = round(float(starts[i]) * (config.rows - 1))
        points = lane_points(xs[i] / np.float32(config.input_size[1]), start, round(float(lengths[i])))
        if len(points) > 1:
            lanes.append(Lane(in_frame(points, model, image_size), float(scores[i])))
    return lanes


def in_frame(points: np.ndarray, model: LaneATT, image_size: tuple[int, int]) -> np.ndarray:
    """Relative points of the network's image -> pixels of the frame."""
    crop = model.config.crop
    if crop is None:
        return points * np.array(image_size[::-1])
    return crop.to_frame(points * np.array(crop.size[::-1]), image_size)
