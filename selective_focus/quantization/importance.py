"""Which activations matter: ranges from values drawn in proportion to what an error in them does to the outputs.

A range search that weighs all activations alike serves the largest and the most frequent ones. In a lane detector
those are the background's: in CLRNet's head proposals off the lanes reach sixty times as far as those on them,
and a range for the former leaves the latter a code or two. The importance of an activation is the diagonal of the
Gauss-Newton matrix of a quadratic loss of the outputs, estimated by the square of one gradient of a random
combination of them (Hutchinson 1990). Range searches weighed by gradients: PTQ4ViT (Yuan et al. 2022). That the
weight comes from the lanes is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from selective_focus.quantization.histogram import Histogram

DRAWS = 1 << 12
"""Values that stand for one activation of one image."""


class ImportanceObserver:
    """Fills a histogram with the values of an activation by importance, once their gradient is known.

    An observer of an ``ActivationQuantizer``; needs a forward pass with gradients, followed by a backward one. A batch
    gives values in proportion to its number of images; inside it, all images share them by importance.
    """

    def __init__(self, histogram: Histogram, draws: int = DRAWS) -> None:
        self.histogram = histogram
        self.draws = draws

    def update(self, x: Tensor) -> None:
        """Look at the gradient of ``x`` [N, ...], in the backward pass that is to come."""
        if x.requires_grad:
            values = x.detach()

            def with_gradient(gradient: Tensor) -> None:
                importance = gradient.double().square()  # in half precision squares would overflow
                self.histogram.update(drawn_by_importance(values, importance, len(values) * self.draws))

            x.register_hook(with_gradient)  # type: ignore[no-untyped-call]


def drawn_by_importance(values: Tensor, importance: Tensor, count: int) -> Tensor:
    """``count`` of the values, each as often as its share of the importance asks for; none where nothing matters.

    Systematic sampling: the middles of ``count`` equal parts of the summed importance. Not random, and each value comes
    within one of its share.

    values, importance: of the same shape; importance at least 0.
    Returns [count], or [0] where the importance is all zero or not finite.
    """
    summed = importance.reshape(-1).double().cumsum(0)
    total = summed[-1]
    if not (torch.isfinite(total) and total > 0):
        return values.reshape(-1)[:0]
    places = (torch.arange(count, device=summed.device, dtype=summed.dtype) + 0.5) * (total / count)
    return values.reshape(-1)[torch.searchsorted(summed, places).clamp(max=summed.numel() - 1)]


def random_signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """Of each element +1 or -1, for Hutchinson's estimate; drawn on the CPU, the same on every device."""
    signs = torch.randint(0, 2, like.shape, generator=generator, dtype=torch.int8).mul_(2).sub_(1)
    return signs.to(like)
