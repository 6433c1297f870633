"""GANet (Wang et al., CVPR 2022): key points of lanes, each of which says where its lane starts. See ``GANetDetector``.

Released weights (CULane): github.com/Wolfwjs/GANet, README.md, ganet_culane_resnet18.pth (s_r18) and
ganet_culane_resnet34.pth (m_r34). ``detector.load_official(path)`` reads such a file.
"""

from __future__ import annotations

from lane_models.ganet.detector import VARIANTS, GANetDetector

__all__ = ["VARIANTS", "GANetDetector", "build"]


def build(variant: str) -> GANetDetector:
    """A GANet with random weights, in eval mode."""
    return GANetDetector(variant)
