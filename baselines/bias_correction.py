"""Bias correction of the heads: after rounding to nearest, every output channel's mean error is taken away.

Nagel et al. 2019 correct every layer's bias; here only the layers that produce the heads, from the calibration
images (our reading: a free baseline, so that no method is credited with what a shifted mean explains).
"""

from selective_focus.job import QuantizationJob
from selective_focus.methods import Method
from selective_focus.start import correct_output_biases


def run(job: QuantizationJob) -> None:
    """Searched ranges, then one closed-form shift of each head's bias."""
    job.quantize_weights()
    job.calibrate_activations()
    correct_output_biases(job)


METHOD = Method(
    "bias-correction",
    "rounding to nearest, then the heads' mean error taken away",
    run,
    source="after Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019",
)
