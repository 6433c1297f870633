"""Tables and CSV: exact columns, empty where nothing was measured, never a mean over things that differ."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import stand_ins
from rich.console import Console

from bench import paper, table
from bench.runner import run
from bench.store import Record, RunFolder

ARCHITECTURE_COLUMNS = [
    "detector",
    "variant",
    "weights",
    "method",
    "w_bits",
    "a_bits",
    "dataset",
    "images",
    "seed",
    "f1",
    "precision",
    "recall",
    "tp",
    "fp",
    "fn",
    "f1_normal",
    "f1_crowd",
    "f1_hlight",
    "f1_shadow",
    "f1_noline",
    "f1_arrow",
    "f1_curve",
    "f1_night",
    "fp_cross",
    "lds",
    "lds_displacement",
    "lds_missing",
    "lds_extra",
    "reconstruction_s",
    "peak_memory_mb",
    "iterations",
    "calibration_images",
    "device",
    "status",
    "paper_f1",
    "paper_status",
    "record",
]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "toy")
    return run(stand_ins.profile(), folder, stand_ins.parts(), stand_ins.Listener())


def changed(record: Record, key: str, f1: float | None = None, **cell: Any) -> Record:
    result = record.result
    if result is not None and f1 is not None:
        result = result.model_copy(update={"f1": f1})
    return record.model_copy(update={"key": key, "cell": {**record.cell, **cell}, "result": result})


def rows_of(records: list[Record]) -> dict[tuple[str, int], table.Row]:
    return {(row.method, row.w_bits): row for part in table.sections(records) for row in part.rows}


def test_csv_has_the_promised_columns_and_one_row_a_cell(records: list[Record], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    table.write_csv(folder, records)
    with (tmp_path / "cells.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [*ARCHITECTURE_COLUMNS, "accuracy", "published_f1"]
    assert len(rows) == 7
    assert {row["record"] for row in rows} == {record.file_name for record in records}
    assert rows[0]["method"] == "fp32"
    assert rows[0]["f1"] == "1.0"
    assert all(row["f1_crowd"] == "" and row["fp_cross"] == "" and row["paper_f1"] == "" for row in rows)


def test_mean_and_interval_over_seeds(records: list[Record]) -> None:
    seeds = [r for r in records if r.cell["method"] == "selective-focus" and r.cell["w_bits"] == 4]
    pair = [changed(seeds[0], "a", 0.70), changed(seeds[1], "b", 0.80)]
    row = rows_of(pair)["selective-focus", 4]
    assert row.seeds == 2
    assert row.f1 is not None
    assert row.f1.mean == pytest.approx(0.75)
    # two seeds: t(0.975, 1 degree of freedom) = 12.706, standard error 0.05
    assert row.f1.half_width == pytest.approx(12.706 * 0.05, rel=1e-3)


def test_one_seed_has_no_interval(records: list[Record]) -> None:
    row = rows_of(records)["minmax", 4]
    assert row.f1 is not None
    assert row.f1.half_width is None


@pytest.mark.parametrize(
    "field",
    ["code", "metric", "weights_digest", "data_digest", "settings", "calibration", "calibration_digest"],
)
def test_seeds_of_different_versions_are_never_averaged(records: list[Record], field: str) -> None:
    seeds = [r for r in records if r.cell["method"] == "selective-focus" and r.cell["w_bits"] == 4]
    other = changed(seeds[1], "b", 0.1, **{field: "another"})
    other = other.model_copy(update={"finished": "1999"})
    row = rows_of([changed(seeds[0], "a", 0.7), other])["selective-focus", 4]
    assert row.seeds == 1
    assert row.f1 is not None
    assert row.f1.mean == pytest.approx(0.7)


def test_the_newer_record_of_a_cell_replaces_the_older(records: list[Record]) -> None:
    old = changed(records[1], "b", 0.1, code="older").model_copy(update={"finished": "1999"})
    kept, left_out = table.current([*records, old])
    assert left_out == 1
    assert old not in kept


def test_rows_with_other_code_are_marked(records: list[Record]) -> None:
    old = [
        r.model_copy(update={"finished": "1999", "cell": {**r.cell, "code": "older"}}) for r in records[:1]
    ]
    rows = rows_of([*old, *records[1:]])
    assert rows["fp32", 32].other_code
    assert not rows["minmax", 4].other_code


def test_seconds_of_different_machines_are_not_averaged(records: list[Record]) -> None:
    seeds = [r for r in records if r.cell["method"] == "selective-focus" and r.cell["w_bits"] == 4]
    moved = seeds[1].model_copy(update={"environment": {"machine": "another"}})
    assert rows_of([seeds[0], seeds[1]])["selective-focus", 4].reconstruction_s == 0.25
    assert rows_of([seeds[0], moved])["selective-focus", 4].reconstruction_s is None


def test_different_frames_are_different_tables(records: list[Record]) -> None:
    few = [changed(record, f"x{i}", subset="at most 3 in all", images=3) for i, record in enumerate(records)]
    parts = table.sections([*records, *few])
    assert [len(part.rows) for part in parts] == [5, 5]


def test_a_failed_cell_has_a_row_and_no_number(records: list[Record]) -> None:
    failed = records[1].model_copy(update={"status": "failed", "reason": "why", "result": None, "timing": {}})
    frame = table.csv_frame([records[0], failed])
    assert list(frame["status"]) == ["done", "failed"]
    assert frame["f1"].isna().tolist() == [False, True]
    assert "failed" in table.markdown(table.sections([records[0], failed]))


def test_terminal_table_fits_100_columns(records: list[Record]) -> None:
    long = [changed(r, r.key, detector="bezierlanenet", variant="r34-culane-long") for r in records]
    out = io.StringIO()
    console = Console(file=out, width=100)
    for part in table.sections(long):
        console.print(table.terminal(part))
    assert max(map(len, out.getvalue().splitlines())) <= 100
    assert "selective-focus" in out.getvalue()


def test_markdown_is_a_table_of_all_rows(records: list[Record]) -> None:
    lines = table.markdown(table.sections(records)).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2 + 5
    assert len({line.count("|") for line in rows}) == 1


def test_paper_cells_come_from_the_csv_or_stay_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    assert paper.paper_f1("laneatt", "qdrop", 4, 4, "culane") == (None, "")
    row = {"model": "LaneATT", "method": "Selective Focus", "w_bits": "4", "a_bits": "4", "metric": "F1"}
    claims = [
        {**row, "value": "70.5", "status": "typed"},
        {**row, "value": "", "method": "QDrop", "status": ""},
    ]
    monkeypatch.setattr(paper, "rows", lambda name: claims)
    paper._cells.cache_clear()
    try:
        assert paper.paper_f1("laneatt", "selective-focus", 4, 4, "culane") == (0.705, "typed")
        assert paper.paper_f1("laneatt", "selective-focus", 4, 4, "synthetic") == (None, "")
        assert paper.paper_f1("laneatt", "qdrop", 4, 4, "culane") == (None, "")
    finally:
        paper._cells.cache_clear()


def test_every_shipped_claim_has_a_source_and_a_status() -> None:
    for row in paper.rows("claims"):
        assert row["source"]
        assert row["status"] in ("verified", "inferred")


def test_published_scores_stand_beside_ours_in_full_precision(records: list[Record]) -> None:
    official = {"dataset": "culane", "detector": "laneatt", "variant": "r18", "weights": "laneatt_r18.pt"}
    moved = [changed(record, f"o{i}", **official) for i, record in enumerate(records)]
    (part,) = table.sections(moved)
    header, *rows = [line for line in table.markdown([part]).splitlines() if line.startswith("|")]
    column = header.split(" | ").index("Published |")
    shown = {row.split(" | ")[1]: row.split(" | ")[column].strip("| ") for row in rows[1:]}
    assert shown["fp32"] == "75.13"
    assert shown["minmax"] == ""
    assert any(note.startswith("published: F1 of all CULane test frames") for note in part.notes)
    frame = table.csv_frame(moved)
    assert frame.loc[frame.method == "fp32", "published_f1"].tolist() == [0.7513]
    assert frame.loc[frame.method != "fp32", "published_f1"].isna().all()
    assert "Published" not in table.markdown(table.sections(records))


@pytest.mark.parametrize("field", ["weights_digest", "code", "metric"])
def test_a_loss_is_to_the_full_precision_of_the_same_version(records: list[Record], field: str) -> None:
    full = changed(records[0], "a", **{field: "another"}).model_copy(update={"finished": "1999"})
    text = table.markdown(table.sections([full, *records[1:]]))
    (row,) = [line for line in text.splitlines() if line.startswith("| toy") and "minmax | W4A4" in line]
    assert row.split(" | ")[4].strip() == ""
    whole = table.markdown(table.sections(records))
    (row,) = [line for line in whole.splitlines() if line.startswith("| toy") and "minmax | W4A4" in line]
    assert float(row.split(" | ")[4]) <= 0


def test_seconds_of_several_machines_are_marked(records: list[Record]) -> None:
    words = "seconds were measured on several machines"
    assert words not in table.markdown(table.sections(records))
    moved = records[1].model_copy(update={"environment": {"machine": "another"}})
    assert words in table.markdown(table.sections([records[0], moved, *records[2:]]))
