"""CULane's F1 and TuSimple's accuracy beside plain references; run with ``pytest bench/perf --benchmark-only``.

``times_as_fast`` compares with the frozen reference of the tests: CULane's draws every pair of lanes on full canvases,
as the C++ evaluator does, but from ready-made splines and with one call a lane, so the ratio to the evaluator itself is
larger. ``times_as_fast_as_drawing_once`` compares with drawing each lane once on a full canvas, measured elsewhere as
1.6 times as fast as the C++ evaluator: 1.6 times this ratio is an estimate of the ratio to the evaluator. TuSimple's
goal is against the regression of ``lane.py`` (pip install scikit-learn). Files are not read; see full_culane.py.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from bench.metrics import culane, routes, tusimple
from bench.metrics.spline import pixel_paths
from tests import reference_culane, reference_tusimple
from tests.road_lanes import Lanes, road_image

IMAGES = 60
PLAIN_IMAGES = 8
SIZE, WIDTH = (590, 1640), 30


@dataclass(frozen=True)
class Plain:
    """Processor seconds of an image: every pair drawn, and every lane drawn once (splines included)."""

    pairs: float
    once: float


@pytest.fixture(scope="module")
def images() -> list[tuple[Lanes, Lanes]]:
    """(predicted, annotated): about 4 lanes of 20 and 24 points each."""
    rng = np.random.default_rng(0)
    return [road_image(rng) for _ in range(IMAGES)]


@pytest.fixture(scope="module")
def plain(images: list[tuple[Lanes, Lanes]]) -> Plain:
    cv2.setNumThreads(1)
    few = images[:PLAIN_IMAGES]
    curves = [[[reference_culane.curve(lane.tolist()) for lane in lanes] for lanes in image] for image in few]
    pairs = _seconds(lambda: [reference_culane.counts(*image) for image in curves]) / PLAIN_IMAGES
    once = _seconds(lambda: [_drawn_once(*image) for image in few]) / PLAIN_IMAGES
    expected = [reference_culane.counts(*image) for image in curves]
    assert [(c.tp, c.fp, c.fn) for c in (culane.count_matches(*image) for image in few)] == expected
    assert [_drawn_once(*image) for image in few] == [count[0] for count in expected]
    return Plain(pairs, once)


@pytest.fixture(params=["numpy", "compiled"])
def route(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "compiled":
        pytest.importorskip("numba")
    with routes.going(request.param):
        yield


def _drawn_once(predicted: Lanes, annotated: Lanes) -> int:
    """True positives, each lane drawn once on a full canvas, repeated pixels dropped."""
    masks = []
    for path in map(pixel_paths, ([*predicted], [*annotated])):
        masks.append([np.zeros(SIZE, dtype=np.uint8) for _ in range(len(path))])
        for lane, mask in enumerate(masks[-1]):
            cv2.polylines(mask, [path[lane].T], False, 1, WIDTH)
    areas = [[cv2.countNonZero(mask) for mask in side] for side in masks]
    shared = np.array([[cv2.countNonZero(a & b) for a in masks[0]] for b in masks[1]])
    iou = shared / (np.array(areas[1])[:, None] + np.array(areas[0]) - shared)
    return int(sum(iou[row, column] > 0.5 for row, column in enumerate(culane.match(iou)) if column >= 0))


def _seconds(work: Callable[[], object], rounds: int = 5) -> float:
    """Least processor time of some rounds: other processes on the machine do not count."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def _compare(benchmark: Any, work: Callable[[], object], plain: Plain, goal: float) -> None:
    """Report the speed beside the goal; a busy machine is no mistake, so nothing is asserted."""
    benchmark.pedantic(work, rounds=3, warmup_rounds=1)
    ours = _seconds(work) / IMAGES
    benchmark.extra_info.update(
        ms_per_image=ours * 1e3,
        times_as_fast=plain.pairs / ours,
        times_as_fast_as_drawing_once=plain.once / ours,
        goal=goal,
    )


@pytest.mark.usefixtures("route")
def test_culane_counts(benchmark: Any, images: list[tuple[Lanes, Lanes]], plain: Plain) -> None:
    _compare(benchmark, lambda: [culane.count_matches(*image) for image in images], plain, goal=15)


@pytest.mark.usefixtures("route")
def test_culane_counts_at_ten_thresholds(
    benchmark: Any, images: list[tuple[Lanes, Lanes]], plain: Plain
) -> None:
    _compare(benchmark, lambda: [culane.count_matches_at(*image) for image in images], plain, goal=15)


@pytest.mark.usefixtures("route")
def test_culane_counts_with_annotations_drawn_before(
    benchmark: Any, images: list[tuple[Lanes, Lanes]], plain: Plain
) -> None:
    drawn = culane.prepare_all([annotated for _, annotated in images])
    pairs = [(predicted, truth) for (predicted, _), truth in zip(images, drawn, strict=True)]
    _compare(benchmark, lambda: [culane.count_matches(*pair) for pair in pairs], plain, goal=30)


@pytest.mark.usefixtures("route")
def test_culane_counts_drawn_together(
    benchmark: Any, images: list[tuple[Lanes, Lanes]], plain: Plain
) -> None:
    def together() -> None:
        for start in range(0, IMAGES, 10):
            some = images[start : start + 10]
            drawn = culane.prepare_all([lanes for image in some for lanes in image])
            for predicted, annotated in zip(drawn[::2], drawn[1::2], strict=True):
                culane.count_matches(predicted, annotated)

    _compare(benchmark, together, plain, goal=15)


def test_tusimple_scores(benchmark: Any) -> None:
    rng = np.random.default_rng(0)
    rows = list(range(160, 720, 10))
    annotated = [[400.0 + 200 * lane + 3 * k for k in range(len(rows))] for lane in range(4)]
    predicted = [(np.array(annotated) + rng.normal(0, 8, (4, len(rows)))).tolist() for _ in range(IMAGES)]
    found = [tusimple.score_image(lanes, annotated, rows) for lanes in predicted]
    assert [(s.accuracy, s.fp, s.fn) for s in found] == [
        reference_tusimple.score(lanes, annotated, rows) for lanes in predicted
    ]
    slope, name = _regression()
    plain = _seconds(lambda: [reference_tusimple.score(lanes, annotated, rows, slope) for lanes in predicted])
    ours = _seconds(lambda: [tusimple.score_image(lanes, annotated, rows) for lanes in predicted])
    benchmark.extra_info.update(
        ms_per_image=ours / IMAGES * 1e3, times_as_fast=plain / ours, regression=name, goal=25
    )
    benchmark(lambda: [tusimple.score_image(lanes, annotated, rows) for lanes in predicted])


def _regression() -> tuple[reference_tusimple.Slope, str]:
    """scikit-learn's, which ``lane.py`` uses, where it is installed; else NumPy's, which costs much less."""
    if importlib.util.find_spec("sklearn") is None:
        return reference_tusimple.least_squares, "numpy"
    from sklearn.linear_model import LinearRegression

    def slope(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
        return float(LinearRegression().fit(y[:, None], x).coef_[0])

    return slope, "scikit-learn"
