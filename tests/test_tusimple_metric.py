"""TuSimple's accuracy: the numbers of ``lane.py``, hand-worked cases, and properties."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.metrics.errors import MetricError
from bench.metrics.tusimple import TuSimpleScore, aggregate, score_image

ROWS = list(range(160, 720, 10))


def _straight(x: float, slope: float = 0.0) -> list[float]:
    return [x + slope * (y - ROWS[0]) for y in ROWS]


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((shared / "golden" / "tusimple_metric.json").read_text())
    assert len(content["cases"]) == 151
    return content


def test_every_golden_case_and_the_mean_equal_the_evaluator(golden: dict[str, Any]) -> None:
    scores = []
    for case in golden["cases"]:
        score = score_image(case["pred"], case["gt"], case["h_samples"], case["run_time"])
        assert vars(score) == case["expected"], (case["id"], case["tags"])
        scores.append(score)
    mean = aggregate(scores)
    assert [mean.accuracy, mean.fp, mean.fn] == [golden["aggregate"][key] for key in ("Accuracy", "FP", "FN")]


def test_the_threshold_is_20_px_across_a_vertical_lane_and_strict() -> None:
    lane = _straight(500)
    assert score_image([_straight(519.99)], [lane], ROWS) == TuSimpleScore(1.0, 0.0, 0.0)
    assert score_image([_straight(520)], [lane], ROWS) == TuSimpleScore(0.0, 1.0, 1.0)


def test_the_threshold_grows_with_the_slope() -> None:
    lane = _straight(100, slope=1.0)  # 45 degrees: 20 / cos = 28.28 px in x
    assert score_image([_straight(128.2, 1.0)], [lane], ROWS).accuracy == 1
    assert score_image([_straight(128.4, 1.0)], [lane], ROWS).accuracy == 0


def test_a_lane_is_found_from_85_percent_of_all_rows() -> None:
    rows = list(range(100))
    lane = [500.0] * 100
    assert score_image([[500.0] * 85 + [-2.0] * 15], [lane], rows) == TuSimpleScore(0.85, 0.0, 0.0)
    assert score_image([[500.0] * 84 + [-2.0] * 16], [lane], rows) == TuSimpleScore(0.84, 1.0, 1.0)


def test_slow_or_far_too_many_lanes_miss_the_image() -> None:
    lane = _straight(500)
    missed = TuSimpleScore(0.0, 0.0, 1.0)
    assert score_image([lane], [lane], ROWS, 200.0).accuracy == 1
    assert score_image([lane], [lane], ROWS, 200.5) == missed
    assert score_image([lane], [lane], ROWS, None).accuracy == 1
    assert score_image([lane] * 3, [lane], ROWS) == TuSimpleScore(1.0, 2 / 3, 0.0)
    assert score_image([lane] * 4, [lane], ROWS) == missed


def test_nothing_is_clamped() -> None:
    lane, near, far = _straight(500), _straight(510), _straight(900)
    assert (
        score_image([lane, far], [lane, near, _straight(495)], ROWS).fp == -0.5
    )  # one prediction for three lanes
    six = [_straight(200.0 * k) for k in range(1, 7)]
    assert score_image(six, six, ROWS).accuracy == 5 / 4
    assert score_image([], [], ROWS) == TuSimpleScore(0.0, 0.0, 0.0)


def test_one_of_five_lanes_may_be_missed() -> None:
    five = [_straight(200.0 * k) for k in range(1, 6)]
    assert score_image(five[:4], five, ROWS) == TuSimpleScore(1.0, 0.0, 0.0)


def test_f1_follows_from_the_means() -> None:
    mean = aggregate([TuSimpleScore(0.9, 0.5, 0.25), TuSimpleScore(0.7, 0.0, 0.25)])
    assert (mean.accuracy, mean.fp, mean.fn) == (pytest.approx(0.8), 0.25, 0.25)
    assert (mean.precision, mean.recall, mean.f1) == (0.75, 0.75, 0.75)
    assert TuSimpleScore(0.0, 1.0, 1.0).f1 == 0


def _plain(
    predicted: list[list[float]], annotated: list[list[float]], rows: list[float]
) -> tuple[float, float, float]:
    """The same rules, point by point, with NumPy's own line fit."""
    if len(predicted) > len(annotated) + 2:
        return 0.0, 0.0, 1.0
    bests = []
    for truth in annotated:
        points = [(y, x) for y, x in zip(rows, truth, strict=True) if x >= 0]
        slope = np.polyfit(*zip(*points, strict=True), 1)[0] if len(points) > 1 else 0.0
        limit = 20 / math.cos(math.atan(slope))
        shares = [
            sum(
                abs((p if p >= 0 else -100) - (t if t >= 0 else -100)) < limit
                for p, t in zip(lane, truth, strict=True)
            )
            / len(rows)
            for lane in predicted
        ]
        bests.append(max(shares, default=0.0))
    found = sum(best >= 0.85 for best in bests)
    missed = len(bests) - found
    total = sum(bests)
    if len(annotated) > 4:
        missed -= missed > 0
        total -= min(bests)
    counted = max(1, min(4, len(annotated)))
    fp = (len(predicted) - found) / len(predicted) if predicted else 0.0
    return total / counted, fp, missed / counted


absent_or = st.one_of(st.just(-2), st.integers(0, 300))
annotations = st.lists(st.lists(absent_or, min_size=8, max_size=8), max_size=6)
# An odd fraction keeps differences away from the thresholds of simple slopes, where rounding would decide.
predictions = annotations.map(lambda lanes: [[x + 0.3141 if x >= 0 else x for x in lane] for lane in lanes])


@settings(max_examples=150, deadline=None)
@given(predictions, annotations)
def test_vectorised_equals_point_by_point(predicted: list[list[float]], annotated: list[list[float]]) -> None:
    rows = [100.0 + 10 * k for k in range(8)]
    score = score_image(predicted, annotated, rows)
    assert (score.accuracy, score.fp, score.fn) == pytest.approx(
        _plain(predicted, annotated, rows), abs=1e-12
    )


@pytest.mark.parametrize(
    ("predicted", "rows", "message"),
    [
        ([[1.0, 2.0]], [10, 20, 30], "predicted lane 0 has 2 values for 3 rows"),
        ([[1.0, 2.0, math.nan]], [10, 20, 30], "not finite"),
        ([], [], "one or more"),
    ],
)
def test_lanes_that_do_not_fit_the_rows_are_refused(predicted: Any, rows: Any, message: str) -> None:
    with pytest.raises(MetricError, match=message):
        score_image(predicted, [], rows)
    with pytest.raises(MetricError, match="no images"):
        aggregate([])
