"""CULane's F1: the C++ evaluator's numbers, the same pixels as drawing, and properties."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import reference_culane
from hypothesis import given, settings
from hypothesis import strategies as st
from road_lanes import road_image

from bench.metrics import culane, routes
from bench.metrics.culane import (
    Counts,
    count_matches,
    count_matches_at,
    match,
    mean_f1,
    prepare,
    prepare_all,
    similarities,
)
from bench.metrics.errors import MetricError
from bench.metrics.routes import strokes_of
from bench.metrics.spline import pixel_paths
from bench.metrics.step_strokes import THICKEST, step_strokes
from datasets.errors import DatasetError, DatasetWarning
from datasets.lane_files import read_lanes

THRESHOLDS = (0.3, 0.5, 0.75)


@pytest.fixture(params=["numpy", "compiled"])
def route(request: pytest.FixtureRequest) -> Iterator[routes.Route]:
    """Everything in the test is drawn and compared in one way; both have to give the same."""
    if request.param == "compiled":
        pytest.importorskip("numba", reason="numba is not installed: the metric runs on NumPy alone")
    with routes.going(request.param):
        yield request.param


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((shared / "golden" / "culane_metric.json").read_text())
    assert len(content["cases"]) == 160
    return content


def _matrix(case: dict[str, Any]) -> np.ndarray:
    rows = [[math.nan if value is None else value for value in row] for row in case["cpp"]["iou"]]
    return np.array(rows, dtype=np.float64).reshape(len(case["gt"]), len(case["pred"]))


@pytest.mark.usefixtures("route")
def test_every_golden_case_has_the_counts_of_the_evaluator(golden: dict[str, Any]) -> None:
    totals = [Counts()] * 3
    for case in golden["cases"]:
        size = (case["height"], case["width"])
        counts = count_matches_at(case["pred"], case["gt"], THRESHOLDS, size, case["lane_width"])
        expected = [tuple(case["cpp"]["counts"][str(threshold)]) for threshold in THRESHOLDS]
        assert [(c.tp, c.fp, c.fn) for c in counts] == expected, (case["id"], case["tags"])
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
    assert [[c.tp, c.fp, c.fn] for c in totals] == [golden["aggregate_cpp"][str(t)] for t in THRESHOLDS]


@pytest.mark.usefixtures("route")
def test_portable_golden_similarities_are_equal_as_doubles(golden: dict[str, Any]) -> None:
    portable = [case for case in golden["cases"] if case["iou_portable"]]
    assert len(portable) == 150
    for case in portable:
        found = similarities(case["pred"], case["gt"], (case["height"], case["width"]), case["lane_width"])
        assert np.array_equal(found, _matrix(case), equal_nan=True), (case["id"], case["tags"])


def test_the_matching_of_golden_similarities_is_that_of_the_evaluator(golden: dict[str, Any]) -> None:
    for case in golden["cases"]:
        assert match(_matrix(case)) == case["cpp"]["match"], (case["id"], case["tags"])


def _moved(lane: np.ndarray, right: float) -> np.ndarray:
    return lane + np.array([right, 0.0])


def test_a_lane_against_itself_moved_is_hand_checkable() -> None:
    # 31 pixels across; moved by 31 to the right nothing is shared, by 10 it is 21 of 41 columns in each full row
    lane = np.array([[800.0, 700.0], [800.0, 300.0], [800.0, -100.0]])
    assert similarities([_moved(lane, 31)], [lane])[0, 0] == 0
    assert similarities([_moved(lane, 10)], [lane])[0, 0] == 21 / 41
    assert similarities([lane], [lane])[0, 0] == 1
    assert count_matches([_moved(lane, 10)], [lane], iou=21 / 41) == Counts(0, 1, 1)  # strictly greater
    assert count_matches([_moved(lane, 10)], [lane], iou=0.5) == Counts(1, 0, 0)


@pytest.mark.usefixtures("route")
def test_lanes_without_a_curve_count_but_match_nothing() -> None:
    lane = [[100.0, 500.0], [200.0, 400.0], [300.0, 350.0]]
    for stump in ([], [[100.0, 500.0]]):
        assert similarities([stump], [lane])[0, 0] == 0
        assert count_matches([stump, lane], [lane]) == Counts(1, 1, 0)
        assert count_matches([lane], [stump, lane]) == Counts(1, 0, 1)
    assert count_matches([], [lane, lane]) == Counts(0, 0, 2)
    assert count_matches([lane], []) == Counts(0, 1, 0)
    assert count_matches([], []) == Counts()


@pytest.mark.usefixtures("route")
def test_two_lanes_off_the_image_are_not_a_number_alike() -> None:
    outside = [[3000.0, 500.0], [3010.0, 400.0], [3020.0, 300.0]]
    inside = [[300.0, 500.0], [310.0, 400.0], [320.0, 300.0]]
    matrix = similarities([outside, inside], [outside, inside])
    assert math.isnan(matrix[0, 0])
    assert matrix[0, 1] == matrix[1, 0] == 0
    assert count_matches([outside], [outside]) == Counts(0, 1, 1)


@pytest.mark.usefixtures("route")
def test_two_equal_points_are_a_disc() -> None:
    disc = prepare([[[700.2, 300.1], [700.2, 300.1]]])
    canvas = np.zeros((590, 1640), dtype=np.uint8)
    cv2.line(canvas, (700, 300), (700, 300), 1, 30)
    assert disc.strokes.areas.tolist() == [canvas.sum()]


def test_lane_objects_arrays_and_prepared_images_score_alike() -> None:
    from selective_focus import Lane

    predicted, annotated = road_image(np.random.default_rng(3))
    expected = count_matches(predicted, annotated)
    assert (
        count_matches([Lane(points) for points in predicted], [Lane(points) for points in annotated])
        == expected
    )
    assert count_matches([points.tolist() for points in predicted], prepare(annotated)) == expected
    assert count_matches(prepare(predicted), prepare(annotated)) == expected
    assert len(prepare(annotated)) == len(annotated)


@pytest.mark.usefixtures("route")
def test_images_drawn_together_score_as_images_drawn_alone() -> None:
    rng = np.random.default_rng(5)
    images = [*(road_image(rng) for _ in range(4)), ([], []), ([np.zeros((1, 2))], [])]
    together = prepare_all([annotated for _, annotated in images])
    assert [len(drawn) for drawn in together] == [len(annotated) for _, annotated in images]
    for (predicted, annotated), drawn in zip(images, together, strict=True):
        assert np.array_equal(similarities(predicted, drawn), similarities(predicted, annotated))


@pytest.mark.usefixtures("route")
def test_road_images_equal_the_frozen_reference() -> None:
    rng = np.random.default_rng(7)
    for size in [(590, 1640), (590, 1640), (320, 800)]:
        predicted, annotated = road_image(rng, size)
        curves = [
            [reference_culane.curve(lane.tolist()) for lane in lanes] for lanes in (predicted, annotated)
        ]
        matrix = reference_culane.similarities(*curves, size)
        assert similarities(predicted, annotated, size).tolist() == matrix
        counts = count_matches(predicted, annotated, size)
        assert (counts.tp, counts.fp, counts.fn) == reference_culane.counts(*curves, size)


def _covered(points: np.ndarray, size: tuple[int, int], thickness: int) -> np.ndarray:
    """The picture that the runs of one lane stand for; a pixel in two runs would be a 2."""
    picture = np.zeros((size[0], size[1] + 1), dtype=np.int64)
    for start, end in strokes_of([points], size, thickness).runs:
        np.add.at(picture, (np.arange(size[0]), start), 1)
        np.add.at(picture, (np.arange(size[0]), end), -1)
    return picture.cumsum(axis=1)[:, :-1]


def _drawn(path: np.ndarray, size: tuple[int, int], thickness: int) -> np.ndarray:
    picture = np.zeros(size, dtype=np.uint8)
    pixels = path.tolist() * (2 if len(path) == 1 else 1)
    for start, end in pairwise(pixels):
        cv2.line(picture, start, end, 1, thickness)
    return picture


def _random_points(kind: str, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    height, width = size
    count = int(rng.integers(2, 20))
    along = np.linspace(0, 1, count)
    jitter = rng.normal(0, rng.choice([1, 8, 20]), count)
    if kind == "left or right border":
        return np.stack([rng.choice([0, width - 1]) + jitter, height * (1.05 - along)], axis=1)
    if kind == "top or bottom border":
        return np.stack([width * (along * 1.1 - 0.05), rng.choice([0, height - 1]) + jitter], axis=1)
    if kind == "corner":
        corner = np.array([rng.choice([0, width]), rng.choice([0, height])])
        return corner + along[:, None] * rng.normal(0, 60, 2) + jitter[:, None]
    if kind == "loop":
        angle = along * rng.uniform(1, 9)
        centre = rng.uniform(0, 1, 2) * (width, height)
        return centre + rng.uniform(3, 90) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    steps = rng.normal(0, rng.choice([2, 15, 50]), (count, 2))
    return np.round(2 * (np.cumsum(steps, axis=0) + rng.uniform(0, 1, 2) * (width, height))) / 2


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("thickness", [30, 10, 5, 2, 1, 50, THICKEST + 1])
@pytest.mark.parametrize("kind", ["left or right border", "top or bottom border", "corner", "loop", "walk"])
def test_runs_are_the_pixels_that_opencv_draws(kind: str, thickness: int) -> None:
    rng = np.random.default_rng([thickness, len(kind)])
    for size in [(260, 340), (120, 500), (70, 60), (260, 340)] * 3:
        points = _random_points(kind, size, rng)
        paths = pixel_paths([points])
        assert np.array_equal(_covered(points, size, thickness), _drawn(paths[0].T, size, thickness)), (
            points.tolist()
        )


@pytest.mark.usefixtures("route")
@pytest.mark.parametrize("turns", [3, 12, 90])
def test_a_zigzag_of_many_turns_is_what_opencv_draws(turns: int) -> None:
    along = np.arange(turns + 2)
    points = np.stack([40 + 2.5 * along, 100 + 6.0 * (along % 2)], axis=1)
    assert np.array_equal(
        _covered(points, (200, 340), 30), _drawn(pixel_paths([points])[0].T, (200, 340), 30)
    )


@pytest.mark.usefixtures("route")
def test_a_curve_that_is_not_a_number_is_drawn_as_the_evaluator_draws_it() -> None:
    points = np.array([[400.0, 500.0], [400.0, 500.0], [500.0, 300.0]])
    paths = pixel_paths([points])
    assert paths[0].T.tolist() == [[-(2**31)] * 2, [500, 300]]
    assert np.array_equal(_covered(points, (590, 1640), 30), _drawn(paths[0].T, (590, 1640), 30))


def test_most_steps_of_a_road_need_no_drawing() -> None:
    strokes = step_strokes(30)
    assert strokes is not None
    assert (strokes.form == np.arange(len(strokes.form))).all()
    assert (strokes.form_at >= 0).all()
    assert (strokes.form_at != strokes.form).any(axis=(1, 2)).all()  # what the table of borders is there for


coordinate = st.floats(-300, 2000, allow_nan=False, width=32)
lane = st.lists(st.tuples(coordinate, coordinate), min_size=0, max_size=7).map(
    lambda p: np.array(p).reshape(-1, 2)
)
lanes = st.lists(lane, max_size=4)


@settings(max_examples=40, deadline=None)
@given(lanes, lanes)
def test_counts_add_up_and_fall_with_the_threshold(
    predicted: list[np.ndarray], annotated: list[np.ndarray]
) -> None:
    counts = count_matches_at(predicted, annotated, (0.1, 0.5, 0.9), (300, 400), 12)
    for count in counts:
        assert count.tp + count.fp == len(predicted)
        assert count.tp + count.fn == len(annotated)
    assert counts[0].tp >= counts[1].tp >= counts[2].tp >= 0


@settings(max_examples=40, deadline=None)
@given(lanes, lanes)
def test_similarity_is_symmetric_and_at_most_one(
    predicted: list[np.ndarray], annotated: list[np.ndarray]
) -> None:
    matrix = similarities(predicted, annotated, (300, 400), 12)
    assert matrix.shape == (len(annotated), len(predicted))
    assert np.array_equal(matrix, similarities(annotated, predicted, (300, 400), 12).T, equal_nan=True)
    known = matrix[~np.isnan(matrix)]
    assert ((known >= 0) & (known <= 1)).all()


weight = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 0.505, 0.51, math.nan]))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 5).flatmap(lambda n: st.lists(st.lists(weight, min_size=n, max_size=n), max_size=5)))
def test_matching_equals_the_frozen_reference(matrix: list[list[float]]) -> None:
    columns = len(matrix[0]) if matrix else 0
    found = match(np.array(matrix, dtype=np.float64).reshape(len(matrix), columns))
    assert found == reference_culane.match(matrix)
    taken = [column for column in found if column >= 0]
    assert len(set(taken)) == len(taken)


def test_the_matching_takes_a_near_tie_in_order() -> None:
    # Within the tolerance of 0.01 the first candidate is good enough, though the second is better.
    assert match([[0.595, 0.600]]) == [0]
    assert match([[0.595], [0.600]]) == [0, -1]
    assert match([[0.580, 0.600]]) == [1]


def test_counts_give_none_where_nothing_is_defined() -> None:
    assert Counts(3, 1, 2) + Counts(1, 0, 0) == Counts(4, 1, 2)
    assert Counts(3, 1, 3).precision == 0.75
    assert Counts(3, 1, 3).recall == 0.5
    assert Counts(3, 1, 3).f1 == pytest.approx(0.6)
    cross = Counts(0, 7, 0)
    assert (cross.precision, cross.recall, cross.f1) == (0.0, None, None)
    nothing_found = Counts(0, 0, 5)
    assert (nothing_found.precision, nothing_found.recall, nothing_found.f1) == (None, 0.0, 0.0)
    assert Counts(0, 4, 5).f1 == 0
    with pytest.raises(FrozenInstanceError):
        cross.tp = 1  # type: ignore[misc]


def test_thresholds_of_mean_f1_are_exact() -> None:
    assert len(culane.MF1_THRESHOLDS) == 10
    assert {0.5, 0.75, 0.95} <= set(culane.MF1_THRESHOLDS)
    assert mean_f1([Counts(1, 0, 0), Counts(0, 1, 1)]) == 0.5
    assert mean_f1([Counts(0, 1, 0)] * 10) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"iou": 0.0}, "between 0 and 1, not 0.0"),
        ({"iou": 50}, "between 0 and 1, not 50"),
        ({"width": 0}, "1 to 255, not 0"),
        ({"width": 30.5}, "whole number"),
        ({"image_size": (0, 1640)}, "1..32767"),
        ({"annotated": [[[1.0, math.nan]]]}, "finite"),
        ({"predicted": [[1.0, 2.0, 3.0]]}, "shape [P, 2], not [3]"),
        ({"annotated": prepare([], (100, 100), 30)}, "same image_size and width"),
    ],
)
def test_what_cannot_be_scored_is_refused(arguments: dict[str, Any], message: str) -> None:
    lane = [[10.0, 50.0], [20.0, 40.0]]
    with pytest.raises(MetricError) as caught:
        count_matches(**{"predicted": [lane], "annotated": [lane], **arguments})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def _read_lanes(path: Path) -> tuple[list[np.ndarray] | None, int]:
    """What the strict reader makes of a file (None: it refuses), and how often it warns."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DatasetWarning)
        try:
            return read_lanes(path), len(caught)
        except DatasetError:
            return None, len(caught)


