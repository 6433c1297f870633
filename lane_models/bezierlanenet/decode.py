"""From BézierLaneNet's heads to lanes: the locally best queries, and 50 points on the curve of each."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lane_models.bezierlanenet.model import BezierLaneNetConfig
from lane_models.pytorch_auto_drive import drop_least
from selective_focus.detector import Lane

POINTS = 50
"""Points of a decoded lane."""


@cache
def bernstein(points: int) -> npt.NDArray[np.float64]:
    """Cubic Bernstein polynomials at t = 0..1: [points, 4]."""
    t = np.linspace(0, 1, points)
    return np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], axis=1)


def curve_points(control_points: Tensor, points: int = POINTS) -> Tensor:
    """Control points [..., 4, 2] -> points on the curves [..., points, 2], differentiably."""
    return torch.from_numpy(bernstein(points)).to(control_points) @ control_points


def confidence(heads: Mapping[str, Tensor]) -> Tensor:
    """The probability of a lane, [N, Q, 1], in float32: that queries tie where it saturates is official."""
    return heads["existence"].float().sigmoid()


def local_maxima(scores: npt.NDArray[np.floating], window: int) -> npt.NDArray[np.bool_]:
    """Which scores [Q] are the largest among the ``window`` about them; of equal ones only the first."""
    padded = np.pad(scores, window // 2, constant_values=-np.inf)
    around = np.lib.stride_tricks.sliding_window_view(padded, window)
    return np.asarray(around.argmax(axis=1) == window // 2)


def chosen_queries(scores: npt.NDArray[np.floating], config: BezierLaneNetConfig) -> list[int]:
    """The queries of one image that are lanes, in query order; scores [Q] are probabilities."""
    kept = np.flatnonzero((scores > config.threshold) & local_maxima(scores, config.window))
    return drop_least(scores, kept.tolist(), config.max_lanes)


def decode(
    heads: Mapping[str, Tensor], config: BezierLaneNetConfig, image_size: tuple[int, int]
) -> list[list[Lane]]:
    """Heads of N images -> their lanes, in pixels of a frame of ``image_size`` (H, W). Nothing is clipped.

    Queries with values that are not finite never become lanes, nor do they outdo their neighbours.
    """
    scores = confidence(heads)[..., 0].detach().cpu().numpy()
    curves = curve_points(heads["control_points"].detach().cpu().double()).numpy()
    finite = np.isfinite(scores) & np.isfinite(curves).all(axis=(2, 3))
    scores = np.where(finite, scores, 0)
    images = []
    for image_scores, image_curves in zip(scores, curves, strict=True):
        chosen = chosen_queries(image_scores, config)
        lanes = [Lane(in_frame(image_curves[q], config, image_size), float(image_scores[q])) for q in chosen]
        images.append(lanes)
    return images


def in_frame(
    points: npt.NDArray[np.float64], config: BezierLaneNetConfig, image_size: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """Points [P, 2] in parts of the network's image -> pixels of a frame of ``image_size`` (H, W)."""
    if config.crop is None:
        return points * image_size[::-1]
    return config.crop.to_frame(points * config.crop.size[::-1], image_size)
