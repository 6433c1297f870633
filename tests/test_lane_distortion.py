"""Lane Distortion Score: numbers worked by hand, properties, odd lanes, failures."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selective_focus.detector import Lane
from selective_focus.lane_distortion import (
    LaneDistortion,
    corpus_lds,
    lane_distortion_score,
    lane_distortion_scores,
    mean_distortion,
    sample_rows,
)

DELTA = 30.0


def vertical(x: float, low: float = 590, high: float = 500, step: float = 10) -> np.ndarray:
    """A lane at one x; by default on the ten rows 590, 580, ..., 500."""
    y = np.arange(low, high - 1, -step)
    return np.stack([np.full(len(y), float(x)), y], axis=1)


def parts(result: LaneDistortion) -> tuple[float, float, float]:
    return result.displacement, result.missing, result.extra


# ---------------------------------------------------------------- worked by hand


def test_a_shift_is_its_own_score() -> None:
    assert lane_distortion_score([vertical(400)], [vertical(407)]) == (7.0, 7.0, 0.0, 0.0)


def test_a_shift_is_capped_at_delta() -> None:
    assert lane_distortion_score([vertical(400)], [vertical(900)]) == (30.0, 30.0, 0.0, 0.0)


def test_rows_that_one_side_lacks_cost_delta() -> None:
    # ten rows against six of them: 6 rows at 5 px, 4 rows at 30 px, over 10 points
    result = lane_distortion_score([vertical(400)], [vertical(405, high=540)])
    assert result == pytest.approx((15.0, 3.0, 12.0, 0.0))


def test_the_points_of_matched_pairs_count_once() -> None:
    # rows 590..500 against 550..460: 6 shared at 2 px, 4 missing, 4 extra; 14 points
    result = lane_distortion_score([vertical(400)], [vertical(402, low=550, high=460)])
    assert result == pytest.approx(((12 + 240) / 14, 12 / 14, 120 / 14, 120 / 14))


def test_an_unmatched_lane_pays_for_each_of_its_rows() -> None:
    # one pair exact (10 points), one reference lane lost (10 points), over 20 points
    result = lane_distortion_score([vertical(400), vertical(800)], [vertical(800)])
    assert result == pytest.approx((15.0, 0.0, 15.0, 0.0))


def test_matching_has_least_total_cost_not_the_nearest_first() -> None:
    # greedy would take 410-411 (1 px) and pay 23 px for 400-423; the best total is 11 + 13
    result = lane_distortion_score([vertical(400), vertical(410)], [vertical(411), vertical(423)])
    assert result.score == pytest.approx(12.0)


def test_lanes_without_common_rows_are_not_matched() -> None:
    result = lane_distortion_score([vertical(400)], [vertical(400, low=490, high=400)])
    assert result == pytest.approx((30.0, 0.0, 15.0, 15.0))


def test_equal_costs_prefer_the_match_that_overlaps_less() -> None:
    # matching the far lane saves 10 x 30, matching the exact half 5 x 60: equal costs, other point counts
    long, far, half = vertical(400), vertical(900), vertical(400, high=550)
    result = lane_distortion_score([long], [far, half])
    assert result == pytest.approx((450 / 20, 0.0, 150 / 20, 300 / 20))
    assert lane_distortion_score([far, half], [long]).score == pytest.approx(450 / 20)


def test_l2_is_a_root_mean_square_in_pixels() -> None:
    half_moved = np.array([[400.0, 590], [400, 550], [406, 540], [406, 500]])
    result = lane_distortion_score([vertical(400)], [half_moved], norm="l2")
    assert result.score == pytest.approx(np.sqrt(18.0))  # five rows at 0, five at 36
    lost = lane_distortion_score([vertical(400)], [vertical(405, high=540)], norm="l2")
    assert lost.score == pytest.approx(np.sqrt((6 * 25 + 4 * 900) / 10))
    assert sum(parts(lost)) == pytest.approx(lost.score)
    assert lost.displacement / lost.missing == pytest.approx(150 / 3600)


def test_sum_leaves_out_the_division() -> None:
    assert lane_distortion_score([vertical(400)], [vertical(407)], reduction="sum") == (70.0, 70.0, 0.0, 0.0)


def test_delta_and_rows_scale_with_the_frame() -> None:
    # at 295x820 rows are 5 px apart and delta is 15 px
    def lane(x: float) -> np.ndarray:
        return vertical(x, low=295, high=250, step=5)

    assert sample_rows([lane(200)], (295, 820)).covered.sum() == 10
    assert lane_distortion_score([lane(200)], [lane(600)], (295, 820)).score == pytest.approx(15.0)
    assert lane_distortion_score([lane(200)], [lane(203)], (295, 820)).score == pytest.approx(3.0)


def test_options_override_the_scaled_defaults() -> None:
    assert lane_distortion_score([vertical(400)], [vertical(900)], delta=7.0).score == pytest.approx(7.0)
    assert sample_rows([vertical(400)], row_step=30).covered.sum() == 4  # 590, 560, 530, 500


def test_corpus_lds_counts_every_image_the_same() -> None:
    references = [[vertical(400)], [vertical(400), vertical(800)], []]
    others = [[vertical(407)], [vertical(800)], []]
    assert corpus_lds(references, others) == pytest.approx((22 / 3, 7 / 3, 5.0, 0.0))
    assert mean_distortion(lane_distortion_scores(references, others)) == corpus_lds(references, others)


# ---------------------------------------------------------------- lanes as decoders give them


def test_rows_are_multiples_of_the_step_above_the_bottom() -> None:
    slanted = Lane(np.array([[100.0, 585], [160, 555]]))  # x = 100 + 2 (585 - y)
    sampled = sample_rows([slanted])
    assert sampled.x.shape == (1, 60)  # 590, 580, ..., 0
    assert np.flatnonzero(sampled.covered[0]).tolist() == [1, 2, 3]
    assert sampled.x[0, 1:4] == pytest.approx([110, 130, 150])


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_order_of_points_does_not_matter(order: tuple[int, ...]) -> None:
    points = np.array([[100.0, 590], [120, 570], [130, 540]])
    assert np.array_equal(sample_rows([points[list(order)]]).x, sample_rows([points]).x)


def test_points_at_one_y_are_averaged() -> None:
    points = np.array([[100.0, 590], [110, 580], [130, 580], [120, 570]])
    assert sample_rows([points]).x[0, :3] == pytest.approx([100, 120, 120])


@pytest.mark.parametrize(
    ("points", "row", "x"),
    [
        ([[100.0, 584.5]], 1, 100.0),
        ([[100.0, 585.5], [300, 585.5]], 0, 200.0),
        ([[100.0, 586], [104, 582]], 1, 102.0),
    ],
    ids=["one point", "horizontal", "short"],
)
def test_a_lane_between_rows_is_one_point_on_the_nearest(
    points: list[list[float]], row: int, x: float
) -> None:
    sampled = sample_rows([np.array(points)])
    assert np.flatnonzero(sampled.covered[0]).tolist() == [row]
    assert sampled.x[0, row] == pytest.approx(x)


def test_float32_noise_does_not_lose_an_end_row() -> None:
    noisy = vertical(400)
    noisy[0, 1], noisy[-1, 1] = 589.99995, 500.00005
    assert lane_distortion_score([vertical(400)], [noisy]).score == 0


def test_points_that_are_not_finite_are_missing() -> None:
    broken = vertical(400)
    broken[:4, 0] = [np.nan, np.inf, -np.inf, np.nan]  # the four lowest rows
    assert lane_distortion_score([vertical(400)], [broken]) == pytest.approx((12.0, 0.0, 12.0, 0.0))
    assert lane_distortion_score([vertical(400)], [np.full((3, 2), np.nan)]) == (30.0, 0.0, 30.0, 0.0)


def test_far_points_stay_finite() -> None:
    far = vertical(1e300)
    assert lane_distortion_score([vertical(-1e300)], [far]).score == 30.0


def test_only_rows_of_the_frame_count() -> None:
    assert sample_rows([vertical(400, low=700, high=580)]).covered.sum() == 2
    outside = [vertical(400, low=900, high=800), vertical(400, low=-100, high=-200), np.zeros((0, 2))]
    assert sample_rows(outside).covered.sum() == 0
    assert lane_distortion_score(outside, []).score == 0


# ---------------------------------------------------------------- properties


coordinate = st.floats(-2000, 4000, allow_nan=False, width=32)


@st.composite
def a_lane(draw: st.DrawFn) -> np.ndarray:
    count = draw(st.integers(1, 6))
    x = draw(st.lists(coordinate, min_size=count, max_size=count))
    y = draw(st.lists(st.integers(0, 590), min_size=count, max_size=count))
    return np.array([x, y], dtype=np.float64).T


lanes = st.lists(a_lane(), max_size=5)
norms = st.sampled_from(["l1", "l2"])


@given(lanes, norms)
def test_identity_is_zero(a: list[np.ndarray], norm: str) -> None:
    assert lane_distortion_score(a, a, norm=norm) == (0, 0, 0, 0)


@given(lanes, lanes, norms, st.sampled_from(["mean", "sum"]))
def test_symmetric_with_missing_and_extra_exchanged(a, b, norm, reduction) -> None:
    forward = lane_distortion_score(a, b, norm=norm, reduction=reduction)
    backward = lane_distortion_score(b, a, norm=norm, reduction=reduction)
    expected = (backward.score, backward.displacement, backward.extra, backward.missing)
    assert forward == pytest.approx(expected, abs=1e-6)


@given(lanes, lanes, norms, st.randoms(use_true_random=False))
def test_invariant_to_lane_order(a, b, norm, random) -> None:
    mixed = list(a)
    random.shuffle(mixed)
    assert lane_distortion_score(mixed, b, norm=norm) == pytest.approx(
        lane_distortion_score(a, b, norm=norm), abs=1e-6
    )


@given(lanes, lanes, norms)
def test_range_and_parts(a, b, norm) -> None:
    result = lane_distortion_score(a, b, norm=norm)
    assert 0 <= result.score <= DELTA * (1 + 1e-12)
    assert min(parts(result)) >= 0
    assert sum(parts(result)) == pytest.approx(result.score)


@given(lanes.filter(bool), norms)
def test_delta_when_one_side_is_empty(a, norm) -> None:
    assert lane_distortion_score(a, [], norm=norm) == pytest.approx((DELTA, 0, DELTA, 0))
    assert lane_distortion_score([], a, norm=norm) == pytest.approx((DELTA, 0, 0, DELTA))
    assert lane_distortion_score([], [], norm=norm) == (0, 0, 0, 0)


@given(a_lane(), st.lists(st.floats(0, 60), min_size=2, max_size=2), st.sampled_from([-1, 1]), norms)
def test_monotone_in_a_uniform_shift_and_flat_past_delta(lane, shifts, side, norm) -> None:
    small, large = (
        lane_distortion_score([lane], [lane + np.array([side * shift, 0])], norm=norm).score
        for shift in sorted(shifts)
    )
    assert small <= large + 1e-9
    assert large == pytest.approx(min(max(shifts), DELTA), abs=1e-3)


@settings(max_examples=60)
@given(st.lists(a_lane(), max_size=3), st.lists(a_lane(), max_size=3))
def test_no_other_matching_is_cheaper(a, b) -> None:
    """Against every partial matching, with the definition's costs written out row by row."""
    rows_a, rows_b = sample_rows(a), sample_rows(b)

    def pair(i: int, j: int) -> float:
        both = (rows_a.covered[i] * rows_b.covered[j]).astype(bool)
        moved = np.minimum(np.abs(rows_a.x[i] - rows_b.x[j])[both], DELTA).sum()
        return float(moved + DELTA * np.abs(rows_a.covered[i] - rows_b.covered[j]).sum())

    alone_a, alone_b = DELTA * rows_a.covered.sum(axis=1), DELTA * rows_b.covered.sum(axis=1)
    best = np.inf
    slots = [*range(len(b)), *([None] * len(a))]
    for choice in set(itertools.permutations(slots, len(a))):
        cost = sum(alone_a[i] if j is None else pair(i, j) for i, j in enumerate(choice))
        best = min(best, cost + sum(alone_b[j] for j in range(len(b)) if j not in choice))
    assert lane_distortion_score(a, b, reduction="sum").score == pytest.approx(best, abs=1e-5)


