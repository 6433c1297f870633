"""Bias correction of the heads: after rounding to nearest, what a constant shift explains of the error is taken away.

Nagel et al. 2019 correct every layer's bias; here only the layers that produce the heads, from the calibration
images (our reading: a free baseline, so that no method is credited with what a shifted mean explains).
"""

from dataclasses import dataclass
from typing import get_args

from selective_focus.job import QuantizationJob
from selective_focus.methods import Method
from selective_focus.quantization.config import ConfigurationError
from selective_focus.start import Space, correct_output_biases


@dataclass(frozen=True)
class BiasCorrectionOptions:
    """Options of bias correction alone.

    space: "heads", every channel's mean error; "lanes", the shift that brings decoded lanes back (ours; for heads whose
    coefficients cancel, as LSTR's and BézierLaneNet's do), which needs a detector that declares its ``geometry``.
    """

    space: Space = "heads"

    def __post_init__(self) -> None:
        if self.space not in get_args(Space):
            raise ConfigurationError(f"space={self.space!r}: expected one of: {', '.join(get_args(Space))}")


def run(job: QuantizationJob) -> None:
    """Searched ranges, then one closed-form shift of each head's bias."""
    options: BiasCorrectionOptions = job.options
    job.quantize_weights()
    job.calibrate_activations()
    correct_output_biases(job, options.space)


METHOD = Method(
    "bias-correction",
    "rounding to nearest, then the heads' mean error taken away",
    run,
    source="after Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019",
    options=BiasCorrectionOptions,
)
