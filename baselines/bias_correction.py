"""Bias correction of the heads: after rounding to nearest, every output channel's mean error is taken away.

Nagel et al. 2019 correct every layer's bias; here only the layers that produce the heads, from the calibration
images (our reading: a free baseline, so that no method is credited with what a shifted mean explains).
"""

import torch
from torch import Tensor, nn

from selective_focus.job import QuantizationJob
from selective_focus.methods import Method
from selective_focus.quantization.layers import quantized_layers


def run(job: QuantizationJob) -> None:
    """Searched ranges, then one closed-form shift of each head's bias."""
    job.quantize_weights()
    job.calibrate_activations()
    expected = mean_outputs(job.float_model, job.twins.output_layers, job.chunks())
    found = mean_outputs(job.model, job.twins.output_layers, job.chunks())
    for name, layer in quantized_layers(job.model).items():
        if name in expected:
            shift_bias(layer.layer, expected[name] - found[name])


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
    if layer.bias is None:
        layer.bias = nn.Parameter(layer.weight.new_zeros(len(shift)), requires_grad=False)
    layer.bias.data.add_(shift.to(layer.bias))


METHOD = Method(
    "bias-correction",
    "rounding to nearest, then the heads' mean error taken away",
    run,
    source="after Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019",
)
