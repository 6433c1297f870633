"""SCNN (Pan et al., AAAI 2018): lane pixels, with messages passed along rows and columns. See ``SCNNDetector``.

Released weights (CULane): github.com/voldemortX/pytorch-auto-drive, docs/MODEL_ZOO.md (r18, r34, vgg16), and
github.com/harryhan618/SCNN_Pytorch (vgg16-harryhan618). ``detector.load_official(path)`` reads such files.
"""

from __future__ import annotations

from lane_models.scnn.detector import VARIANTS, SCNNDetector

__all__ = ["VARIANTS", "SCNNDetector", "build"]


def build(variant: str) -> SCNNDetector:
    """An SCNN with random weights, in eval mode."""
    return SCNNDetector(variant)
