"""OMSE (Choukroun et al. 2019): ranges of least mean squared error (p = 2), rounding to nearest."""

from selective_focus.job import QuantizationJob
from selective_focus.methods import Method


def run(job: QuantizationJob) -> None:
    """Searched ranges; nothing is learned."""
    job.quantize_weights()
    job.calibrate_activations()


METHOD = Method(
    "omse",
    "ranges of least squared error, rounding to nearest",
    run,
    source="Choukroun et al., Low-bit Quantization of Neural Networks for Efficient Inference, 2019",
    quantization={"weight_power": 2.0, "activation_power": 2.0},
)
