"""Correcting biases from means: what rounding to nearest shifts on the average is taken away (Nagel et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def mean_outputs(model: nn.Module, names: list[str], chunks: list[Tensor]) -> dict[str, Tensor]:
    """The mean of each output channel [C] of the named layers over all images, calls and positions, in float64."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def watch(name: str, module: nn.Module, output: Tensor) -> None:
        linear = isinstance(getattr(module, "layer", module), nn.Linear)
        channels = output if linear else output.movedim(1, -1)
        rows = channels.reshape(-1, channels.shape[-1]).double()
        sums[name] = sums.get(name, rows.new_zeros(rows.shape[1])) + rows.sum(0)
        counts[name] = counts.get(name, 0) + len(rows)

    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda module, args, output, n=name: watch(n, module, output)
        )
        for name in names
    ]
    try:
        with torch.no_grad():
            for chunk in chunks:
                model(chunk)
    finally:
        for handle in handles:
            handle.remove()
    return {name: total / counts[name] for name, total in sums.items()}


def shift_bias(layer: nn.Module, shift: Tensor) -> None:
    """Add ``shift`` [C] to a layer's bias, giving it one if it has none."""
    bias, weight = layer.bias, layer.weight
    assert isinstance(weight, Tensor)
    if not isinstance(bias, Tensor):
        bias = layer.bias = nn.Parameter(weight.new_zeros(len(shift)), requires_grad=False)
    bias.data.add_(shift.to(bias))
