"""Folding batch normalisation into the layer before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
"""Any batch normalisation with running statistics."""

Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
"""Layers whose weight has its output channels second: [in, out / groups, *kernel]."""

Foldable = nn.Conv1d | nn.Conv2d | nn.Conv3d | Transposed | nn.Linear
"""Layers that can take a batch normalisation in."""


def fold_batch_norm(layer: Foldable, bn: BatchNorm) -> tuple[Tensor, Tensor]:
    """Weight and bias of one layer that does what ``layer`` followed by ``bn`` (in eval mode) does.

    w' = w * gamma / sqrt(var + eps), b' = (b - mean) * gamma / sqrt(var + eps) + beta, per output channel;
    worked out in float64. Neither module is changed. Raises ValueError if bn has no running statistics or
    another width.
    """
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError(
            "cannot fold a batch normalisation without running statistics (track_running_stats=False)"
        )
    channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    if bn.num_features != channels:
        raise ValueError(
            f"cannot fold a batch normalisation of {bn.num_features} channels into {channels} outputs"
        )
    mean, variance = bn.running_mean.double(), bn.running_var.double()
    gain = torch.rsqrt(variance + bn.eps)
    if bn.weight is not None:
        gain = gain * bn.weight.detach().double()
    shift = torch.zeros_like(mean) if bn.bias is None else bn.bias.detach().double()
    weight = layer.weight.detach()
    old_bias = torch.zeros_like(mean) if layer.bias is None else layer.bias.detach().double()
    folded_bias = (old_bias - mean) * gain + shift
    return _scaled(weight.double(), gain, layer).to(weight.dtype), folded_bias.to(weight.dtype)


def _scaled(weight: Tensor, gain: Tensor, layer: Foldable) -> Tensor:
    """weight with each output channel multiplied by its gain."""
    if not isinstance(layer, Transposed):
        return weight * gain.view(-1, *[1] * (weight.ndim - 1))
    # the output channels of group g belong to its share of the inputs
    kernel = [1] * (weight.ndim - 2)
    grouped = weight.view(layer.groups, -1, *weight.shape[1:]) * gain.view(layer.groups, 1, -1, *kernel)
    return grouped.view_as(weight)


def fold_batch_norm_(layer: Foldable, bn: BatchNorm) -> None:
    """Fold ``bn`` into ``layer`` in place; the caller puts an ``nn.Identity`` where ``bn`` was."""
    weight, bias = fold_batch_norm(layer, bn)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if layer.bias is None:
            layer.bias = nn.Parameter(bias.clone(), requires_grad=layer.weight.requires_grad)
        else:
            layer.bias.copy_(bias)
