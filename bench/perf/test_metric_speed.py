"""CULane's F1 and TuSimple's accuracy beside plain references; run with ``pytest bench/perf --benchmark-only``.

The CULane reference draws every pair of lanes on full canvases, as the C++ evaluator does, but from ready-made splines
and with one call a lane: so the ratios below say less than a comparison with the evaluator itself would.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest

from bench.metrics import culane, tusimple
from tests import reference_culane
from tests.road_lanes import Lanes, road_image

IMAGES = 60
PLAIN_IMAGES = 8


@pytest.fixture(scope="module")
def images() -> list[tuple[Lanes, Lanes]]:
    """(predicted, annotated): about 4 lanes of 20 and 24 points each."""
    rng = np.random.default_rng(0)
    return [road_image(rng) for _ in range(IMAGES)]


@pytest.fixture(scope="module")
def plain_seconds(images: list[tuple[Lanes, Lanes]]) -> float:
    """Processor time of the plain reference for one image."""
    cv2.setNumThreads(1)
    curves = [
        [[reference_culane.curve(lane.tolist()) for lane in lanes] for lanes in image]
        for image in images[:PLAIN_IMAGES]
    ]
    plain = _seconds(lambda: [reference_culane.counts(*image) for image in curves]) / PLAIN_IMAGES
    ours = [culane.count_matches(*image) for image in images[:PLAIN_IMAGES]]
    assert [(c.tp, c.fp, c.fn) for c in ours] == [reference_culane.counts(*image) for image in curves]
    return plain


def _seconds(work: Callable[[], object], rounds: int = 3) -> float:
    """Least processor time of some rounds: other processes on the machine do not count."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def _compare(benchmark: Any, work: Callable[[], object], plain: float, goal: float) -> None:
    """Report the speed beside the goal; a busy machine is no mistake, so nothing is asserted."""
    benchmark.pedantic(work, rounds=3, warmup_rounds=1)
    ours = _seconds(work) / IMAGES
    benchmark.extra_info.update(ms_per_image=ours * 1e3, times_as_fast=plain / ours, goal=goal)


def test_culane_counts(benchmark: Any, images: list[tuple[Lanes, Lanes]], plain_seconds: float) -> None:
    _compare(benchmark, lambda: [culane.count_matches(*image) for image in images], plain_seconds, goal=10)


def test_culane_counts_at_ten_thresholds(
    benchmark: Any, images: list[tuple[Lanes, Lanes]], plain_seconds: float
) -> None:
    _compare(benchmark, lambda: [culane.count_matches_at(*image) for image in images], plain_seconds, goal=10)


def test_culane_counts_with_annotations_drawn_before(
    benchmark: Any, images: list[tuple[Lanes, Lanes]], plain_seconds: float
) -> None:
    drawn = culane.prepare_all([annotated for _, annotated in images])
    pairs = [(predicted, truth) for (predicted, _), truth in zip(images, drawn, strict=True)]
    _compare(benchmark, lambda: [culane.count_matches(*pair) for pair in pairs], plain_seconds, goal=20)


def test_culane_counts_drawn_together(
    benchmark: Any, images: list[tuple[Lanes, Lanes]], plain_seconds: float
) -> None:
    def together() -> None:
        for start in range(0, IMAGES, 10):
            some = images[start : start + 10]
            drawn = culane.prepare_all([lanes for image in some for lanes in image])
            for predicted, annotated in zip(drawn[::2], drawn[1::2], strict=True):
                culane.count_matches(predicted, annotated)

    _compare(benchmark, together, plain_seconds, goal=20)


def test_tusimple_scores(benchmark: Any) -> None:
    rng = np.random.default_rng(0)
    rows = list(range(160, 720, 10))
    annotated = [[400.0 + 200 * lane + 3 * k for k in range(len(rows))] for lane in range(4)]
    predicted = [(np.array(annotated) + rng.normal(0, 8, (4, len(rows)))).tolist() for _ in range(IMAGES)]
    benchmark(lambda: [tusimple.score_image(lanes, annotated, rows) for lanes in predicted])
