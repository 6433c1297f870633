"""Intervals over frames and seeds: by hand where they can be, and properties where they cannot."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bench.errors import BenchError
from bench.statistics import (
    FrameCounts,
    f1_of,
    mean_difference,
    mean_f1,
    mean_of,
    mean_ratio,
    paired_difference,
    spearman,
)


def counts(*seeds: list[tuple[int, int, int]], any_seed: bool = False) -> FrameCounts:
    """A setting from (TP, FP, FN) of each frame, for each seed."""
    tables = {
        seed: dict(zip(("tp", "fp", "fn"), map(list, zip(*frames, strict=True)), strict=True))
        for seed, frames in enumerate(seeds)
    }
    return FrameCounts.of_frames(tables, any_seed)


def drawn(seed: int, hit: float, frames: int = 200) -> list[tuple[int, int, int]]:
    """Four lanes a frame, each found with a chance; what is not found is a miss and a false lane."""
    found = np.random.default_rng(seed).binomial(4, hit, size=frames)
    return [(int(tp), int(4 - tp), int(4 - tp)) for tp in found]


class TestF1:
    def test_by_hand(self) -> None:
        assert f1_of(np.array([3.0, 1.0, 2.0])) == pytest.approx(6 / 9)
        assert f1_of(np.array([0.0, 1.0, 0.0])) == 0
        assert np.isnan(f1_of(np.zeros(3)))

    def test_tusimple_by_hand(self) -> None:
        # 4 images, mean FP 0.25 and FN 0.5: precision 0.75, recall 0.5
        assert f1_of(np.array([4.0, 1.0, 2.0]), means=True) == pytest.approx(0.6)
        assert f1_of(np.array([4.0, 4.0, 4.0]), means=True) == 0

    def test_sums_are_over_frames_and_means_over_seeds(self) -> None:
        one = counts([(1, 0, 0), (0, 1, 1)], [(1, 0, 0), (1, 0, 0)])
        assert mean_f1(one).estimate == pytest.approx((0.5 + 1.0) / 2)


class TestPairedDifference:
    def test_two_frames_by_hand(self) -> None:
        """A draw of two frames is (a, a), (a, b), (b, a) or (b, b): F1 of the first setting 1, 1/2, 1/2 or 0."""
        first, second = counts([(1, 0, 0), (0, 1, 1)]), counts([(0, 1, 1), (0, 1, 1)])
        found = paired_difference(first, second)
        assert (found.estimate, found.low, found.high, found.seeds) == (0.5, 0.0, 1.0, 1)

    def test_equal_settings_differ_by_nothing(self) -> None:
        one = counts(drawn(0, 0.7), drawn(1, 0.7))
        found = paired_difference(one, one)
        assert (found.estimate, found.low, found.high) == (0, 0, 0)

    def test_pairing_takes_out_what_frames_share(self) -> None:
        """Hard and easy frames, and one lane more in every tenth: surely better, though each F1 alone is uncertain."""
        base = drawn(0, 0.5)
        better = [
            (tp + 1, fp - 1, fn - 1) if i % 10 == 0 and tp < 4 else (tp, fp, fn)
            for i, (tp, fp, fn) in enumerate(base)
        ]
        found = paired_difference(counts(better), counts(base))
        alone = mean_f1(counts(base))
        assert None not in (found.low, found.high, alone.low, alone.high)
        assert 0 < found.low < found.estimate < found.high
        assert found.high - found.low < (alone.high - alone.low) / 2

    def test_interval_over_frames_agrees_with_the_normal_one(self) -> None:
        # every frame has 4 lanes and FP = FN, so F1 is the mean of TP / 4
        frames = drawn(3, 0.6, frames=1000)
        share = np.array([tp / 4 for tp, _, _ in frames])
        found = mean_f1(counts(frames))
        reach = 1.96 * share.std(ddof=1) / 1000**0.5
        assert found.low == pytest.approx(share.mean() - reach, abs=reach / 10)
        assert found.high == pytest.approx(share.mean() + reach, abs=reach / 10)

    def test_frames_all_alike_leave_students_interval_over_seeds(self) -> None:
        """F1 1/2, 3/4 and 1/2: mean 7/12, standard deviation 0.1443, t(2) = 4.303."""
        found = mean_f1(counts([(2, 2, 2)] * 5, [(3, 1, 1)] * 5, [(2, 2, 2)] * 5))
        assert found.estimate == pytest.approx(7 / 12)
        assert found.low == pytest.approx(7 / 12 - 4.303 * 0.1443 / 3**0.5, abs=1e-3)
        assert found.high == pytest.approx(7 / 12 + 4.303 * 0.1443 / 3**0.5, abs=1e-3)
        wide = mean_f1(counts([(0, 4, 4)] * 5, [(4, 0, 0)] * 5))
        assert (wide.low, wide.high) == (0, 1)

    def test_reaches_over_frames_and_seeds_add_up_as_squares(self) -> None:
        one, other = counts(drawn(0, 0.7), drawn(1, 0.75)), counts(drawn(0, 0.5), drawn(0, 0.5))
        found = paired_difference(one, other)
        first = f1_of(np.stack([one.by_seed[s].sum(0) for s in (0, 1)]))
        seeds = mean_of((first - f1_of(other.by_seed[0].sum(0))).tolist())
        assert None not in (found.low, found.high, seeds.low, seeds.high)
        assert found.high - found.estimate > seeds.high - seeds.estimate
        assert found.estimate == pytest.approx(seeds.estimate)

    def test_the_mean_of_two_differences(self) -> None:
        better, worse = counts(drawn(0, 0.8)), counts(drawn(0, 0.6))
        both = mean_difference([(better, worse), (worse, worse)])
        single = paired_difference(better, worse)
        assert None not in (both.low, both.high, single.low, single.high)
        assert (both.estimate, both.low, both.high) == pytest.approx(
            (single.estimate / 2, single.low / 2, single.high / 2)
        )

    def test_only_shared_seeds_are_compared(self) -> None:
        three = counts(drawn(0, 0.9), drawn(1, 0.9), drawn(2, 0.9))
        found = paired_difference(three, counts(drawn(5, 0.5)))
        assert found.seeds == 1
        assert found.estimate == pytest.approx(
            mean_f1(counts(drawn(0, 0.9))).estimate - mean_f1(counts(drawn(5, 0.5))).estimate
        )

    def test_a_setting_without_a_seed_meets_every_seed(self) -> None:
        three = counts(drawn(0, 0.9), drawn(1, 0.9), drawn(2, 0.9))
        fixed = counts(drawn(5, 0.5), any_seed=True)
        found = paired_difference(three, fixed)
        assert found.seeds == 3
        assert found.estimate == pytest.approx(mean_f1(three).estimate - mean_f1(fixed).estimate)

    def test_the_same_records_give_the_same_interval(self) -> None:
        one, other = counts(drawn(0, 0.7), drawn(1, 0.7)), counts(drawn(2, 0.6), drawn(3, 0.6))
        assert paired_difference(one, other) == paired_difference(one, other)

    def test_what_cannot_be_paired_is_refused(self) -> None:
        with pytest.raises(BenchError, match="200 and 3 frames"):
            paired_difference(counts(drawn(0, 0.5)), counts(drawn(0, 0.5, frames=3)))
        only_second = FrameCounts({1: counts(drawn(0, 0.5)).by_seed[0]})
        with pytest.raises(BenchError, match="seed in common"):
            paired_difference(counts(drawn(0, 0.5)), only_second)
        with pytest.raises(BenchError, match="no fp and fn"):
            FrameCounts.of_frames({0: {"lds": [1.0]}})
        with pytest.raises(BenchError, match="same frames"):
            counts(drawn(0, 0.5, frames=2), drawn(0, 0.5, frames=3))

    @given(st.integers(0, 10**6), st.floats(0.1, 0.9), st.floats(0.1, 0.9), st.integers(1, 4))
    def test_exchanging_the_sides_mirrors_the_interval(
        self, seed: int, first: float, second: float, seeds: int
    ) -> None:
        one = counts(*(drawn(seed + i, first, frames=20) for i in range(seeds)))
        other = counts(*(drawn(seed + 50 + i, second, frames=20) for i in range(seeds)))
        found, back = paired_difference(one, other, 200), paired_difference(other, one, 200)
        assert None not in (found.low, found.high, back.low, back.high)
        assert back.estimate == pytest.approx(-found.estimate)
        assert back.low == pytest.approx(-found.high)
        assert found.low <= found.high


class TestSpearman:
    def test_by_hand(self) -> None:
        # ranks 1 2 3 4 against 1 3 2 4: rho = 1 - 6 * 2 / (4 * 15)
        found = spearman([1, 2, 3, 4], [10, 30, 20, 40])
        assert found is not None
        assert found.estimate == pytest.approx(0.8)

    def test_a_rising_curve_is_one_however_it_bends(self) -> None:
        x = np.arange(1.0, 30)
        found = spearman(x.tolist(), (x**3).tolist())
        assert found is not None
        assert (found.estimate, found.low, found.high) == pytest.approx((1, 1, 1))

    def test_unknown_where_there_is_nothing_to_rank(self) -> None:
        assert spearman([1, 2, 3], [1, 2, 3]) is None
        assert spearman([1, 1, 1, 1], [1, 2, 3, 4]) is None

    @given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=4, max_size=30))
    def test_agrees_with_scipy_and_with_its_interval(self, pairs: list[tuple[int, int]]) -> None:
        x, y = map(list, zip(*pairs, strict=True))
        found = spearman(x, y, 100)
        if found is None:
            assert len(set(x)) == 1 or len(set(y)) == 1
            return
        assert found.estimate == pytest.approx(stats.spearmanr(x, y).statistic)
        if found.low is not None and found.high is not None:
            assert -1 - 1e-9 <= found.low <= found.high <= 1 + 1e-9


class TestMeans:
    def test_ratio_by_hand(self) -> None:
        found = mean_ratio([2.0, 8.0], [1.0, 1.0])
        assert found.estimate == pytest.approx(4)
        # logs ln 2 and ln 8: standard error ln(8/2) / 2, times t(0.975, 1) = 12.706
        assert found.high == pytest.approx(4 * np.exp(12.706 * np.log(4) / 2), rel=1e-3)

    def test_one_value_has_no_interval(self) -> None:
        found = mean_of([3.0])
        assert (found.estimate, found.low, found.high, found.seeds) == (3.0, None, None, 1)
        assert mean_ratio([3.0], [2.0]).low is None
        assert found.scaled(2).estimate == 6

    def test_two_values_by_hand(self) -> None:
        found = mean_of([0.7, 0.8])
        assert found.high == pytest.approx(0.75 + 12.706 * 0.05, rel=1e-3)
