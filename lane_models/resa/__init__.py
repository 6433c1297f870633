"""RESA (Zheng et al., AAAI 2021): lane pixels, with features shifted along rows and columns. See ``RESADetector``.

Released weights (CULane): github.com/voldemortX/pytorch-auto-drive, docs/MODEL_ZOO.md (r18, r34), and
github.com/ZJULearning/resa (zju_r50; zju_r34 is the same code with the smaller backbone).
``detector.load_official(path)`` reads such files.
"""

from __future__ import annotations

from lane_models.resa.detector import VARIANTS, RESADetector

__all__ = ["VARIANTS", "RESADetector", "build"]


def build(variant: str) -> RESADetector:
    """A RESA with random weights, in eval mode."""
    return RESADetector(variant)