# ---------------------------------------------------------------- batches and failures


def test_prepared_references_give_the_same_scores() -> None:
    references = [[vertical(400), vertical(800)], [], [vertical(100, high=300)]]
    others = [[vertical(409)], [vertical(400)], [vertical(120, high=310)]]
    prepared = [sample_rows(lanes) for lanes in references]
    assert lane_distortion_scores(prepared, others) == lane_distortion_scores(references, others)


def test_refusals_name_the_value() -> None:
    one = [vertical(400)]
    with pytest.raises(ValueError, match=r"shape \[P, 2\], not \[10, 3\]"):
        lane_distortion_score([np.zeros((10, 3))], one)
    with pytest.raises(ValueError, match="1 references and 2 others"):
        lane_distortion_scores([one], [one, one])
    with pytest.raises(ValueError, match="delta must be a positive number of pixels, not 0"):
        lane_distortion_score(one, one, delta=0)
    with pytest.raises(ValueError, match="row_step must be a positive number of pixels, not -1"):
        lane_distortion_score(one, one, row_step=-1)
    with pytest.raises(ValueError, match=r"positive \(height, width\), not \(0, 1640\)"):
        lane_distortion_score(one, one, (0, 1640))
    with pytest.raises(ValueError, match="norm must be one of l1, l2, not 'max'"):
        lane_distortion_score(one, one, norm="max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reduction must be one of mean, sum, not 'median'"):
        lane_distortion_score(one, one, reduction="median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="call sample_rows with the same values"):
        lane_distortion_score(sample_rows(one), one, (720, 1280))
    with pytest.raises(ValueError, match="every 10 and every 20 px"):
        lane_distortion_score(sample_rows(one), sample_rows(one, row_step=20))
    with pytest.raises(ValueError, match="at least one image"):
        corpus_lds([], [])
