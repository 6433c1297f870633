"""Selective Focus: post-training quantization that knows what a lane detector's outputs mean."""

from selective_focus.detector import Heads, Lane, LaneDetector, MatMul, QuantizationLog

__version__ = "0.1.0"

__all__ = ["Heads", "Lane", "LaneDetector", "MatMul", "QuantizationLog", "__version__"]
