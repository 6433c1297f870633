"""No quantization at all: the row that every other is compared with."""

from selective_focus.job import QuantizationJob
from selective_focus.methods import Method


def run(job: QuantizationJob) -> None:
    """Leave everything as it is; ``quantize`` gives back the detector itself."""


METHOD = Method("fp32", "full precision, batch norms as trained", run)
