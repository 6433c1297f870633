"""AdaRound (Nagel et al. 2020): learned rounding of weights, layer by layer; activations by range search."""

from selective_focus.job import QuantizationJob
from selective_focus.methods import Method


def run(job: QuantizationJob) -> None:
    """Learn every layer's rounding with activations in float, then set the activations' ranges."""
    job.quantize_weights()
    job.set_activations(False)
    job.reconstruct_units(job.reconstruction.unit, weights=True, scales=False)
    job.calibrate_activations()


METHOD = Method(
    "adaround",
    "learned rounding, layer by layer",
    run,
    source="Nagel et al., Up or Down? Adaptive Rounding for Post-Training Quantization, 2020",
    reconstruction={"unit": "layer"},
)
