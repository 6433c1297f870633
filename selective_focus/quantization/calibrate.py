"""Ranges for a wrapped model: weights from their values, activations from histograms of a calibration run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from selective_focus.quantization.aciq import AciqStatistics, aciq_range
from selective_focus.quantization.affine import Grid, grid_from_range
from selective_focus.quantization.config import FLOAT_BITS, QuantizationConfig
from selective_focus.quantization.histogram import Histogram
from selective_focus.quantization.importance import ImportanceObserver
from selective_focus.quantization.layers import (
    ActivationQuantizer,
    Observer,
    QuantizedLayer,
    QuantizedMatMul,
    activation_quantizers,
    float_weights,
    quantized_layers,
)
from selective_focus.quantization.ranges import golden_section, min_max, mse_grid, mse_shrink

Probe = Callable[[Any], Tensor]
"""A model's outputs -> a scalar that can be differentiated."""


def calibrate_weights(model: nn.Module, config: QuantizationConfig) -> None:
    """Set the grid of every quantized weight and round it to nearest."""
    for layer in quantized_layers(model).values():
        if layer.weight_bits != FLOAT_BITS:
            layer.set_weight_grid(weight_grid(layer, config))


def weight_grid(layer: QuantizedLayer, config: QuantizationConfig) -> Grid:
    """The grid of one layer's weight, per output channel or for the whole tensor."""
    rows, bits, symmetric = layer.rows(layer.float_weight), layer.weight_bits, config.weight_symmetric
    per_channel, p, rule = config.weight_per_channel, config.weight_power, config.symmetric_rule
    if config.weight_range == "mse":
        return mse_shrink(rows, bits, per_channel, symmetric, p, rule=rule, include_zero=True)
    if config.weight_range == "mse-grid":
        lo, hi = mse_grid(rows, bits, per_channel, symmetric, p, rule=rule)
    elif config.weight_range == "golden-section":
        lo, hi = golden_section(rows, bits, per_channel, symmetric, p, rule)
    else:
        lo, hi = min_max(rows, per_channel)
    return grid_from_range(lo, hi, bits, symmetric, rule)


def calibrate_activations(model: nn.Module, chunks: Sequence[Tensor], config: QuantizationConfig) -> None:
    """Set the range of every activation quantizer from one pass over the calibration images.

    Weights are in floating point while looking (QDrop: "observers first, in float").
    """
    histograms = _observed(model, config)
    with _observing(histograms), torch.no_grad(), float_weights(quantized_layers(model).values()):
        for chunk in chunks:
            model(chunk)
    _set_grids(model, histograms, config)


def recalibrate_by_importance(
    model: nn.Module, chunks: Sequence[Tensor], config: QuantizationConfig, probes: Sequence[Probe]
) -> int:
    """Find the ranges again, each value weighed by what an error in it does to the outputs (``importance.py``).

    An activation that the probes do not depend on keeps its range.

    Args:
        probes: for each chunk the combination of the model's outputs to take the gradient of.

    Returns:
        the number of ranges that were found again.
    """
    histograms = _observed(model, config)
    observers = {quantizer: ImportanceObserver(histogram) for quantizer, histogram in histograms.items()}
    with _observing(observers), torch.enable_grad(), float_weights(quantized_layers(model).values()):
        for chunk, probe in zip(chunks, probes, strict=True):
            # a copy of its own: the images may be inference tensors, and a model may work in place on its input
            probed = probe(model(chunk.clone().requires_grad_().clone()))
            if probed.requires_grad:
                probed.backward()  # type: ignore[no-untyped-call]
    # where a ReLU is silent on the lanes there is nothing to search in
    found = {quantizer: h for quantizer, h in histograms.items() if h.minimum < h.maximum}
    _set_grids(model, found, config)
    return len(found)


def _observed(model: nn.Module, config: QuantizationConfig) -> dict[ActivationQuantizer, Histogram]:
    quantizers = [q for q in activation_quantizers(model).values() if q.bits != FLOAT_BITS]
    return {quantizer: Histogram(config.histogram_bins) for quantizer in quantizers}


@contextmanager
def _observing(observers: Mapping[ActivationQuantizer, Observer]) -> Iterator[None]:
    """While entered, nothing is quantized and the observers see every activation."""
    for quantizer, observer in observers.items():
        quantizer.observer = observer
    try:
        yield
    finally:
        for quantizer in observers:
            quantizer.observer = None


def _set_grids(
    model: nn.Module, histograms: Mapping[ActivationQuantizer, Histogram], config: QuantizationConfig
) -> None:
    """Give every quantizer that saw anything its range, and switch it on."""
    factors = _factors_of_products(model)
    for quantizer, histogram in histograms.items():
        if histogram.count:
            product = quantizer in factors
            quantizer.set_grid(activation_grid(histogram, quantizer.bits, config, product=product))
            quantizer.enabled = True


def _factors_of_products(model: nn.Module) -> set[ActivationQuantizer]:
    """The quantizers of what attention products multiply."""
    products = [module for module in model.modules() if isinstance(module, QuantizedMatMul)]
    return {quantizer for product in products for quantizer in activation_quantizers(product).values()}


def activation_grid(
    histogram: Histogram, bits: int, config: QuantizationConfig, *, product: bool = False
) -> Grid:
    """The grid of one activation, per tensor and asymmetric, from all its calibration values.

    Args:
        product: it is a factor of an attention product. ACIQ does not clip those: attention is almost all zeros and
            a few ones, no density of its kind, and its authors clip the outputs of convolutions and linear layers.
    """
    kind, p = config.activation_range, config.activation_power
    if kind == "mse":
        lo, hi = mse_grid(histogram, bits, p=p)
    elif kind == "golden-section":
        lo, hi = golden_section(histogram, bits, p=p)
    elif kind == "percentile":
        lo, hi = _percentile(histogram, config.percentile)
    elif kind == "average-min-max":
        lo, hi = map(torch.tensor, histogram.average_extremes)
    elif kind == "aciq" and not product:
        one_sided = histogram.minimum >= 0
        lo, hi = aciq_range(_statistics(histogram), bits, config.aciq_density, one_sided)
    else:
        lo, hi = torch.tensor(histogram.minimum), torch.tensor(histogram.maximum)
    return grid_from_range(lo, hi, bits)


def _percentile(histogram: Histogram, p: float) -> tuple[Tensor, Tensor]:
    """The (100 - p)-th and p-th percentile, to the resolution of the bins."""
    values, counts = histogram.points()
    order = values.argsort()
    share = counts[order].cumsum(0) / counts.sum()
    values = values[order]
    below = torch.searchsorted(share, torch.tensor(1 - p / 100, dtype=share.dtype))
    above = torch.searchsorted(share, torch.tensor(p / 100, dtype=share.dtype)).clamp(max=len(values) - 1)
    return values[below], values[above]


def _statistics(histogram: Histogram) -> AciqStatistics:
    """ACIQ's statistics of all calibration values, to the resolution of the bins."""
    values, counts = histogram.points()
    total = counts.sum()
    mean = (values * counts).sum() / total
    deviation = (values - mean).abs()
    b = (deviation * counts).sum() / total
    std = ((deviation.square() * counts).sum() / (total - 1).clamp(min=1)).sqrt()
    return AciqStatistics(float(mean), float(b), float(std), histogram.minimum)
