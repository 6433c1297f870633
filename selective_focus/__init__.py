"""Selective Focus: post-training quantization that knows what a lane detector's outputs mean."""

from selective_focus.detector import Heads, Lane, LaneDetector, MatMul, QuantizationLog
from selective_focus.lane_distortion import LaneDistortion, lane_distortion_score
from selective_focus.methods import methods
from selective_focus.quantization.config import ConfigurationError
from selective_focus.quantize import quantize, resolve_options
from selective_focus.saved_state import (
    SavedDescription,
    SavedStateError,
    load_quantized,
    save_quantized,
    saved_description,
)

__version__ = "0.1.0"

__all__ = [
    "ConfigurationError",
    "Heads",
    "Lane",
    "LaneDetector",
    "LaneDistortion",
    "MatMul",
    "QuantizationLog",
    "SavedDescription",
    "SavedStateError",
    "__version__",
    "lane_distortion_score",
    "load_quantized",
    "methods",
    "quantize",
    "resolve_options",
    "save_quantized",
    "saved_description",
]
