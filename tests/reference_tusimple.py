"""TuSimple's score of one image in its plainest form, frozen: the yardstick for speed.

One pair of lanes at a time, as the benchmark's ``lane.py`` goes about it, with a library's least squares for the slope
of a lane. Nothing is shared with ``bench.metrics``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

Lanes = Sequence[Sequence[float]]
Slope = Callable[[np.ndarray, np.ndarray], float]


def least_squares(x: np.ndarray, y: np.ndarray) -> float:
    """Slope of x over y."""
    solution, *_ = np.linalg.lstsq(np.stack([y, np.ones_like(y)], axis=1), x, rcond=None)
    return float(solution[0])


def score(
    predicted: Lanes, annotated: Lanes, rows: Sequence[float], slope: Slope = least_squares
) -> tuple[float, float, float]:
    """(accuracy, FP, FN) of one image."""
    if len(predicted) > len(annotated) + 2:
        return 0.0, 0.0, 1.0
    heights = np.array(rows, dtype=np.float64)
    best, matched, missed = [], 0, 0
    for truth in annotated:
        x = np.array(truth, dtype=np.float64)
        there = x >= 0
        angle = math.atan(slope(x[there], heights[there])) if there.sum() > 1 else 0.0
        threshold = 20 / math.cos(angle)
        shares = [share(lane, truth, threshold) for lane in predicted]
        most = max(shares) if shares else 0.0
        matched += most >= 0.85
        missed += most < 0.85
        best.append(most)
    total = sum(best)
    if len(annotated) > 4:
        missed = max(missed - 1, 0)
        total -= min(best)
    counted = max(min(len(annotated), 4), 1)
    return (
        total / counted,
        (len(predicted) - matched) / len(predicted) if predicted else 0.0,
        missed / counted,
    )


def share(predicted: Sequence[float], annotated: Sequence[float], threshold: float) -> float:
    """Of right points."""
    a = np.array([value if value >= 0 else -100 for value in predicted])
    b = np.array([value if value >= 0 else -100 for value in annotated])
    return float(np.sum(np.where(np.abs(a - b) < threshold, 1.0, 0.0)) / len(b))