number = st.one_of(
    st.floats(-33000, 33000).map(lambda x: repr(round(x, 2))),
    st.floats(-40000, 40000).map(repr),
    st.integers(-9, 32769).map(str),
    st.text("0123456789.+-e_", min_size=1, max_size=18),
)
line = st.lists(number, max_size=8).flatmap(
    lambda n: st.sampled_from([" ", "  ", "\t"]).map(lambda s: s.join(n))
)
content = st.lists(line, max_size=4).flatmap(
    lambda n: st.sampled_from(["", "\n", "\r\n"]).map(lambda end: "\n".join(n) + end)
)


@settings(max_examples=300, deadline=None)
@given(content)
def test_plain_files_read_by_compiled_loops_are_what_the_reader_reads(
    tmp_path_factory: pytest.TempPathFactory, content: str
) -> None:
    reader = pytest.importorskip("bench.metrics.compiled_reader")
    path = tmp_path_factory.getbasetemp() / "any.lines.txt"
    path.write_bytes(content.encode())
    fast, (lanes, warned) = reader.plain_lanes(content.encode()), _read_lanes(path)
    if fast is not None:
        assert lanes is not None
        assert not warned
        assert [one.tobytes() for one in fast] == [one.tobytes() for one in lanes]
        assert [one.shape for one in fast] == [one.shape for one in lanes]


