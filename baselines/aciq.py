"""ACIQ (Banner et al. 2019): activations clipped analytically for a Laplace density, weights min-max."""

from selective_focus.job import QuantizationJob
from selective_focus.methods import Method


def run(job: QuantizationJob) -> None:
    """Analytical ranges from statistics of all calibration images together.

    The authors' collected mode averages those of batches.
    """
    job.quantize_weights()
    job.calibrate_activations()


METHOD = Method(
    "aciq",
    "analytical clipping of activations, weights min-max",
    run,
    source="Banner et al., Post training 4-bit quantization of convolutional networks, 2019",
    quantization={"weight_range": "min-max", "activation_range": "aciq"},
)
