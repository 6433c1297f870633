"""From where a network-wise reconstruction starts: searched ranges, or a cheaper method's result on top of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from selective_focus.job import QuantizationJob
from selective_focus.lane_bias import lane_shifts
from selective_focus.quantization.bias import mean_outputs, shift_bias
from selective_focus.quantization.layers import quantized_layers

Space = Literal["heads", "lanes"]
"""Where the error is measured that a bias correction takes away."""

Start = Literal["ranges", "bias-correction", "layer", "block"]


def start_from(job: QuantizationJob, start: Start, iterations: int | None = None) -> None:
    """Bring a fresh job to where the reconstruction of its heads starts.

    "ranges": searched ranges, weights rounded to nearest. "bias-correction": and the heads' mean error taken away.
    "layer": AdaRound's result, every layer's rounding learned with activations in float, then ranges.
    "block": QDrop's result, rounding and step sizes of every block learned.

    Args:
        iterations: of each layer or block; None: as many as the reconstruction that follows.
    """
    settings = replace(job.reconstruction, iterations=iterations or job.reconstruction.iterations)
    job.quantize_weights()
    if start == "layer":
        job.set_activations(False)
        job.reconstruct_units(
            "layer", weights=True, scales=False, settings=replace(settings, keep_probability=1.0)
        )
    job.calibrate_activations()
    if start == "bias-correction":
        correct_output_biases(job)
    if start == "block":
        job.reconstruct_units("block", weights=True, scales=True, settings=settings)


def correct_output_biases(job: QuantizationJob, space: Space = "heads") -> None:
    """One closed-form shift of each output layer's bias, from the calibration images.

    "heads": the mean error of each channel. "lanes": where it moves lanes, the least-squares shift that brings them
    back (``lane_bias.py``).
    """
    expected = mean_outputs(job.float_model, job.twins.output_layers, job.chunks())
    found = mean_outputs(job.model, job.twins.output_layers, job.chunks())
    shifts = {name: mean - found[name] for name, mean in expected.items()}
    if space == "lanes":
        shifts = lane_shifts(job, shifts)
    layers = quantized_layers(job.model)
    for name, shift in shifts.items():
        shift_bias(layers[name].layer, shift)
