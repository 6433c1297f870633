"""LSTR (Liu et al., WACV 2021): lanes as polynomials seen by a camera, found by a transformer's queries.

Variants and where their released weights come from:

    tusimple    the original, github.com/liuruijin17/LSTR: cache/nnet/LSTR/LSTR_500000.pkl (3 MB)
    culane      the same, branch ``culane``: cache/nnet/LSTR_CULANE/LSTR_CULANE_500000.pkl (3 MB)
    r18s2x, r34 github.com/voldemortX/pytorch-auto-drive, docs/MODEL_ZOO.md, LSTR on CULane

``build(variant)`` gives the detector, ``detector.load_official(path)`` reads such a file.
"""

from __future__ import annotations

from lane_models.lstr.detector import VARIANTS, LSTRDetector

__all__ = ["VARIANTS", "LSTRDetector", "build"]


def build(variant: str) -> LSTRDetector:
    """An LSTR with random weights, in eval mode."""
    return LSTRDetector(variant)
