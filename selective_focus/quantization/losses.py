"""Reconstruction losses between a unit's float output (target) and its quantized output (prediction)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


def reconstruction_loss(
    prediction: Tensor, target: Tensor, p: float = 2.0, channel_dim: int = 1, index: Tensor | None = None
) -> Tensor:
    """sum over channels of |d|^p, mean over everything else (BRECQ; AdaRound eq. 25 with p = 2).

    [N, C, ...] or [N, C] (then the mean over the batch of the sum over features). channel_dim is -1 for
    tokens [N, T, C]. BRECQ trains activation scales with p = 2.4. index [N]: the rows of ``target`` that are meant;
    None: all of it.
    """
    if p == 2:
        channels = prediction.shape[channel_dim]
        return squared_distance(prediction, target, index) / (prediction.numel() / channels)
    target = target if index is None else target[index]
    return (prediction - target).abs().pow(p).sum(dim=channel_dim).mean()


class _SquaredDistance(torch.autograd.Function):
    """sum of (x - t)^2 with two passes over memory forward and one back; autograd's own takes six and four tensors."""

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, target: Tensor, index: Tensor | None) -> Tensor:
        if index is None:
            difference = prediction - target
        else:
            difference = torch.empty_like(prediction)
            for place, row in enumerate(index.tolist()):
                torch.sub(prediction[place], target[row], out=difference[place])
        ctx.save_for_backward(difference)
        flat = difference.reshape(-1)
        return torch.dot(flat, flat)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (difference,) = ctx.saved_tensors
        return difference * (2 * upstream), None, None


def squared_distance(prediction: Tensor, target: Tensor, index: Tensor | None = None) -> Tensor:
    """sum of (prediction - target[index])^2, 0-d (index None: all rows); gradient to the prediction alone.

    With an index the rows are read where they are, one after the other: no copy of large ones.
    """
    total: Tensor = _SquaredDistance.apply(prediction, target, index)  # type: ignore[no-untyped-call]
    return total


def fisher_diagonal_loss(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """sum over channels of (d * weight)^2, mean over the rest (BRECQ's 'fisher_diag')."""
    return ((prediction - target) * weight).square().sum(dim=1).mean()


def fisher_full_loss(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """BRECQ's 'fisher_full': mean of (sum over one sample of |d| weight) * |d| * weight, divided by 100."""
    weighted = (prediction - target).abs() * weight
    per_sample = weighted.flatten(1).sum(dim=1).view(-1, *[1] * (weighted.ndim - 1))
    return (per_sample * weighted).mean() / 100


def fisher_weight(gradient: Tensor, normalise: bool = False) -> Tensor:
    """Weight of the Fisher losses from the task loss's gradient at the unit's output.

    BRECQ stores |g| + 1, which hides a small gradient altogether; normalise=True keeps |g| alone, at mean
    square 1.
    """
    magnitude = gradient.detach().abs()
    if not normalise:
        return magnitude + 1.0
    return magnitude / magnitude.square().mean().sqrt().clamp(min=torch.finfo(magnitude.dtype).tiny)


def distribution_shift(logits: Tensor, float_logits: Tensor) -> Tensor:
    """KL(softmax(float) || softmax(quantized)), summed over classes (dim 1), divided by the batch size."""
    log_probability = functional.log_softmax(logits, dim=1)
    return functional.kl_div(log_probability, functional.softmax(float_logits, dim=1), reduction="batchmean")
