"""BRECQ (Li et al. 2021): learned rounding block by block, then activation step sizes block by block.

Defaults are those of the authors' code, except that the first layer (8 bits) is reconstructed too, as in every other
method here.
"""

from dataclasses import dataclass, replace
from typing import get_args

from selective_focus.job import QuantizationJob
from selective_focus.methods import Method
from selective_focus.quantization.config import ConfigurationError
from selective_focus.quantization.fisher import FisherKind, FisherScale


@dataclass(frozen=True)
class BrecqOptions:
    """Options of BRECQ alone.

    activation_phase: iterations of the second phase as a share of the first's (the authors: 5,000 of 20,000).
    fisher: weigh a unit's errors by the task's gradient in the first phase, "diagonal" or "full"; "none" as in the
    authors' main program. The task of a lane detector is our reading (``selective_focus/quantization/fisher.py``).
    fisher_scale: gradients at mean square 1, or the authors' |gradient| + 1, which is nearly no weighting.
    """

    activation_phase: float = 0.25
    fisher: FisherKind = "none"
    fisher_scale: FisherScale = "normalised"

    def __post_init__(self) -> None:
        if not self.activation_phase > 0:
            raise ConfigurationError(f"activation_phase={self.activation_phase}: expected a share above 0")
        for name, choices in (("fisher", FisherKind), ("fisher_scale", FisherScale)):
            if getattr(self, name) not in get_args(choices):
                raise ConfigurationError(
                    f"{name}={getattr(self, name)!r}: expected one of: {', '.join(get_args(choices))}"
                )


def run(job: QuantizationJob) -> None:
    """Weights first with activations in float; then step sizes with float inputs and a loss of power 2.4."""
    job.quantize_weights()
    job.set_activations(False)
    options: BrecqOptions = job.options
    fisher = (options.fisher, options.fisher_scale)
    job.reconstruct_units(job.reconstruction.unit, weights=True, scales=False, fisher=fisher)
    job.calibrate_activations()
    iterations = max(1, round(job.reconstruction.iterations * options.activation_phase))
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
