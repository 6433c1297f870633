"""BézierLaneNet's training loss: one query a label by optimal matching, L1 of curve points, cross entropies.

Feng et al., CVPR 2022; the weights are those of the published configuration. Ours: labels are polylines, to
which a cubic Bézier curve is fitted here, and the segmentation target is drawn from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from lane_models.bezierlanenet.decode import bernstein, curve_points, local_maxima
from lane_models.bezierlanenet.model import BezierLaneNet

Polyline = npt.NDArray[np.float64]

SAMPLES = 100
"""Points at which two curves are compared."""
BACKGROUND = 0.4
"""Weight of a negative beside a positive, in both cross entropies."""
STROKE = 5
"""Width of a lane in the segmentation target, in pixels of the network's image."""


class TrainingLoss(nn.Module):
    """Heads and label polylines -> terms to be summed (see ``bench.train``).

    existence: default 0.1 as published; 0.5 for the small variant, whose training is too short for scores to
        become sure at 0.1. alpha: what counts in the matching; 1: the curve alone, 0: the score alone.
    """

    def __init__(
        self,
        model: BezierLaneNet,
        curve: float = 1.0,
        existence: float | None = None,
        segmentation: float = 0.75,
        alpha: float = 0.8,
    ) -> None:
        super().__init__()
        self.size, self.window = model.config.input_size, model.config.window
        if existence is None:
            existence = 0.1 if model.config.crop is None else 0.5
        self.weights = {"curve": curve, "existence": existence, "segmentation": segmentation}
        self.alpha = alpha

    def forward(self, heads: Mapping[str, Tensor], lanes: Sequence[Sequence[Polyline]]) -> dict[str, Tensor]:
        logits = heads["existence"][..., 0]
        labels = [label_curves(image, self.size) for image in lanes]
        queries, own = self._match(logits, heads["control_points"], labels)
        target = torch.from_numpy(np.concatenate([label[i] for label, i in zip(labels, own, strict=True)]))
        matched = torch.zeros_like(logits)
        for image, chosen in enumerate(queries):
            matched[image, chosen] = 1
        points = curve_points(heads["control_points"][matched == 1], SAMPLES)
        # Queries ascend within an image in the mask and in the matching alike, so rows correspond.
        distance = (points - target.to(points)).abs().sum() / max(1, points.shape[0] * SAMPLES)
        drawn = torch.from_numpy(np.stack([drawn_lanes(image, self.size) for image in lanes])).to(logits)
        pixels = F.interpolate(heads["segmentation"], self.size, mode="bilinear", align_corners=True)[:, 0]
        terms = {
            "curve": distance,
            "existence": _weighted_cross_entropy(logits, matched),
            "segmentation": _weighted_cross_entropy(pixels, drawn),
        }
        return {name: self.weights[name] * term for name, term in terms.items()}

    @torch.no_grad()
    def _match(
        self, logits: Tensor, control_points: Tensor, labels: Sequence[npt.NDArray[np.float32]]
    ) -> tuple[list[npt.NDArray[np.int64]], list[npt.NDArray[np.int64]]]:
        """For each image the queries that stand for a lane, ascending, and the label of each."""
        scores = logits.sigmoid().cpu().numpy()
        curves = curve_points(control_points, SAMPLES).cpu().numpy()
        queries, own = [], []
        for score, curve, label in zip(scores, curves, labels, strict=True):
            quality = match_quality(score, curve, label, self.window, self.alpha)
            query, lane = linear_sum_assignment(quality, maximize=True)
            queries.append(query)
            own.append(lane)
        return queries, own


def match_quality(
    scores: npt.NDArray[np.floating],
    curves: npt.NDArray[np.floating],
    labels: npt.NDArray[np.floating],
    window: int,
    alpha: float,
) -> npt.NDArray[np.float64]:
    """How well query q stands for label l, [Q, L]: score^(1 - alpha) (1 - mean L1 distance)^alpha.

    scores [Q], curves [Q, P, 2], labels [L, P, 2], in parts of the image. Zero where q is not the best of its
    neighbourhood: only such queries survive decoding.
    """
    distance = np.abs(curves[:, None] - labels[None]).sum(axis=3).mean(axis=2)
    likeness = np.clip(1 - distance, 0, 1) ** alpha
    peak = local_maxima(scores, window)[:, None]
    return np.asarray(peak * scores[:, None] ** (1 - alpha) * likeness, dtype=np.float64)


def label_curves(lanes: Sequence[Polyline], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Polylines [P, 2] in pixels of the network's image (H, W) -> points [L, SAMPLES, 2] in parts of it.

    The points lie, at equal steps of the parameter, on the cubic Bézier curve fitted to what is inside the
    image, the nearest (lowest) first. Lanes with less than two rows inside are left out.
    """
    curves = [points for lane in lanes if (points := _fitted(lane, size)) is not None]
    return np.array(curves, dtype=np.float32).reshape(-1, SAMPLES, 2)


def _fitted(lane: Polyline, size: tuple[int, int]) -> npt.NDArray[np.float64] | None:
    height, width = size
    order = np.argsort(-lane[:, 1], kind="stable")
    x, y = lane[order, 0], lane[order, 1]
    if len(lane) < 2 or y[0] == y[-1]:
        return None
    rows = np.linspace(y[0], y[-1], 4 * SAMPLES)
    dense = np.stack((np.interp(-rows, -y, x), rows), axis=1)
    inside = (dense >= 0).all(axis=1) & (dense[:, 0] <= width) & (dense[:, 1] <= height)
    dense = dense[inside]
    if len(dense) < 4 or dense[0, 1] - dense[-1, 1] < 2:
        return None
    steps = np.concatenate(([0.0], np.cumsum(np.hypot(*np.diff(dense, axis=0).T))))
    places = np.interp(np.linspace(0, steps[-1], SAMPLES), steps, np.arange(len(dense)))
    even = np.stack([np.interp(places, np.arange(len(dense)), dense[:, i]) for i in (0, 1)], axis=1)
    basis = bernstein(SAMPLES)
    control = np.linalg.lstsq(basis, even / (width, height), rcond=None)[0]
    return np.asarray(basis @ control)


def drawn_lanes(lanes: Sequence[Polyline], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """1 on the lanes and 0 elsewhere, [H, W]."""
    canvas = np.zeros(size, dtype=np.uint8)
    limit = 10 * max(size)
    for lane in lanes:
        points = np.clip(np.round(lane), -limit, limit).astype(np.int32)
        cv2.polylines(canvas, [points.reshape(-1, 1, 2)], isClosed=False, color=1, thickness=STROKE)
    return canvas.astype(np.float32)


def _weighted_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy, mean over all, with ``BACKGROUND`` as the weight of negatives."""
    weight = torch.where(target > 0.5, 1.0, BACKGROUND)
    return F.binary_cross_entropy_with_logits(logits, target, weight)