def test_ordinary_lane_files_are_plain(tmp_path: Path) -> None:
    reader = pytest.importorskip("bench.metrics.compiled_reader")
    text = "-3.25 590 10 580.5 +4. 570\r\n0 1 .5 2\n700.1234567 590 700 580"
    lanes = reader.plain_lanes(text.encode())
    assert [lane.tolist() for lane in lanes] == [
        [[-3.25, 590], [10, 580.5], [4, 570]],
        [[0, 1], [0.5, 2]],
        [[700.1234567, 590], [700, 580]],
    ]
    assert reader.plain_lanes(b"") == []
    for other in (
        b"\n",
        b"1 2\n",
        b"1 2 3\n",
        b"1 2 1 2 3 4\n",
        b"1e2 3 4 5\n",
        b"1 2 3 40000\n",
        b"1 2 \xff 4\n",
    ):
        assert reader.plain_lanes(other) is None, other


def test_without_numba_the_metric_goes_on_with_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    predicted, annotated = road_image(np.random.default_rng(9))
    expected = similarities(predicted, annotated)
    monkeypatch.setattr(routes._Choice, "loops", None)
    monkeypatch.setattr(routes._Choice, "looked", True)
    monkeypatch.setattr(routes._Choice, "drawn", 10 * routes.ENOUGH)
    assert routes.loops_in_use() is None
    assert np.array_equal(similarities(predicted, annotated), expected)
    with pytest.raises(ImportError, match="pip install numba"), routes.going("compiled"):
        pass


def test_a_process_changes_over_when_it_has_drawn_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr(routes._Choice, "drawn", 0)
    assert routes.loops_in_use() is None
    monkeypatch.setattr(routes._Choice, "drawn", routes.ENOUGH)
    assert routes.loops_in_use() is not None
    with routes.going("numpy"):
        assert routes.loops_in_use() is None
