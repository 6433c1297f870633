"""LaneATT's training loss: anchors matched to labels by distance, focal loss on scores, smooth L1 on
geometry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lane_models.laneatt.anchors import cover, line_anchors
from lane_models.laneatt.model import LaneATT
from lane_models.row_lanes import lane_rows

Polyline = npt.NDArray[np.float64]

ANGLES = tuple(float(angle) for angle in range(8, 173, 4))


@dataclass(frozen=True)
class Labels:
    """The labels of one image: xs [T, R] in network pixels (NaN: none), first row [T], number of rows [T]."""

    xs: npt.NDArray[np.float32]
    start: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]

    @classmethod
    def of(cls, lanes: Sequence[Polyline], size: tuple[int, int], rows: int) -> Labels:
        """From polylines [P, 2] in network pixels; lanes outside the image are left out."""
        sampled = [lane_rows(lane, size, rows) for lane in lanes if len(lane) > 1]
        sampled = [lane for lane in sampled if lane[2] > 1]
        xs = np.array([lane[0] for lane in sampled], dtype=np.float32).reshape(-1, rows)
        return cls(xs, *(np.array([lane[i] for lane in sampled], dtype=np.int64) for i in (1, 2)))


@dataclass(frozen=True)
class Matches:
    """For each anchor: positive or negative (or neither), and the label that a positive one stands for."""

    positive: npt.NDArray[np.bool_]
    negative: npt.NDArray[np.bool_]
    label: npt.NDArray[np.int64]


def match(
    xs: npt.NDArray[np.float32],
    starts: npt.NDArray[np.int64],
    labels: Labels,
    positive_below: float,
    negative_above: float,
) -> Matches:
    """Official matching: mean |dx| over the rows of a label at and above both starts.

    xs [A, R], starts [A] of the anchors. In addition (not in the official code) the anchor nearest to a
    label is always positive, so that no label goes unlearned where anchors are few.
    """
    row = np.arange(xs.shape[1])
    first = np.maximum(starts[:, None], labels.start)
    last = labels.start + labels.length - 1
    counted = (row >= first[..., None]) & (row <= last[:, None]) & ~np.isnan(labels.xs)
    total = np.where(counted, np.abs(xs[:, None] - np.nan_to_num(labels.xs)), 0).sum(axis=2)
    number = counted.sum(axis=2)
    distance = np.where(number > 0, total / np.maximum(number, 1), np.inf)
    nearest, label = distance.min(axis=1), distance.argmin(axis=1)
    positive = nearest < positive_below
    for i, anchor in enumerate(distance.argmin(axis=0)):
        if np.isfinite(distance[anchor, i]):
            positive[anchor], label[anchor] = True, i
    return Matches(positive, ~positive & (nearest > negative_above), label)


class TrainingLoss(nn.Module):
    """Heads and label polylines -> terms to be summed (see ``bench.train``).

    positive_below, negative_above: distances of the matching as a share of the image's width (15 and 20
    px of 640 in the paper). Anchors between the two are ignored.
    """

    def __init__(
        self, model: LaneATT, positive_below: float = 15 / 640, negative_above: float = 20 / 640
    ) -> None:
        super().__init__()
        self.model = model
        self.size, self.rows = model.config.input_size, model.config.rows
        self.positive_below = positive_below * self.size[1]
        self.negative_above = negative_above * self.size[1]

    def prepare(self, lanes: Sequence[Sequence[Polyline]]) -> str:
        """Choose the model's anchors for these labels (lanes of each image, network pixels). Says how
        well they fit.

        Only for variants whose anchors are part of the state dict; the published ones are fixed.
        """
        if not self.model.config.keep_anchors:
            return "anchors are fixed"
        labels = [Labels.of(image, self.size, self.rows).xs for image in lanes]
        xs = np.concatenate(labels)[:4000]
        candidates = line_anchors(ANGLES, ANGLES, ANGLES, lateral_origins=40, bottom_origins=80)
        within = 45 / 1640 * self.size[1]
        chosen = cover(xs, candidates, self.size[1], len(self.model.anchors), within)
        self.model.place_anchors(candidates[chosen])
        return f"{len(chosen)} anchors chosen for {len(xs)} lanes"

    def forward(self, heads: Mapping[str, Tensor], lanes: Sequence[Sequence[Polyline]]) -> dict[str, Tensor]:
        xs = self.model.anchor_xs.cpu().numpy()
        starts = np.round((1 - self.model.anchors[:, 1].cpu().numpy()) * (self.rows - 1)).astype(np.int64)
        labels = [Labels.of(image, self.size, self.rows) for image in lanes]
        matches = [self._match(xs, starts, one) for one in labels]
        device = heads["classification"].device
        positive, negative = (
            torch.from_numpy(np.stack([getattr(one, kind) for one in matches])).to(device)
            for kind in ("positive", "negative")
        )
        score = _focal(heads["classification"], positive) * (positive | negative)
        per_image = score.sum(dim=1) / positive.sum(dim=1).clamp(min=1)
        return {
            "classification": 10 * per_image.mean(),
            "geometry": self._geometry(heads, positive, _targets(starts, labels, matches)),
        }

    def _match(self, xs: npt.NDArray[np.float32], starts: npt.NDArray[np.int64], labels: Labels) -> Matches:
        if len(labels.xs) == 0:
            nothing = np.zeros(len(xs), dtype=bool)
            return Matches(nothing, ~nothing, np.zeros(len(xs), dtype=np.int64))
        return match(xs, starts, labels, self.positive_below, self.negative_above)

    def _geometry(
        self, heads: Mapping[str, Tensor], positive: Tensor, targets: npt.NDArray[np.float32]
    ) -> Tensor:
        """Smooth L1 of length and xs of the positive anchors, averaged an image at a time; NaN targets
        give 0.
        """
        target = torch.from_numpy(targets).to(positive.device)
        length = heads["length"][positive]
        xs = (self.model.anchor_xs + heads["offsets"])[positive]
        predicted = torch.cat([length, xs], dim=1)
        known = ~target.isnan()
        error = F.smooth_l1_loss(predicted, target.nan_to_num(), reduction="none") * known
        image = positive.nonzero()[:, 0]
        weight = 1 / positive.sum(dim=1).clamp(min=1)
        return (error.mean(dim=1) * weight[image]).sum() / len(positive)


def _focal(logits: Tensor, positive: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """[N, A, 2] and [N, A] -> focal loss [N, A] (Lin et al. 2017; here alpha weights both classes alike)."""
    log_p = logits.log_softmax(dim=-1).gather(-1, positive.long()[..., None])[..., 0]
    return -alpha * (1 - log_p.exp()) ** gamma * log_p


def _targets(
    starts: npt.NDArray[np.int64], labels: Sequence[Labels], matches: Sequence[Matches]
) -> npt.NDArray[np.float32]:
    """[positives of all images, 1 + R]: length counted from the anchor's start, then xs (NaN: no target)."""
    rows = []
    for label, one in zip(labels, matches, strict=True):
        own, start = one.label[one.positive], starts[one.positive]
        xs = label.xs[own]
        length = label.length[own] - (start - label.start[own])
        below = np.arange(xs.shape[1]) < start[:, None]
        xs = np.where(below, np.nan, xs)
        rows.append(np.concatenate([length[:, None].astype(np.float32), xs], axis=1))
    return np.concatenate(rows).astype(np.float32)
