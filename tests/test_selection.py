"""Sensitivity Aware Selection: scores between measurements, the two rules, a whole reconstruction."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selective_focus.selection import (
    SensitivityAwareSelection,
    predict_scores,
    select_by_share,
    select_top,
)

FIGURE_1 = {"mask": 0.0, "mlp": 4.6, "reg": 10.0}


# ---------------------------------------------------------------- scores between measurements

MEASURED = [(0, {"a": 10.0, "b": 1.0}), (50, {"a": 6.0, "b": 2.0}), (100, {"a": 1.0, "b": 2.5})]


@pytest.mark.parametrize(
    ("iteration", "a", "b"),
    [
        (0, 10.0, 1.0),
        (25, 8.0, 1.5),
        (50, 6.0, 2.0),
        (75, 3.5, 2.25),
        (100, 1.0, 2.5),
        (105, 0.5, 2.55),
        (140, 0.0, 2.9),
    ],
)
def test_linear_interpolates_then_continues_and_stops_at_zero(iteration: int, a: float, b: float) -> None:
    assert predict_scores(MEASURED, iteration) == pytest.approx({"a": a, "b": b})


def test_linear_uses_the_last_two_measurements_only() -> None:
    assert predict_scores(MEASURED[:2], 75) == pytest.approx({"a": 4.0, "b": 2.5})


@pytest.mark.parametrize(
    ("iteration", "a"), [(0, 10.0), (49, 10.0), (50, 6.0), (99, 6.0), (100, 1.0), (500, 1.0)]
)
def test_hold_repeats_the_last_measurement(iteration: int, a: float) -> None:
    assert predict_scores(MEASURED, iteration, "hold")["a"] == a


def test_one_measurement_is_held_and_the_first_reaches_back() -> None:
    assert predict_scores(MEASURED[1:2], 80) == MEASURED[1][1]
    assert predict_scores(MEASURED[1:], 10) == MEASURED[1][1]
    with pytest.raises(ValueError, match="measure the heads first"):
        predict_scores([], 0)


# ---------------------------------------------------------------- rules


def test_the_figure_of_the_paper_drops_the_mask() -> None:
    assert select_by_share(FIGURE_1, 0.03) == ["mlp", "reg"]
    assert select_by_share(FIGURE_1, 0.32) == ["reg"]  # 4.6 / 14.6 = 0.315
    assert select_top(FIGURE_1, 2) == ["mlp", "reg"]


def test_the_threshold_itself_is_enough() -> None:
    assert select_by_share({"a": 1.0, "b": 3.0}, 0.25) == ["a", "b"]


def test_something_is_always_selected() -> None:
    assert select_by_share({"a": 2.0, "b": 3.0, "c": 3.0}, 0.9) == ["b"]
    assert select_by_share({"a": 0.0, "b": 0.0}, 0.1) == ["a", "b"]
    assert select_by_share({"a": -0.1, "b": 0.0}, 0.1) == ["a", "b"]
    assert select_by_share({"a": -5.0, "b": 1.0}, 0.1) == ["b"]
    assert select_top({"a": 0.0, "b": 0.0}, 1) == ["a"]
    assert select_top({"a": 1.0, "b": 2.0}, 5) == ["a", "b"]


def test_hysteresis_keeps_what_is_in_and_out() -> None:
    # shares 0.08 and 0.92 around a threshold of 0.1 with h = 0.3: stay down to 0.07, enter from 0.13
    scores = {"a": 8.0, "b": 92.0}
    assert select_by_share(scores, 0.1, hysteresis=0.3, active=["a", "b"]) == ["a", "b"]
    assert select_by_share(scores, 0.1, hysteresis=0.3, active=["b"]) == ["b"]
    assert select_by_share({"a": 12.0, "b": 88.0}, 0.1, hysteresis=0.3, active=["b"]) == ["b"]
    assert select_by_share({"a": 13.5, "b": 86.5}, 0.1, hysteresis=0.3, active=["b"]) == ["a", "b"]
    assert select_by_share({"a": 6.9, "b": 93.1}, 0.1, hysteresis=0.3, active=["a", "b"]) == ["b"]


score_sets = st.dictionaries(st.sampled_from("abcdef"), st.floats(-5, 30), min_size=1)


@given(score_sets, st.floats(0, 1), st.floats(0, 0.9), st.integers(1, 6), st.floats(0.01, 100))
def test_never_empty_keeps_the_largest_and_ignores_units(scores, share, hysteresis, count, unit) -> None:
    largest = max(scores.values())
    for chosen in (select_by_share(scores, share, hysteresis=hysteresis), select_top(scores, count)):
        assert chosen
        assert set(chosen) <= set(scores)
        assert largest in [scores[head] for head in chosen]
    assert select_top({head: unit * score for head, score in scores.items()}, count)
    assert len(select_top(scores, count)) == min(count, len(scores))


# ---------------------------------------------------------------- over a reconstruction


def selection(**options: Any) -> SensitivityAwareSelection:
    return SensitivityAwareSelection(["mask", "mlp", "reg"], **options)


def test_all_heads_are_active_until_the_first_measurement() -> None:
    sas = selection(share=0.1)
    assert sas.weights(7) == {"mask": 1.0, "mlp": 1.0, "reg": 1.0}
    assert sas.log == []
    sas.measured(8, FIGURE_1)
    assert sas.weights(8) == {"mask": 0.0, "mlp": 1.0, "reg": 1.0}
    assert sas.log == [{"iteration": 8, "scores": FIGURE_1, "active": ["mlp", "reg"], "measured": True}]


def test_dropped_heads_can_keep_a_small_weight() -> None:
    sas = selection(dropped_weight=0.05)
    sas.measured(0, FIGURE_1)
    assert sas.weights(0) == {"mask": 0.05, "mlp": 1.0, "reg": 1.0}


def test_the_set_changes_between_measurements_when_scores_are_predicted() -> None:
    sas = selection(share=0.1)
    sas.measured(0, {"mask": 0.0, "mlp": 4.0, "reg": 6.0})
    sas.measured(50, {"mask": 0.0, "mlp": 2.0, "reg": 8.0})
    assert sas.active(74) == ["mlp", "reg"]  # mlp 1.04, reg 8.96
    assert sas.active(76) == ["reg"]  # mlp 0.96, reg 9.04
    assert sas.active(80) == ["reg"]
    changes = [(entry["iteration"], entry["active"], entry["measured"]) for entry in sas.log]
    assert changes == [(0, ["mlp", "reg"], True), (50, ["mlp", "reg"], True), (76, ["reg"], False)]
    assert sas.log[-1]["scores"] == pytest.approx({"mask": 0.0, "mlp": 0.96, "reg": 9.04})

    held = selection(share=0.1, interpolation="hold")
    held.measured(0, {"mask": 0.0, "mlp": 4.0, "reg": 6.0})
    held.measured(50, {"mask": 0.0, "mlp": 2.0, "reg": 8.0})
    assert held.active(99) == ["mlp", "reg"]


def test_hysteresis_stops_flipping() -> None:
    shares = [0.12, 0.09, 0.11, 0.09, 0.11]

    def changes(**options: Any) -> int:
        sas = SensitivityAwareSelection(["a", "b"], share=0.1, interpolation="hold", **options)
        sets = []
        for time, share in enumerate(shares):
            sas.measured(time, {"a": share, "b": 1 - share})
            sets.append(sas.active(time))
        return sum(before != after for before, after in pairwise(sets))

    assert changes() == 4
    assert changes(hysteresis=0.2) == 0


def test_top_k_over_time() -> None:
    sas = selection(top_k=1)
    sas.measured(0, FIGURE_1)
    assert sas.active(0) == ["reg"]
    sas.measured(50, {"mask": 9.0, "mlp": 4.6, "reg": 1.0})
    assert sas.active(50) == ["mask"]


def test_measurements_are_due_at_multiples_of_the_interval() -> None:
    assert [t for t in range(120) if selection(interval=50).is_due(t)] == [0, 50, 100]


def test_the_log_is_a_record_not_a_view() -> None:
    sas = selection()
    scores = dict(FIGURE_1)
    sas.measured(0, scores)
    scores["mask"] = 99.0
    sas.active(0).clear()
    assert sas.log[0]["scores"] == FIGURE_1
    assert sas.active(0) == ["mlp", "reg"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 1.5}, r"share must be in \[0, 1\], not 1.5"),
        ({"top_k": 0}, "top_k must be at least 1, not 0"),
        ({"interval": 0}, "interval must be at least 1 iteration, not 0"),
        ({"interpolation": "cubic"}, "linear, hold, not 'cubic'"),
        ({"hysteresis": 1.0}, r"hysteresis must be in \[0, 1\), not 1.0"),
        ({"hysteresis": 0.2, "top_k": 1}, "leave out top_k or hysteresis"),
        ({"dropped_weight": -0.1}, r"dropped_weight must be in \[0, 1\], not -0.1"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        selection(**options)


def test_bad_measurements_are_refused() -> None:
    sas = selection()
    with pytest.raises(ValueError, match="different heads"):
        SensitivityAwareSelection([])
    with pytest.raises(ValueError, match=r"expected \['mask', 'mlp', 'reg'\]"):
        sas.measured(0, {"mask": 1.0})
    with pytest.raises(ValueError, match=r"must be finite, not \{'mlp': nan\}"):
        sas.measured(0, {**FIGURE_1, "mlp": float("nan")})
    sas.measured(5, FIGURE_1)
    with pytest.raises(ValueError, match="scores of iteration 5 come after those of 5"):
        sas.measured(5, FIGURE_1)
    with pytest.raises(ValueError, match="iterations must not decrease"):
        sas.weights(4)
