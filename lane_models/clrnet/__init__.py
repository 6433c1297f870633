"""CLRNet (Zheng et al., CVPR 2022): lane priors refined from coarse to fine features. See ``CLRNetDetector``.

Released weights (CULane): github.com/Turoad/CLRNet, releases, ``culane_r18.pth.zip`` and so on.
``detector.load_official(path)`` reads such a file.
"""

from __future__ import annotations

from lane_models.clrnet.detector import VARIANTS, CLRNetDetector

__all__ = ["VARIANTS", "CLRNetDetector", "build"]


def build(variant: str) -> CLRNetDetector:
    """A CLRNet with random weights, in eval mode."""
    return CLRNetDetector(variant)
