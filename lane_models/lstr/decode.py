"""From LSTR's heads to lanes: which queries are lanes, and the curve of each on fixed rows.

The curve is a cubic on the road seen by a tilted pinhole camera (Liu et al. 2021, section 3.1), with x and y
in parts of the frame's size: x(y) = k / (y - f)^2 + m / (y - f) + n + b2 * y - b3. Lanes share k, f, m, n.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lane_models.pytorch_auto_drive import drop_least
from selective_focus.detector import Lane


@dataclass(frozen=True)
class Rules:
    """How one set of released weights is decoded; in pixels of the camera frame that it was trained on."""

    image_size: tuple[int, int]
    rows: tuple[float, ...]
    upper_end: int
    """Which of the two endpoints has the smaller y."""
    threshold: float | None = None
    """Confidence that a lane must exceed; None: the class "lane" must be the most likely."""
    max_lanes: int = 7
    cut_at_lower_end: bool = True
    strict_ends: bool = False
    """Whether a row exactly on an end is outside."""
    max_x: float | None = None
    """Largest x of a point in pixels (the smallest is then 0); None: points may leave the frame."""


TUSIMPLE = Rules((720, 1280), tuple(range(160, 711, 10)), upper_end=0)
CULANE = Rules(
    (590, 1640), tuple(589 - 20 * i for i in range(18)), upper_end=1, cut_at_lower_end=False, max_x=1639
)
PYTORCH_AUTO_DRIVE = Rules(
    (590, 1640),
    tuple(590 - 20 * i for i in range(18)),
    upper_end=0,
    threshold=0.95,
    max_lanes=4,
    strict_ends=True,
    max_x=1640,
)


def lane_curves(heads: Mapping[str, Tensor], rows: Tensor, image_size: tuple[int, int]) -> Tensor:
    """x in pixels of a frame of ``image_size`` (H, W) at each row [R] (pixels), for every query: [N, Q, R].

    Differentiable in the heads ``lane_terms`` and ``camera_terms``.
    """
    k, f, m, n = heads["camera_terms"].unsqueeze(-2).unbind(-1)
    b2, b3 = heads["lane_terms"].unsqueeze(-2).unbind(-1)
    y = (rows / image_size[0]).to(b2)
    depth = y - f
    return (k / depth**2 + m / depth + n + b2 * y - b3) * image_size[1]


def visible(heads: Mapping[str, Tensor], x: Tensor, rows: Tensor, rules: Rules) -> Tensor:
    """Which points of the curves x [N, Q, R] at rows [R] (pixels) belong to a lane: bool [N, Q, R]."""
    y = (rows / rules.image_size[0]).to(x)
    upper = heads["endpoints"][..., rules.upper_end, None]
    lower = heads["endpoints"][..., 1 - rules.upper_end, None]
    valid = x.isfinite() & ((y > upper) if rules.strict_ends else (y >= upper))
    if rules.cut_at_lower_end:
        valid &= (y < lower) if rules.strict_ends else (y <= lower)
    if rules.max_x is not None:
        valid &= (x >= 0) & (x <= rules.max_x)
    return valid


def confidence(heads: Mapping[str, Tensor]) -> Tensor:
    """The probability of class 1, "lane", of every query: [N, Q]."""
    return heads["classification"].softmax(dim=-1)[..., 1]


def chosen_queries(logits: Tensor, rules: Rules) -> list[int]:
    """The queries [Q, classes] of one image that are lanes, in query order."""
    if rules.threshold is None:
        return [int(q) for q in torch.nonzero(logits.argmax(-1) == 1)]
    scores = logits.softmax(-1)[:, 1]
    above = torch.nonzero(scores > rules.threshold)[:, 0]
    return drop_least(scores.numpy(), above.tolist(), rules.max_lanes)


def decode(
    heads: Mapping[str, Tensor], rules: Rules, image_size: tuple[int, int] | None = None
) -> list[list[Lane]]:
    """Heads of N images -> their lanes, in pixels of a frame of ``image_size`` (H, W).

    The rows are those of the rules, scaled with the frame (default: the rules' own). Lanes of fewer than two
    points are dropped.
    """
    exact = {name: head.detach().cpu().double() for name, head in heads.items()}
    rows = torch.tensor(rules.rows, dtype=torch.float64)
    x = lane_curves(exact, rows, rules.image_size)
    valid = visible(exact, x, rows, rules)
    scores = confidence(exact)
    height, width = image_size or rules.image_size
    scale = np.array([width / rules.image_size[1], height / rules.image_size[0]])
    images = []
    for i, logits in enumerate(exact["classification"]):
        lanes = []
        for q in chosen_queries(logits, rules):
            points = torch.stack((x[i, q], rows), dim=1)[valid[i, q]]
            if len(points) >= 2:
                lanes.append(Lane(points.numpy() * scale, float(scores[i, q])))
        images.append(lanes)
    return images
