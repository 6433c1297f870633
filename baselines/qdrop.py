"""QDrop (Wei et al. 2022): rounding and step sizes together, block by block, activations randomly kept in float."""

from selective_focus.job import QuantizationJob
from selective_focus.methods import Method


def run(job: QuantizationJob) -> None:
    """One joint phase; ``keep_probability`` is the chance that an element stays quantized.

    Weights start from the range search that all methods share; the authors' own is ``weight_range="mse-grid"``.
    """
    job.quantize_weights()
    job.calibrate_activations()
    job.reconstruct_units(job.reconstruction.unit, weights=True, scales=True)


METHOD = Method(
    "qdrop",
    "learned rounding and step sizes with random dropping, block by block",
    run,
    source="Wei et al., QDrop: Randomly Dropping Quantization for Extremely Low-bit PTQ, 2022",
    reconstruction={
        "unit": "block",
        "keep_probability": 0.5,
        "batch_sampling": "with-replacement",
        "scale_steps": "absolute",
    },
)
