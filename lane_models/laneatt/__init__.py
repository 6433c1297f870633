"""LaneATT (Tabelini et al., CVPR 2021): anchors with attention. See ``detector.LaneATTDetector``."""

from __future__ import annotations

from lane_models.laneatt.detector import VARIANTS, LaneATTDetector

__all__ = ["VARIANTS", "LaneATTDetector", "build"]


def build(variant: str) -> LaneATTDetector:
    """A LaneATT with random weights, in eval mode."""
    return LaneATTDetector(variant)
