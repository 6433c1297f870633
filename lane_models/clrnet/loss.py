"""CLRNet's training loss (Zheng et al., CVPR 2022): dynamic assignment, focal, smooth L1 and line IoU.

All three refinement stages are trained, each with an assignment of its own. Equations of section 3.3; the
weights and constants are those of the published CULane configuration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lane_models.clrnet.model import CLRNet
from lane_models.road_crop import FRAME
from lane_models.row_lanes import lane_rows

Polyline = npt.NDArray[np.float64]

RADIUS = 15 / 800
"""Half the width of a lane in the line IoU, in parts of the image's width."""
CANDIDATES = 4
"""Priors whose line IoU with a label decides how many stand for it."""
SIMILARITY = 3.0
"""Weight of geometry beside the score in the cost of an assignment."""
STROKE = 16
"""Width of a lane in the segmentation target, in pixels of the camera's frame."""


class TrainingLoss(nn.Module):
    """Heads and label polylines -> terms to be summed (see ``bench.train``).

    Ours: labels come without slots, so the segmentation learns lane (all its classes together) against
    background.
    """

    def __init__(
        self,
        model: CLRNet,
        classification: float = 2.0,
        geometry: float = 0.2,
        line_iou: float = 2.0,
        segmentation: float = 1.0,
    ) -> None:
        super().__init__()
        self.model, self.config = model, model.config
        self.weights = {
            "classification": classification,
            "geometry": geometry,
            "line_iou": line_iou,
            "segmentation": segmentation,
        }

    def forward(self, heads: Mapping[str, Tensor], lanes: Sequence[Sequence[Polyline]]) -> dict[str, Tensor]:
        """lanes: polylines [P, 2] of each image, in network pixels."""
        stages = heads["stages"]
        size, rows = self.config.input_size, self.config.rows
        labels = [label_priors(image, size, rows).to(stages.device) for image in lanes]
        predicted = self._absolute(stages)
        place, wanted, share = self._match(stages[..., :2], predicted, labels)
        positive = torch.zeros(stages.shape[:3].numel(), dtype=torch.bool, device=stages.device)
        positive[place] = True
        count = torch.tensor([max(1, len(label)) for label in labels], device=stages.device)
        score = focal(stages[..., :2], positive.view(stages.shape[:3])).sum(dim=2) / count[:, None]
        found = predicted.flatten(0, 2)[place]
        terms = {
            "classification": score.mean(),
            "geometry": (self._extent_error(found, wanted) * share).sum(),
            "line_iou": ((1 - line_iou(found[:, 4:], wanted[:, 4:], RADIUS)) * share).sum(),
            "segmentation": self._segmentation(heads["segmentation"], lanes),
        }
        return {name: self.weights[name] * term for name, term in terms.items()}

    @torch.no_grad()
    def _match(
        self, logits: Tensor, predicted: Tensor, labels: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The M priors that stand for a label: place in [N * S * P], label [M, 4 + R], share in the mean."""
        images, stages, priors = logits.shape[:3]
        places, wanted, shares = [], [predicted.new_zeros(0, predicted.shape[-1])], []
        for image, label in enumerate(labels):
            for stage in range(stages if len(label) else 0):
                one = predicted[image, stage]
                cost = costs(logits[image, stage], one, label, self._scales(label))
                prior, own = assign(cost, line_iou(one[:, None, 4:], label[None, :, 4:], RADIUS))
                places.append((image * stages + stage) * priors + prior)
                wanted.append(label[own])
                shares.append(torch.full_like(label[own][:, 0], 1 / (len(prior) * images * stages)))
        nowhere = torch.zeros(0, dtype=torch.long, device=logits.device)
        return torch.cat([nowhere, *places]), torch.cat(wanted), torch.cat([wanted[0][:, 0], *shares])

    def _extent_error(self, found: Tensor, wanted: Tensor) -> Tensor:
        """Smooth L1 of start, angle and length, [M], in rows, pixels and degrees."""
        # A lane that begins higher is that much shorter.
        length = wanted[:, 3:4] + wanted[:, :1] - found[:, :1].detach()
        scales = self._scales(found)
        target = torch.cat((wanted[:, :3], length), dim=1) * scales
        return F.smooth_l1_loss(found[:, :4] * scales, target, reduction="none").mean(dim=1)

    def _absolute(self, stages: Tensor) -> Tensor:
        """[..., 6 + R] -> [..., 4 + R]: start y and x, angle, length, x at every row (parts of width - 1)."""
        lines = self.model.heads.lines(stages[..., 2:4], stages[..., 4:5])
        return torch.cat((stages[..., 2:6], lines + stages[..., 6:]), dim=-1)

    def _scales(self, like: Tensor) -> Tensor:
        """What makes start y, start x, angle and length pixels, rows and degrees, as published."""
        strips, width = self.config.rows - 1, self.config.input_size[1] - 1
        return like.new_tensor([strips, width, 180.0, strips])

    def _segmentation(self, logits: Tensor, lanes: Sequence[Sequence[Polyline]]) -> Tensor:
        size = self.config.input_size
        drawn = torch.from_numpy(np.stack([drawn_lanes(one, size) for one in lanes])).to(logits)
        resized = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        lane = resized[:, 1:].logsumexp(dim=1) - resized[:, 0]
        class_weight = self.model.heads.criterion.weight
        assert isinstance(class_weight, Tensor)
        weight = torch.where(drawn > 0, class_weight[1], class_weight[0])
        return F.binary_cross_entropy_with_logits(lane, drawn, weight, reduction="sum") / weight.sum()


def label_priors(lanes: Sequence[Polyline], size: tuple[int, int], rows: int) -> Tensor:
    """Polylines [P, 2] in network pixels -> [T, 4 + R]: start y and x, angle, length, x at every row.

    Units are those of the heads; x is NaN on rows without the lane. The angle is the mean of those from the
    start to every other row. Lanes with less than two rows in the image are left out.
    """
    labels = []
    for xs, first, count in (lane_rows(lane, size, rows) for lane in lanes if len(lane) > 1):
        if count < 2:
            continue
        strips, height, width = rows - 1, size[0], size[1] - 1
        inside = xs[first : first + count]
        up = np.arange(1, count) * (height / strips)
        angle = np.arctan2(up, inside[1:] - inside[0]).mean() / np.pi
        extent = [first / strips, inside[0] / width, angle, count / strips]
        labels.append(np.concatenate((extent, xs / width)))
    return torch.from_numpy(np.array(labels, dtype=np.float32).reshape(-1, 4 + rows))


def line_iou(predicted: Tensor, label: Tensor, radius: float) -> Tensor:
    """Line IoU (eq. 4-6) over the last dimension, the rows: [..., R] and [..., R] -> [...], in -1..1.

    Both lines are widened by ``radius`` to either side; where they lie apart the overlap counts as negative.
    Rows where the label is NaN do not count.
    """
    counted = ~label.isnan()
    target = label.nan_to_num()
    distance = (predicted - target).abs()
    overlap = ((2 * radius - distance) * counted).sum(dim=-1)
    union = ((2 * radius + distance) * counted).sum(dim=-1)
    return overlap / union.clamp(min=1e-9)


def focal(logits: Tensor, positive: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """[..., 2] and [...] -> focal loss [...] (Lin et al. 2017; here alpha weights both classes alike)."""
    log_p = logits.log_softmax(dim=-1).gather(-1, positive.long()[..., None])[..., 0]
    return -alpha * (1 - log_p.exp()) ** gamma * log_p


def costs(logits: Tensor, predicted: Tensor, label: Tensor, scales: Tensor) -> Tensor:
    """What it costs that prior p stands for label t, [P, T] (eq. 2): score minus weighted similarity.

    logits [P, 2], predicted [P, 4 + R], label [T, 4 + R]. Similarity is the squared product of three, each 1
    at the nearest and about 0 at the farthest pair of the image: of xs, starts and angles.
    """
    counted = ~label[:, 4:].isnan()
    apart = ((predicted[:, None, 4:] - label[:, 4:].nan_to_num()).abs() * counted).sum(dim=-1)
    distance = apart / counted.sum(dim=-1).clamp(min=1)
    starts = torch.cdist(predicted[:, :2] * scales[:2], label[:, :2] * scales[:2])
    angles = (predicted[:, None, 2] - label[None, :, 2]).abs()
    similarity = torch.ones_like(distance)
    for part in (distance, starts, angles):
        similarity = similarity * (1.01 - part / part.max().clamp(min=1e-9))
    score = logits.softmax(dim=-1)[:, 1:].clamp(1e-12, 1 - 1e-7)
    alpha, gamma = 0.25, 2.0
    as_lane = -alpha * (1 - score) ** gamma * score.log()
    as_background = -(1 - alpha) * score**gamma * (1 - score).log()
    return as_lane - as_background - SIMILARITY * similarity**2


def assign(cost: Tensor, overlap: Tensor) -> tuple[Tensor, Tensor]:
    """Which priors stand for which labels: costs and line IoU [P, T] -> indices of priors and their labels.

    A label gets as many priors as its best few line IoUs add up to, at least one, those of least cost
    (SimOTA, Ge et al. 2021). A prior wanted by several labels takes the one of least cost.
    """
    best = overlap.clamp(min=0).topk(min(CANDIDATES, len(overlap)), dim=0).values
    counts = best.sum(dim=0).int().clamp(min=1)
    rank = cost.argsort(dim=0, stable=True).argsort(dim=0)
    wanted = rank < counts
    prior = wanted.any(dim=1).nonzero()[:, 0]
    own = cost.masked_fill(~wanted, torch.inf)[prior].argmin(dim=1)
    return prior, own


def drawn_lanes(lanes: Sequence[Polyline], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """1 on the lanes and 0 elsewhere, [H, W]."""
    canvas = np.zeros(size, dtype=np.uint8)
    limit = 10 * max(size)
    thickness = max(1, round(STROKE * size[1] / FRAME[1]))
    for lane in lanes:
        points = np.clip(np.round(lane), -limit, limit).astype(np.int32)
        cv2.polylines(canvas, [points.reshape(-1, 1, 2)], False, 1, thickness)
    return canvas
