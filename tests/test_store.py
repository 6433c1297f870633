"""Records are written whole or not at all, and only finished ones are taken as finished."""

from __future__ import annotations

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from measured_cells import measured

from bench import store
from bench.errors import StoreError
from bench.store import Record, Result, RunFolder
from bench.whole_file import whole_file, write_whole

KEY = "a" * 64


def record(**changes: object) -> Record:
    result = Result(
        images=2, f1=0.5, precision=0.5, recall=0.5, lds=1.5, lds_displacement=1.5, lds_missing=0, lds_extra=0
    )
    fields = {"key": KEY, "status": "done", "cell": measured("minmax").cell, "result": result}
    return Record(**{**fields, "timing": {"reconstruction_s": 0.5}, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    run.prepare()
    return run


def test_a_record_comes_back_as_it_went(folder: RunFolder) -> None:
    written = record(
        reason="why", timing={"reconstruction_s": 1.5}, examples={"a": [[[1.0, 2.0]]]}, log={"losses": [0.5]}
    )
    folder.put(written)
    assert folder.done(KEY) == written
    assert folder.records() == [written]
    assert [path.name for path in folder.records_path.iterdir()] == [f"{KEY}.json"]


@pytest.mark.parametrize("status", ["skipped", "failed", "out_of_memory", "timeout", "interrupted"])
def test_only_done_is_reused(folder: RunFolder, status: str) -> None:
    folder.put(record(status=status, result=None))
    assert folder.done(KEY) is None
    assert folder.records()[0].status == status


def test_not_a_number_in_a_log_becomes_null(folder: RunFolder) -> None:
    path = folder.put(record(log={"loss": float("nan"), "losses": [float("inf"), 1.0]}))
    assert "NaN" not in path.read_text()
    kept = folder.done(KEY)
    assert kept is not None
    assert kept.log == {"loss": None, "losses": [None, 1.0]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\x00\xff",
        b"[]",
        b'{"key": "b"}',
        json.dumps({**record().model_dump(), "key": "b" * 64}).encode(),
        json.dumps({**record().model_dump(), "cell": {"method": "minmax"}}).encode(),
        json.dumps({**record().model_dump(), "result": None}).encode(),
        json.dumps({**record().model_dump(), "timing": {}}).encode(),
        b'{"log": ' + b"[" * 100_000,
    ],
    ids=[
        *(
            "empty",
            "cut",
            "binary",
            "list",
            "fields missing",
            "key of another cell",
            "half a cell",
            "no scores",
        ),
        *("no seconds", "nested without end"),
    ],
)
def test_damaged_records_are_set_aside(folder: RunFolder, content: bytes) -> None:
    path = folder.records_path / f"{KEY}.json"
    path.write_bytes(content)
    assert folder.done(KEY) is None
    assert not path.exists()
    assert folder.set_aside == [folder.records_path / f"{KEY}.json.corrupt"]
    assert folder.set_aside[0].read_bytes() == content
    assert folder.records() == []


def test_a_full_disk_leaves_the_old_record(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.put(record())

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="disk is full") as caught:
        folder.put(record(reason="newer"))
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    kept = folder.done(KEY)
    assert kept is not None
    assert kept.reason == ""
    assert len(list(folder.records_path.iterdir())) == 1


def test_too_little_room_is_said_before_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 5 * 2**20})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(StoreError, match="only 5 MB left"):
        RunFolder(tmp_path / "run").prepare()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        RunFolder(tmp_path / "file" / "run").prepare()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind the superuser")
def test_a_read_only_folder(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.records_path.mkdir(parents=True)
    run.records_path.chmod(0o500)
    with pytest.raises(StoreError, match="cannot be written"):
        run.prepare()


def test_a_failed_write_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object, target: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StoreError, match="Permission denied"):
        write_whole(tmp_path / "a.json", b"{}")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_whole(path, b"before")

    def interrupted() -> None:
        with whole_file(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_finished_record_is_never_replaced_by_another_outcome(folder: RunFolder) -> None:
    folder.put(record(status="failed", result=None))
    folder.put(record(reason="measured"))
    for status in ("interrupted", "failed", "timeout"):
        folder.put(record(status=status, result=None))
    kept = folder.done(KEY)
    assert kept is not None
    assert kept.reason == "measured"
    folder.put(record(reason="measured again"))
    assert folder.records()[0].reason == "measured again"


def test_many_writers_of_one_record(folder: RunFolder) -> None:
    """Threads with folders of their own, as processes would have: whoever reads meanwhile finds a whole record."""

    def write(number: int) -> None:
        own = RunFolder(folder.path)
        for turn in range(10):
            own.put(record(reason=f"{number} {turn}" * 100))
            assert own.done(KEY) is not None
            assert own.set_aside == []

    with ThreadPoolExecutor(8) as writers:
        list(writers.map(write, range(8)))
    assert [path.name for path in folder.records_path.iterdir()] == [f"{KEY}.json"]


def test_a_damaged_record_that_was_replaced_meanwhile_is_not_set_aside(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder.put(record())
    whole, parse = path.read_bytes(), store._parsed
    path.write_bytes(b"{")

    def parse_and_replace(where: Path) -> Record | None:
        found = parse(where)
        path.write_bytes(whole)
        return found

    monkeypatch.setattr(store, "_parsed", parse_and_replace)
    assert folder.done(KEY) is not None
    assert folder.set_aside == []
