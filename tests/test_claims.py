"""The paper's claims on records with chosen numbers: every verdict can come out, and nothing is mixed that differs."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from measured_cells import measured, three

from bench.claims import Finding, examine, paper_values
from bench.claims.evidence import Evidence, gather, subjects_of
from bench.claims.finding import CLAIMS, PaperValue
from bench.claims.timing import time_to_reach
from bench.claims.verdicts import judge, judge_bar, judge_rank, with_condition
from bench.cli import main
from bench.errors import BenchError
from bench.noise import HeadNoise, Sides
from bench.statistics import Interval
from bench.store import Record, RunFolder

METHOD = "selective-focus"


def evidence(records: list[Record], noise: tuple[HeadNoise, ...] = ()) -> Evidence:
    subjects, left_out = subjects_of(records)
    return Evidence(subjects, noise, left_out)


def rows(records: list[Record], claim: str, **chosen: str) -> list[Finding]:
    found = [f for f in examine(evidence(records)) if f.claim == claim]
    return [f for f in found if all(getattr(f, name) == value for name, value in chosen.items())]


def complete() -> list[Record]:
    """Three seeds of everything that the claims about accuracy need."""
    return [
        measured("fp32", 0.97, lds=0.0),
        measured("minmax", 0.5, lds=9.0),
        *three("qdrop", 0.8, lds=4.0, seconds=60.0),
        *three(METHOD, 0.9, lds=2.0, seconds=20.0),
        *three("selective-focus-without-sgf", 0.85, base=METHOD, options={"focus": False}, lds=3.0),
        *three("no selection", 0.9, base=METHOD, options={"selection": False}, lds=2.1),
    ]


class TestVerdicts:
    """Effects of 2, whose interval is 1 to 3, and others, by the rules that the Markdown prints."""

    @pytest.mark.parametrize(
        ("interval", "paper", "verdict"),
        [
            ((2.0, 1.0, 3.0), None, "reproduced"),
            ((2.0, 1.0, 3.0), 2.9, "reproduced"),
            ((2.0, 1.0, 3.0), 0.5, "reproduced"),
            ((2.0, 1.0, 3.0), 6.4, "partly"),
            ((2.0, -0.1, 3.0), None, "not reproduced"),
            ((0.0, -1.0, 1.0), None, "not reproduced"),
            ((-2.0, -3.0, 1.0), None, "not reproduced"),
            ((-2.0, -3.0, -1.0), None, "not reproduced"),
        ],
    )
    def test_effects(self, interval: tuple[float, float, float], paper: float | None, verdict: str) -> None:
        found = Interval(*interval, seeds=3)
        assert judge(found, paper)[0] == verdict
        mirrored = Interval(-interval[0], -interval[2], -interval[1], seeds=3)
        assert judge(mirrored, None if paper is None else -paper, sign=-1)[0] == verdict

    def test_a_ratio_is_held_against_one(self) -> None:
        assert judge(Interval(2, 1.5, 3, 3), 6, no_effect=1)[0] == "partly"
        assert judge(Interval(5, 4, 7, 3), 6, no_effect=1)[0] == "reproduced"
        assert judge(Interval(0.9, 0.8, 0.95, 3), 6, no_effect=1) == (
            "not reproduced",
            "the effect is the opposite",
        )

    @pytest.mark.parametrize("seeds", [1, 2])
    def test_fewer_than_three_seeds_test_nothing(self, seeds: int) -> None:
        found = Interval(2, 1, 3, seeds)
        for verdict, why in (judge(found), judge_bar(found, 0, 1, ""), judge_rank(found)):
            assert verdict == "not tested"
            assert "3 needed" in why
        assert judge(None) == ("not tested", "no cells to compare")

    def test_bars(self) -> None:
        assert judge_bar(Interval(-0.5, -0.9, 0, 3), -1, 1, "x")[0] == "reproduced"
        assert judge_bar(Interval(-0.5, -1.5, 0, 3), -1, 1, "x")[0] == "not reproduced"
        assert judge_bar(Interval(-1.5, -2, 0, 3), -1, 1, "x")[0] == "not reproduced"
        assert judge_bar(Interval(30, 20, 40, 3), 60, -1, "x")[0] == "reproduced"
        assert judge_rank(Interval(0.9, 0.6, 1, 3))[0] == "reproduced"
        assert judge_rank(Interval(0.9, 0.2, 1, 3))[0] == "partly"
        assert judge_rank(Interval(0.1, -0.2, 1, 3))[0] == "not reproduced"

    def test_an_effect_that_counts_only_beside_a_condition(self) -> None:
        assert with_condition("reproduced", "reproduced") == "reproduced"
        assert with_condition("reproduced", "not reproduced") == "partly"
        assert with_condition("not reproduced", "reproduced") == "not reproduced"
        assert with_condition("reproduced", "not tested") == "not tested"


class TestClaims:
    def test_gain_over_the_best_baseline(self) -> None:
        (gain,) = rows(complete(), "C1", subject="laneatt")
        assert gain.statement.endswith("less that of qdrop")
        assert gain.measured is not None
        assert gain.measured.seeds == 3
        assert gain.measured.estimate == pytest.approx(10, abs=2)
        assert gain.verdict == "reproduced"
        assert gain.paper == PaperValue()
        (best,) = rows(complete(), "C1", subject="laneatt (best)")
        assert best.paper == PaperValue(6.4, "verified")
        assert best.measured == gain.measured

    def test_a_best_baseline_that_learns_nothing_meets_every_seed(self) -> None:
        (gain,) = rows([measured("minmax", 0.8), *three(METHOD, 0.9)], "C1", subject="laneatt")
        assert gain.measured is not None
        assert gain.measured.seeds == 3

    def test_no_gain(self) -> None:
        (gain,) = rows([*three("qdrop", 0.9), *three(METHOD, 0.8)], "C1", subject="laneatt")
        assert gain.verdict == "not reproduced"

    def test_ablations_are_recognised_by_their_options(self) -> None:
        found = {f.short: f for f in rows(complete(), "C2")}
        assert found["without SGF"].measured is not None
        assert found["without SGF"].measured.estimate == pytest.approx(-5, abs=2)
        assert found["without SGF"].paper == PaperValue(-3.04, "inferred")
        assert found["without SGF"].verdict == "reproduced"
        assert found["without SAS"].measured is not None
        assert found["without SAS"].verdict == "not reproduced"
        assert (found["without both"].measured, found["without both"].verdict) == (None, "not tested")

    def test_speed_counts_an_iteration_of_a_parameter(self) -> None:
        slow = [
            measured("qdrop", 0.9, seed, seconds=60.0 + seed, settings=_settings("qdrop", 200))
            for seed in range(3)
        ]
        found = {f.short: f for f in rows([*slow, *three(METHOD, 0.9, seconds=10.0)], "C3")}
        ratio = found["time, qdrop"].measured
        assert ratio is not None
        assert ratio.estimate == pytest.approx((60 * 61 * 62) ** (1 / 3) / 200 / (10 / 100))
        assert found["time, qdrop"].verdict == "reproduced"  # the paper's model is unknown: direction only
        assert found["F1, qdrop"].verdict == "reproduced"  # the same F1

    def test_seconds_of_two_machines_are_never_compared(self) -> None:
        elsewhere = three("qdrop", 0.9, machine="two")
        records = [*elsewhere, *three(METHOD, 0.9), measured("minmax")]
        time, f1 = rows(records, "C3")
        assert (time.measured, time.verdict) == (None, "not tested")
        assert f1.measured is not None
        assert any("another machine" in note for note in evidence(records).left_out)

    def test_batches_of_other_sizes_are_other_data(self) -> None:
        settings = _settings("qdrop", 100, batch_size=16)
        blocks = [measured("qdrop", 0.9, seed, settings=settings) for seed in range(3)]
        assert "batches of 8 and 16" in rows([*blocks, *three(METHOD, 0.9)], "C3")[0].why

    def test_minutes_on_a_processor_say_nothing_about_a_gpu(self) -> None:
        (cpu,) = rows(three(METHOD, 0.9, seconds=120.0), "C4")
        assert cpu.measured is not None
        assert cpu.measured.estimate == pytest.approx(2)
        assert cpu.verdict == "not tested"
        on_gpu = [
            r.model_copy(update={"environment": {"device": "H"}})
            for r in three(METHOD, seconds=120.0, hit=0.9)
        ]
        assert rows(on_gpu, "C4")[0].verdict == "reproduced"

    def test_heads(self) -> None:
        entries = [
            {"iteration": 0, "scores": {"a": 9.0, "b": 1.0}, "active": ["a", "b"], "measured": True},
            {"iteration": 9, "scores": {"a": 99.0, "b": 99.0}, "active": ["a"], "measured": False},
            {"iteration": 10, "scores": {"a": 7.0, "b": 1.0}, "active": ["a", "b"], "measured": True},
        ]
        (found,) = rows(three(METHOD, 0.9, sensitivity=entries), "C6")
        assert found.measured is not None
        assert found.measured.estimate == pytest.approx(2 * 1 / 9)  # mean scores 8 and 1
        assert found.verdict == "reproduced"
        assert "dropped in 3 of 3 seeds" in found.why

    def test_noise(self) -> None:
        sides = Sides(foreground=[4.0, 5.0, 6.0], background=[0.0, 1.0, 0.0])
        measured = HeadNoise(detector="laneatt", data="here", level=0.3, heads={"offsets": sides})
        (found,) = (f for f in examine(evidence([], (measured,))) if f.claim == "C5")
        assert found.measured is not None
        assert found.measured.estimate == pytest.approx((4 + 4 + 6) / 3)
        assert (found.verdict, found.subject) == ("reproduced", "laneatt, 0.3 sd")
        assert "foreground 5.00 px, background 0.33 px" in found.why
        assert rows([], "C5")[0].verdict == "not tested"

    def test_distortion_and_loss(self) -> None:
        """A point a setting: its seeds are no evidence of their own."""
        settings = [("minmax", 0.5), ("qdrop", 0.7), (METHOD, 0.9), ("selective-focus-plus", 0.95)]
        records = [
            record
            for bits in (8, 4, 3)
            for method, hit in settings
            for record in three(method, hit - 0.1 / bits, bits=bits, lds=20 * (1 - hit) + 1 / bits)
        ]
        (found,) = rows([measured("fp32", 0.97), *records], "C7", bits="all")
        assert found.measured is not None
        assert found.measured.estimate > 0.9
        assert (found.verdict, found.why.split(";")[0]) == ("reproduced", "12 settings")
        (at_four,) = rows([measured("fp32", 0.97), *records], "C7", bits="W4A4")
        assert (at_four.verdict, at_four.in_context) == ("not tested", True)

    def test_families_and_our_own_method(self) -> None:
        """Two anchor detectors of one family, a curve alone; our method is held to the baselines, never to itself."""
        both = [
            record
            for detector in ("laneatt", "clrnet")
            for record in [
                *three("qdrop", 0.8, detector=detector),
                *three(METHOD, 0.9, detector=detector),
                *three("selective-focus-plus", 0.95, detector=detector),
            ]
        ]
        curve = [*three("qdrop", 0.8, detector="lstr"), *three(METHOD, 0.7, detector="lstr")]
        anchor, other, every = rows(both + curve, "C8", bits="W4A4")
        assert (anchor.subject, anchor.verdict) == ("clrnet, laneatt", "reproduced")
        assert (other.subject, other.verdict) == ("lstr", "not reproduced")
        assert (every.short, every.verdict) == ("least family", "not reproduced")
        (single, _) = rows(both, "P1", bits="W4A4")
        assert single.statement == "F1 of selective-focus-plus less that of qdrop"
        assert single.paper.status == "not the paper's"
        for finding in (anchor, single):
            assert finding.measured is not None
        assert anchor.measured.estimate == pytest.approx(10, abs=2)  # type: ignore[union-attr]
        assert single.measured.estimate == pytest.approx(15, abs=2)  # type: ignore[union-attr]

    @pytest.mark.parametrize("part", [{"activation_importance": "lanes"}, {"activation_equalisation": 0.5}])
    def test_a_baseline_with_a_part_of_ours_is_no_baseline(self, part: dict[str, Any]) -> None:
        ours = {"quantization": part}
        record = measured("qdrop-for-lanes", 0.99, base="qdrop")
        lanes = record.model_copy(
            update={"cell": {**record.cell, "settings": {**record.cell["settings"], **ours}}}
        )
        (found, *_) = rows([*complete(), lanes], "C1", bits="W4A4")
        assert found.short == "gain, qdrop"

    def test_every_family_is_as_good_as_the_one_that_gains_least(self) -> None:
        """One detector of each family; one of them loses."""
        names = ("laneatt", "condlanenet", "lstr", "scnn")
        gaining = [
            record
            for name in names
            for record in [*three("qdrop", 0.8, detector=name), *three(METHOD, 0.9, detector=name)]
        ]
        (every,) = rows(gaining, "C8", short="least family")
        assert (every.verdict, every.in_context) == ("reproduced", False)
        (missing,) = rows(gaining[:18], "C8", short="least family")
        assert (missing.verdict, missing.why) == ("not tested", "no three seeds of the segmentation family")
        # a large gain that nobody can be sure of is worse than a small one that is sure
        wide = [
            *three("qdrop", 0.8, detector="scnn"),
            *(measured(METHOD, hit, seed, detector="scnn") for seed, hit in enumerate((0.99, 0.7, 0.99))),
        ]
        (unsure,) = rows([*gaining[:18], *wide], "C8", short="least family")
        assert (unsure.verdict, unsure.subject) == ("not reproduced", "scnn")
        losing = [*gaining[:18], *three("qdrop", 0.8, detector="scnn"), *three(METHOD, 0.7, detector="scnn")]
        (worst,) = rows(losing, "C8", short="least family")
        assert (worst.verdict, worst.subject) == ("not reproduced", "scnn")

    def test_the_largest_gain_is_not_that_of_a_destroyed_detector(self) -> None:
        destroyed = [
            measured("fp32", 0.97, detector="clrnet"),
            *three("qdrop", 0.05, detector="clrnet"),
            *three(METHOD, 0.3, detector="clrnet"),
        ]
        (best,) = rows([*complete(), *destroyed], "C1", short="surest gain")
        assert (best.subject, best.in_context) == ("laneatt (best)", True)

    def test_every_claim_is_there_even_without_evidence(self) -> None:
        found = examine(Evidence((), (), ()))
        assert [f.claim for f in found] == sorted([*CLAIMS])
        assert {f.verdict for f in found} == {"not tested"}
        assert all(f.why for f in found)


class TestPaperValues:
    def test_unreadable_cells_stay_empty(self) -> None:
        assert paper_values.gain("laneatt", 4, 4) == PaperValue(None, "unreadable")
        assert paper_values.claim("rank correlation") == PaperValue()
        assert paper_values.speed_up() == PaperValue(6, "inferred")
        assert paper_values.least_share("condlanenet") == PaperValue(0, "verified")
        assert paper_values.least_share("laneatt") == PaperValue()


class TestEvidence:
    @pytest.mark.parametrize(
        "field", ["code", "metric", "weights_digest", "data_digest", "calibration_digest", "settings"]
    )
    def test_other_versions_are_left_out_and_said(self, field: str) -> None:
        other: Any = _settings(METHOD, 7) if field == "settings" else "another"
        records = [*three(METHOD, 0.9), measured(METHOD, 0.1, seed=7, **{field: other})]
        found = evidence(records)
        (subject,) = found.subjects
        assert sorted(subject.settings[0].records) == [0, 1, 2]
        assert len(found.left_out) == 1
        assert found.left_out[0].endswith("1 cells")

    def test_other_frames_are_another_subject(self) -> None:
        found = evidence([*three(METHOD, 0.9), *three(METHOD, 0.9, dataset="synthetic-val")])
        assert len(found.subjects) == 2

    def test_unfinished_cells_are_counted(self) -> None:
        failed = measured("qdrop").model_copy(update={"status": "failed", "result": None})
        assert evidence([failed]).left_out == ("1 cells without a score (failed, skipped or interrupted)",)

    def test_a_folder_without_a_run(self, tmp_path: Path) -> None:
        with pytest.raises(BenchError, match="no records"):
            gather([tmp_path])


def test_seconds_to_reach_qdrops_f1() -> None:
    quick = three("quick", 0.85, base=METHOD, options={"share": 0.1}, seconds=5.0)
    poor = three("poor", 0.5, base=METHOD, options={"share": 0.9}, seconds=1.0)
    subject = evidence([*complete(), *quick, *poor]).subjects[0]
    (time,) = time_to_reach(subject)
    assert (time.method, time.qdrop_s, time.seconds, time.label) == (METHOD, 60, 5, "quick")
    worse = evidence([*three("qdrop", 0.9), *three(METHOD, 0.5)]).subjects[0]
    assert time_to_reach(worse)[0].seconds is None


def test_the_verb_writes_csv_markdown_and_plots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder(tmp_path / "runs" / "one")
    run.prepare()
    for record in complete():
        run.put(record)
    heads = {"offsets": {"foreground": [2.0] * 3, "background": [1.0] * 3}}
    (run.path / "noise").mkdir()
    (run.path / "noise" / "a.json").write_text(
        json.dumps({"detector": "laneatt", "data": "d", "level": 0.3, "heads": heads})
    )
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        main(["claims", "--results", str(tmp_path / "runs"), "--out", str(out)])
    assert stop.value.code == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100
    with (out / "claims.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert {row["claim"] for row in table} == set(CLAIMS)
    gain = next(row for row in table if row["claim"] == "C1" and row["subject"] == "laneatt")
    assert (gain["paper"], gain["paper_status"], gain["seeds"]) == ("", "unreadable", "3")
    assert float(gain["low"]) < float(gain["measured"]) < float(gain["high"])
    text = (out / "claims.md").read_text()
    assert all(f"## {claim}" in text for claim in CLAIMS)
    assert "**not tested**: cells, seeds or measurements are missing" in text
    assert sorted(path.name for path in out.glob("*.png")) == [
        "differences.png",
        "lds-f1-loss.png",
        "seconds-to-qdrop.png",
    ]


def test_the_verb_refuses_a_folder_without_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["claims", "--results", str(tmp_path)])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def _settings(method: str, iterations: int, batch_size: int = 8) -> dict[str, Any]:
    unit = "network" if method == METHOD else "block"
    return {"reconstruction": {"iterations": iterations, "batch_size": batch_size, "unit": unit}}
