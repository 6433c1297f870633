"""Min-max ranges and rounding to nearest: what a deployment tool does by default."""

from selective_focus.job import QuantizationJob
from selective_focus.methods import Method


def run(job: QuantizationJob) -> None:
    """Ranges from the extremes; nothing is learned."""
    job.quantize_weights()
    job.calibrate_activations()


METHOD = Method(
    "minmax",
    "min-max ranges, rounding to nearest",
    run,
    source="TensorRT-style default",
    quantization={"weight_range": "min-max", "activation_range": "min-max"},
)
