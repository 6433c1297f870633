"""Ablations: grids become labels, labels become rows, and the committed grids name options that exist."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from measured_cells import measured, three

from bench import ablate
from bench.errors import BenchError
from bench.profile import Profile, load_profile
from bench.store import RunFolder
from selective_focus.quantize import resolve_options

METHOD = "selective-focus"


def profile(**grids: dict[str, dict[str, Any]]) -> Profile:
    return Profile.model_validate(
        {
            "name": "mine",
            "detectors": ["toy"],
            "methods": {"fp32": {}, "qdrop": {}, METHOD: {"iterations": 9, "share": 0.1}},
            "bits": ["w4a4"],
            "seeds": [0],
            "grids": grids,
        }
    )


def test_a_grid_is_the_method_and_its_variants() -> None:
    chosen = ablate.with_grids(
        profile(share={"all": {"share": 0.0}}, top={"top-1": {"top_k": 1}}), ["share", "top"]
    )
    assert list(chosen.methods) == ["fp32", METHOD, f"{METHOD}-all", f"{METHOD}-top-1"]
    assert chosen.method_of(f"{METHOD}-all") == METHOD
    assert chosen.options_of(f"{METHOD}-all") == {"iterations": 9, "share": 0.0}
    assert chosen.options_of(f"{METHOD}-top-1") == {"iterations": 9, "share": 0.1, "top_k": 1}


def test_mistakes_in_grids() -> None:
    with pytest.raises(BenchError, match="choose from: share"):
        ablate.with_grids(profile(share={}), ["shares"])
    with pytest.raises(BenchError, match="rename it"):
        ablate.with_grids(profile(a={"x": {"share": 0.0}}, b={"x": {"share": 0.2}}), ["a", "b"])
    bare = profile(a={"x": {}}).model_copy(update={"methods": {"fp32": {}}})
    with pytest.raises(BenchError, match="no table"):
        ablate.with_grids(bare, ["a"])


def test_every_shipped_grid_has_real_options_and_varies_something() -> None:
    shipped = load_profile("ablations")
    assert shipped.split == "val"
    chosen = ablate.with_grids(shipped, list(shipped.grids))
    plain = resolve_options(METHOD, "w3a3", chosen.options_of(METHOD))
    variants = [label for label in chosen.methods if label not in ("fp32", METHOD)]
    assert len(variants) > 20
    for label in variants:
        resolved = resolve_options(chosen.method_of(label), "w3a3", chosen.options_of(label))
        assert ablate.changes(plain, resolved), label


def test_the_reference_run_has_both_halves_left_out_and_three_seeds_where_it_counts() -> None:
    reference = load_profile("reference")
    assert reference.detectors == ["laneatt", "clrnet", "bezierlanenet", "scnn", "condlanenet"]
    assert [len(reference.seeds_of(bits)) for bits in ("w8a8", "w4a8", "w4a4", "w3a3")] == [1, 1, 3, 3]
    quick = load_profile("quick")
    for name in quick.methods:
        assert reference.methods[name] == quick.methods[name]
    full = resolve_options(METHOD, "w4a4", reference.options_of(METHOD))
    expected = {"sgf": "focus=False", "sas": "selection=False", "both": "focus=False, selection=False"}
    for half, words in expected.items():
        label = f"{METHOD}-without-{half}"
        without = resolve_options(reference.method_of(label), "w4a4", reference.options_of(label))
        assert ablate.changes(full, without) == words


def test_rows_differ_from_the_method_by_name_option_and_points(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.prepare()
    records = [
        measured("minmax", 0.5),
        *three(METHOD, 0.9),
        *three(f"{METHOD}-hold", 0.8, base=METHOD, options={"share": 0.5}),
    ]
    rows, left_out = ablate.compare(records)
    assert [row.name for row in rows] == [METHOD, "hold"]
    assert rows[0].difference is None
    assert rows[1].difference is not None
    assert rows[1].difference.estimate == pytest.approx(-10, abs=2)
    assert rows[1].difference.high is not None
    assert rows[1].difference.high < 0
    assert rows[1].options == "share=0.5"
    ablate.write(folder, rows, left_out)
    with (tmp_path / "ablation.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["difference"] == "" for row in table] == [True, False]
    assert "| laneatt | W4A4 | hold | share=0.5 | 3 |" in (tmp_path / "ablation.md").read_text()
    assert ablate.terminal(rows).row_count == 2
