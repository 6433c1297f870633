"""BézierLaneNet (Feng et al., CVPR 2022): one cubic Bézier curve a column of the image.

Released weights of the variants r18 and r34 (CULane): github.com/voldemortX/pytorch-auto-drive,
docs/MODEL_ZOO.md, BezierLaneNet level 1b. ``detector.load_official(path)`` reads such a file.
"""

from __future__ import annotations

from lane_models.bezierlanenet.detector import VARIANTS, BezierLaneNetDetector

__all__ = ["VARIANTS", "BezierLaneNetDetector", "build"]


def build(variant: str) -> BezierLaneNetDetector:
    """A BézierLaneNet with random weights, in eval mode."""
    return BezierLaneNetDetector(variant)
