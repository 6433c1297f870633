"""BRECQ (Li et al. 2021): learned rounding block by block, then activation step sizes block by block.

Defaults are those of the authors' code, except that the first layer (8 bits) is reconstructed too, as in every other
method here.
"""

from dataclasses import dataclass, replace

from selective_focus.job import QuantizationJob
from selective_focus.methods import Method


@dataclass(frozen=True)
class BrecqOptions:
    """iterations of the second phase as a share of the first's (the authors: 5,000 of 20,000)."""

    activation_phase: float = 0.25


def run(job: QuantizationJob) -> None:
    """Weights first with activations in float; then step sizes with float inputs and a loss of power 2.4."""
    job.quantize_weights()
    job.set_activations(False)
    job.reconstruct_units(job.reconstruction.unit, weights=True, scales=False)
    job.calibrate_activations()
    iterations = max(1, round(job.reconstruction.iterations * job.options.activation_phase))
    job.reconstruct_units(
        job.reconstruction.unit,
        weights=False,
        scales=True,
        loss_power=2.4,
        float_inputs=True,
        settings=replace(job.reconstruction, iterations=iterations),
    )


METHOD = Method(
    "brecq",
    "learned rounding, then step sizes, block by block",
    run,
    source="Li et al., BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction, 2021",
    reconstruction={"unit": "block", "scale_lr": 4e-4, "scale_steps": "absolute"},
    options=BrecqOptions,
)
