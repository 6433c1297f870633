"""``ls`` and ``gc``: what there is of runs, and what may go; nothing goes that a table needs."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import stand_ins

from bench import cli, leftovers, table
from bench.runner import run
from bench.store import RunFolder


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """One finished run of seven cells."""
    run(stand_ins.profile(), RunFolder(tmp_path / "toy"), stand_ins.parts(), stand_ins.Listener())
    return tmp_path


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(list(arguments))
    return int(caught.value.code or 0)


def stale(results: Path) -> dict[str, str]:
    found = leftovers.leftovers(RunFolder(results / "toy"))
    return {item.path.name: item.why for item in found}


def change(path: Path, **cell: Any) -> None:
    record = json.loads(path.read_bytes())
    record["cell"] |= cell
    path.write_text(json.dumps(record))


def test_ls_counts_cells_by_status(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = sorted((results / "toy/records").glob("*.json"))
    records[0].write_bytes(b"{")
    record = json.loads(records[1].read_bytes())
    records[1].write_text(json.dumps({**record, "status": "failed", "result": None}))
    assert call("ls", "--results", str(results), "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["name"], found["cells"], found["damaged"]) == ("toy", {"done": 5, "failed": 1}, 1)
    assert found["size"] == sum(path.stat().st_size for path in results.rglob("*") if path.is_file())
    assert call("ls", "--results", str(results)) == 0
    assert "5 done, 1 failed, 1 damaged" in capsys.readouterr().out


def test_ls_without_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("ls", "--results", str(tmp_path / "none")) == 0
    assert "start one with" in capsys.readouterr().out


def test_a_fresh_run_has_no_leftovers(results: Path) -> None:
    assert stale(results) == {}


def test_what_is_stale(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(results / "toy")
    monkeypatch.setattr(leftovers.lane_models, "names", lambda: ["toy"])
    monkeypatch.setattr(leftovers, "_embedded", lambda detector, variant: digest)
    paths = sorted(folder.records_path.glob("*.json"))
    digest = json.loads(paths[0].read_bytes())["cell"]["weights_digest"]
    changes = {"code": "other", "metric": "other", "weights_digest": "other"}
    for path, (name, value) in zip(paths, changes.items(), strict=False):
        change(path, **{name: value})
    paths[3].write_bytes(b"")
    assert stale(results) == {
        paths[0].name: "measured with other code than this checkout's",
        paths[1].name: "scored with another metric than this checkout's",
        paths[2].name: "of other weights than the embedded ones",
        f"{paths[3].name}.corrupt": "a damaged record",
    }


def test_records_that_a_newer_one_replaced(results: Path) -> None:
    old = {path.name for path in (results / "toy/records").glob("*.json")}
    noisier = {name: {"noise": 0.6} for name in ("fp32", "minmax", "selective-focus")}
    run(
        stand_ins.profile(methods=noisier),
        RunFolder(results / "toy"),
        stand_ins.parts(),
        stand_ins.Listener(),
    )
    assert stale(results).keys() == old


def test_caches_that_no_record_needs(results: Path) -> None:
    folder = results / "toy"
    (folder / "fp32" / "0.npz").write_bytes(b"")
    (folder / "examples" / "of-other-data").mkdir()
    assert stale(results) == dict.fromkeys(("0.npz", "of-other-data"), "a cache that no kept record needs")


def test_temporary_files_rest_for_an_hour_first(results: Path) -> None:
    left = results / "toy/records/.a.json.0.tmp"
    left.write_bytes(b"half")
    assert stale(results) == {}
    os.utime(left, (time.time() - 4000,) * 2)
    assert stale(results) == {left.name: "a temporary file of a run that ended"}


def test_gc_deletes_with_yes_alone_and_follows_no_link(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, outside = RunFolder(results / "toy"), tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.txt").write_text("mine")
    (folder.path / "examples/link").symlink_to(outside)
    (folder.records_path / "x.json").write_bytes(b"{")
    before = table.csv_frame(folder.records())
    assert call("gc", "--results", str(results)) == 0
    assert "2 files and folders" in capsys.readouterr().out
    assert (folder.records_path / "x.json.corrupt").is_file()
    assert call("gc", "--results", str(results), "--yes") == 0
    assert not (folder.records_path / "x.json.corrupt").exists()
    assert not (folder.path / "examples/link").is_symlink()
    assert (outside / "mine.txt").is_file()
    assert table.csv_frame(folder.records()).equals(before)
    capsys.readouterr()
    assert call("gc", "--results", str(results), "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_gc_of_a_run_that_is_not_there(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("gc", "--results", str(results), "--name", "none") == 2
    assert "bench ls shows the runs" in capsys.readouterr().err
