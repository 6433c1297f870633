"""Records of two versions of the code stand in one table where their cells were found to be equal, and only there."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from measured_cells import measured

from bench import same_code
from bench.claims.evidence import subjects_of
from bench.store import Record, RunFolder
from bench.table import sections

ROOT = Path(__file__).resolve().parents[1]


def versions(hit: float = 0.9) -> tuple[list[Record], list[Record]]:
    """Two methods with old code; with new code one of them again, and a third."""
    old = [measured(method, code="old") for method in ("fp32", "minmax", "qdrop")]
    return old, [measured("qdrop", hit, code="new"), measured("selective-focus", code="new")]


def with_option(record: Record, value: float) -> Record:
    settings = {**record.cell["settings"], "quantization": {"activation_equalisation": value}}
    return record.model_copy(update={"cell": {**record.cell, "settings": settings}})


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    table = tmp_path / "same-code.csv"
    monkeypatch.setattr(same_code, "TABLE", table)

    def run(old: list[Record], new: list[Record]) -> int:
        for name, records in (("old", old), ("new", new)):
            for record in records:
                RunFolder(tmp_path / name).put(record)
        monkeypatch.setattr(sys, "argv", ["same_code.py", str(tmp_path / "old"), str(tmp_path / "new")])
        code: int = runpy.run_path(str(ROOT / "scripts" / "same_code.py"), run_name="script")["main"]()
        same_code._same_codes.cache_clear()
        return code

    yield run
    same_code._same_codes.cache_clear()


def methods_judged(records: list[Record]) -> set[str]:
    (subject,), _ = subjects_of(records)
    return {setting.method for setting in subject.settings}


def test_equal_cells_join_two_versions(call, capsys) -> None:
    old, new = versions()
    assert methods_judged([*old, *new]) == {"minmax", "qdrop"}
    assert call(old, new) == 0
    assert "laneatt: 1 cells equal, new is as old" in capsys.readouterr().out
    assert methods_judged([*old, *new]) == {"minmax", "qdrop", "selective-focus"}
    (section,) = sections([*old, *new])
    assert not any(row.other_code for row in section.rows)


def test_a_third_version_joins_the_other_two(call) -> None:
    old, new = versions()
    assert call(old, new) == 0
    third = [measured(method, code="third") for method in ("selective-focus", "omse")]
    assert call(third, new) == 0
    assert call(third, new) == 0, "once more changes nothing"
    assert methods_judged([*old, *new, *third]) == {"minmax", "qdrop", "selective-focus", "omse"}


def test_one_different_frame_joins_nothing(call, capsys, tmp_path: Path) -> None:
    old, new = versions(hit=0.89)
    assert call(old, new) == 1
    assert "laneatt qdrop w4a4 seed 0: F1" in capsys.readouterr().err
    assert not (tmp_path / "same-code.csv").exists()
    assert methods_judged([*old, *new]) == {"minmax", "qdrop"}


def test_a_setting_that_is_not_named_has_its_default() -> None:
    old, new = measured("qdrop", code="old"), measured("qdrop", code="new")
    named = with_option(old, 0.0)
    pairs, differences = same_code.equal_cells([named], [with_option(new, 0.0)])
    assert (len(pairs), differences) == (1, [])
    without = old.model_copy(
        update={"cell": {**named.cell, "settings": {**named.cell["settings"], "quantization": {}}}}
    )
    assert len(same_code.equal_cells([without], [with_option(new, 0.0)])[0]) == 1
    assert same_code.equal_cells([without], [with_option(new, 0.5)]) == ([], [])


def test_nothing_in_common_and_no_run_are_said(call, capsys, tmp_path: Path) -> None:
    old, new = versions()
    assert call(old, new[1:]) == 1
    assert "no cell is in both" in capsys.readouterr().err
    (tmp_path / "new" / "records").rename(tmp_path / "moved")
    assert call([], []) == 2
    assert "expected a run's folder" in capsys.readouterr().err
