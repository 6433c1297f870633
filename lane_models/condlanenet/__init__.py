"""CondLaneNet (Liu et al., ICCV 2021): each lane's start gives the kernels that find its row-wise positions.

Released weights (CULane): github.com/aliyun/conditional-lane-detection, README.md, culane_small.pth (s_r18) and
culane_medium.pth (m_r34). ``detector.load_official(path)`` reads such a file. See ``CondLaneNetDetector``.
"""

from __future__ import annotations

from lane_models.condlanenet.detector import VARIANTS, CondLaneNetDetector

__all__ = ["VARIANTS", "CondLaneNetDetector", "build"]


def build(variant: str) -> CondLaneNetDetector:
    """A CondLaneNet with random weights, in eval mode."""
    return CondLaneNetDetector(variant)
