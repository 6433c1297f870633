"""Which outputs of a detector activations have to serve: its heads where lanes are. Ours, not the paper's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from selective_focus.detector import Heads, LaneDetector
from selective_focus.focus import checked_foreground, head_scale
from selective_focus.quantization.importance import random_signs

_LEAST_WEIGHT = 1e-6
"""Of all positions of a head together: without any foreground nothing is divided by zero."""


def lane_probe(
    detector: LaneDetector, reference: Heads, seed_of: Callable[[int], int]
) -> Callable[[Heads, Tensor], Tensor]:
    """What to differentiate: random combinations of the heads, weighted by the foreground of Semantic Guided Focus.

    The square of its gradient is, on the average, half the diagonal Gauss-Newton term of that method's loss by its
    default readings, but for the background of confidence heads: that has no weight here, since the large activations
    there are what must not win.

    Args:
        reference: full-precision heads of all calibration images, [M, ...] each.
        seed_of: the seed of a chunk, by its first image.

    Returns:
        (heads of N of the calibration images, their indices [N]) -> a scalar.
    """
    foreground = checked_foreground(detector, reference)
    scales = {
        name: head_scale(head, foreground[name]) * foreground[name].float().sum().clamp(min=_LEAST_WEIGHT)
        for name, head in reference.items()
    }

    def probe(heads: Heads, index: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(seed_of(int(index[0])))
        total: Tensor | None = None
        for name, head in heads.items():
            share = foreground[name][index].float() / scales[name]
            term = (share.sqrt() * random_signs(head, generator) * head).sum()
            total = term if total is None else total + term
        assert total is not None
        return total

    return probe
