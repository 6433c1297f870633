"""Equalised inputs: the channels of a layer's input brought closer together before one step size serves them all.

With s_c of channel c, a convolution gives the same for x_c / s_c and weights W_c s_c, so the
division can be left to whatever writes x. Activations have one step size a tensor, weights one a row: a channel that
stays ten times smaller than its neighbours has one code of eight at three bits, and s_c gives it more. What the
weights pay is learned around. Related: cross-layer equalisation (Nagel et al. 2019), for the weights of neighbouring
layers, and SmoothQuant (Xiao et al. 2023), for 8-bit transformers. What it does here: docs/findings.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from selective_focus.quantization.config import FLOAT_BITS
from selective_focus.quantization.layers import QuantizedLayer, quantized_layers

ENOUGH_BITS = 8
"""Of a layer's input: there is nothing to win with so many."""
LIMIT = 8.0
"""A channel is made at most this much larger or smaller against the others: weights have few bits, too."""


def equalise_inputs(model: nn.Module, chunks: Sequence[Tensor], exponent: float) -> int:
    """Divide the input of every convolution of few activation bits channel by channel, and multiply its weight.

    Before any range is searched, with nothing quantized yet. Linear layers are left as they are: in a lane detector
    they read proposals, and the largest values are those of proposals off the lanes. So are layers of several groups.

    Args:
        chunks: calibration images, [N, 3, H, W] each.
        exponent: 0: nothing changes; 1: the largest values of all channels become the same.

    Returns:
        the number of layers whose input is divided.
    """
    layers = [layer for layer in quantized_layers(model).values() if _can_be_equalised(layer)]
    peaks: dict[QuantizedLayer, Tensor] = {}
    handles = [layer.register_forward_pre_hook(partial(_see, peaks)) for layer in layers]
    try:
        with torch.no_grad():
            for chunk in chunks:
                model(chunk)
    finally:
        for handle in handles:
            handle.remove()
    for layer, peak in peaks.items():
        layer.divide_input(equalising_scale(peak, exponent))
    return len(peaks)


def equalising_scale(peaks: Tensor, exponent: float, limit: float = LIMIT) -> Tensor:
    """s_c = (peak of channel c)^exponent, divided by the geometric mean over channels, within 1/limit..limit.

    peaks: largest absolute value of each channel [C]. A channel that is always 0 has s_c = 1.
    """
    alive = peaks > 1e-6 * peaks.max()
    logs = exponent * torch.where(alive, peaks, 1.0).log()
    mean = logs[alive].mean() if alive.any() else logs.new_zeros(())
    return torch.where(alive, (logs - mean).exp().clamp(1 / limit, limit), 1.0)


def _can_be_equalised(layer: QuantizedLayer) -> bool:
    of_maps = layer.float_weight.ndim > 2 and getattr(layer.layer, "groups", 1) == 1
    return of_maps and layer.input.bits != FLOAT_BITS and layer.input.bits < ENOUGH_BITS


def _see(peaks: dict[QuantizedLayer, Tensor], layer: QuantizedLayer, args: tuple[Any, ...]) -> None:
    """Keep the largest absolute value of each input channel, over all images and calls of a layer."""
    channels = args[0].detach().movedim(1, 0).flatten(1)
    peak = channels.abs().amax(1)
    peaks[layer] = torch.maximum(peaks[layer], peak) if layer in peaks else peak
