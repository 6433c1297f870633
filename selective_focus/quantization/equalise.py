"""Equalised inputs: the channels of a convolution's input brought closer together before one step size serves them all.

With s_c of channel c, a convolution gives the same for x_c / s_c and weights W_c s_c. Activations have one step size a
tensor, weights one a row: a channel that stays ten times smaller than its neighbours has two codes of eight at three
bits, and s_c gives it more. Related: cross-layer equalisation (Nagel et al. 2019), for the weights of neighbouring
layers, and SmoothQuant (Xiao et al. 2023), for 8-bit transformers. What it does here: docs/findings.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from selective_focus.quantization.layers import QuantizedLayer, quantized_layers

LIMIT = 8.0
"""The furthest a channel's scale lies from the geometric mean of all: weights have few bits, too."""


def equalise_inputs(model: nn.Module, chunks: Sequence[Tensor], exponent: float) -> int:
    """Divide the input of every layer that has an ``input_scale`` channel by channel, and multiply its weight.

    Before any range is searched, with nothing quantized yet.

    Args:
        chunks: calibration images, [N, 3, H, W] each.
        exponent: 0: nothing changes; 1: the largest values of all channels become the same, but for ``LIMIT``.

    Returns:
        the number of layers whose input is divided.
    """
    layers = [layer for layer in quantized_layers(model).values() if layer.input_scale is not None]
    if not layers:
        return 0
    peaks: dict[QuantizedLayer, Tensor] = {}
    handles = [layer.input.register_forward_pre_hook(partial(_see, peaks, layer)) for layer in layers]
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


def _see(
    peaks: dict[QuantizedLayer, Tensor], layer: QuantizedLayer, quantizer: nn.Module, args: tuple[Any, ...]
) -> None:
    """Keep the largest absolute value of each input channel, over all images and calls of a layer."""
    channels = args[0].detach().movedim(layer.input_axis, 0).flatten(1)
    peak = channels.abs().amax(1)
    peaks[layer] = torch.maximum(peaks[layer], peak) if layer in peaks else peak
