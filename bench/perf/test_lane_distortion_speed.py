"""Speed of the Lane Distortion Score; run with ``pytest bench/perf --benchmark-only``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from selective_focus.detector import Lane
from selective_focus.lane_distortion import lane_distortion_scores, sample_rows

IMAGES, LANES, POINTS = 200, 4, 60
PAIRS_PER_SECOND = 2000
"""Goal for one core with full-precision lanes prepared once, decoding excluded."""


def _images(shift: float) -> list[list[Lane]]:
    """Four slanted lanes of 60 points in each image, bottom first, moved by about ``shift`` px."""
    random = np.random.default_rng(0)
    y = np.linspace(590, 250, POINTS)
    return [
        [
            Lane(np.stack([slot * 400 + random.normal(0, 40) + shift + 0.3 * (590 - y), y], axis=1))
            for slot in range(LANES)
        ]
        for _ in range(IMAGES)
    ]


@pytest.mark.parametrize("prepared", [True, False], ids=["references prepared", "from points"])
def test_pairs_per_second(benchmark: Any, prepared: bool) -> None:
    references: Any = _images(0.0)
    others = _images(5.0)
    if prepared:
        references = [sample_rows(lanes) for lanes in references]
    benchmark.extra_info["pairs"] = IMAGES
    scores = benchmark(lane_distortion_scores, references, others)
    assert all(score.score == pytest.approx(5.0) for score in scores)
    benchmark.extra_info["pairs_per_second"] = round(IMAGES / benchmark.stats.stats.median)
    benchmark.extra_info["goal"] = PAIRS_PER_SECOND
