"""The written data set: CULane's layout, and repair of what is missing or damaged."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

from datasets.synthetic import CATEGORIES, ensure, frames_on_disk, layout, sample_scene, write
from datasets.synthetic.__main__ import main

COUNTS = {"test": 9, "val": 3, "calibration": 2}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("roads"), counts=COUNTS, workers=1)


def files(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def test_layout(written: Path) -> None:
    for split, count in COUNTS.items():
        names = (written / "list" / f"{split}.txt").read_text().split()
        assert len(names) == len(set(names)) == count
        for index, name in enumerate(names):
            assert name.startswith("/driver_")
            image = cv2.imread(str(written / name[1:]))
            assert image.shape == (590, 1640, 3)
            lines = (written / name[1:].replace(".jpg", ".lines.txt")).read_text().splitlines()
            lanes = sample_scene(split, index).lanes
            assert len(lines) == len(lanes)
            for line, lane in zip(lines, lanes, strict=True):
                read = np.array(line.split(), float).reshape(-1, 2)
                assert np.abs(read - lane).max() < 1e-3
    assert not list(written.rglob("*.part"))


def test_test_split_is_a_partition(written: Path) -> None:
    lists = [written / "list" / "test_split" / f"test{n}_{name}.txt" for n, name in enumerate(CATEGORIES)]
    parts = [line for path in lists for line in path.read_text().split()]
    assert sorted(parts) == sorted((written / "list" / "test.txt").read_text().split())


def test_train_and_val_lists_name_the_class_map(written: Path) -> None:
    rows = [line.split() for line in (written / "list" / "val_gt.txt").read_text().splitlines()]
    assert len(rows) == COUNTS["val"]
    for index, (image, label, *flags) in enumerate(rows):
        scene = sample_scene("val", index)
        assert label == "/laneseg_label_w16" + image.replace(".jpg", ".png")
        classes = cv2.imread(str(written / label[1:]), cv2.IMREAD_UNCHANGED)
        assert classes.shape == (590, 1640)
        assert set(np.unique(classes)) - {0} == set(scene.slots)
        assert [int(flag) for flag in flags] == [int(slot in scene.slots) for slot in (1, 2, 3, 4)]


def test_readable_by_the_culane_data_set(written: Path) -> None:
    culane = pytest.importorskip("datasets.culane")
    frames = culane.CULane(written).split("test")
    assert [frame.category for frame in frames] == list(CATEGORIES)


def test_repairs_what_is_missing_or_damaged(written: Path) -> None:
    before = files(written)
    images = sorted(written.rglob("*.jpg"))
    images[0].unlink()
    images[1].write_bytes(images[1].read_bytes()[:-7])
    images[2].with_suffix(".lines.txt").write_text("0 0")
    flipped = bytearray(images[3].read_bytes())
    flipped[500] ^= 255
    images[3].write_bytes(flipped)
    calls: list[tuple[int, int]] = []
    ensure(written, counts=COUNTS, workers=1, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (3, 3)
    assert files(written) != before  # same size, other bytes: only the checksum tells
    ensure(written, counts=COUNTS, workers=1, full_check=True)
    assert files(written) == before
    calls.clear()
    ensure(written, counts=COUNTS, workers=1, progress=lambda done, total: calls.append((done, total)))
    assert calls == []


@pytest.mark.parametrize(
    "damage", ["not json", "[]", '{"renderer": -1, "seed": 0, "files": {}}', '{"files": 3}']
)
def test_useless_manifest_means_render_again(written: Path, damage: str) -> None:
    manifest = written / "manifest" / "calibration.json"
    whole = manifest.read_text()
    manifest.write_text(damage)
    ensure(written, counts=COUNTS, workers=1)
    assert json.loads(manifest.read_text()) == json.loads(whole)


def test_renderer_version_invalidates(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(layout, "VERSION", layout.VERSION + 1)
    ensure(written, ("calibration",), COUNTS, 1, lambda done, total: calls.append(total))
    assert calls == [COUNTS["calibration"]]


def test_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_CHUNK", 1)

    def stop(done: int, _total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure(tmp_path, ("calibration",), {"calibration": 3}, 1, stop)
    totals: list[int] = []
    ensure(tmp_path, ("calibration",), {"calibration": 3}, 1, lambda _done, total: totals.append(total))
    assert totals == [1]


def test_processes_write_the_same(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_CHUNK", 1)
    ensure(tmp_path, ("val",), COUNTS, workers=2)
    other = files(tmp_path)
    assert {name: content for name, content in files(written).items() if name in other} == other


def test_counts_the_frames_on_disk(written: Path, tmp_path: Path) -> None:
    ensure(written, counts=COUNTS, workers=1)  # other tests damage it
    total = sum(COUNTS.values())
    assert frames_on_disk(written, counts=COUNTS) == (total, total)
    assert frames_on_disk(written, ("val",), COUNTS) == (COUNTS["val"], COUNTS["val"])
    assert frames_on_disk(written, counts=COUNTS, seed=1) == (0, total)
    assert frames_on_disk(tmp_path / "nowhere", counts=COUNTS) == (0, total)
    assert not (tmp_path / "nowhere").exists()
    half = tmp_path / "half"
    ensure(half, ("test",), {"test": 4}, workers=1, only={"test": (0, 1, 3)})
    next(half.rglob("00003.jpg")).unlink()
    assert frames_on_disk(half, ("test",), {"test": 4}) == (2, 4)


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "datasets.synthetic",
        "ensure",
        "--root",
        str(tmp_path),
        "--workers",
        "2",
    ]
    parent = subprocess.Popen(command, cwd=Path(__file__).resolve().parents[1], stdout=subprocess.DEVNULL)
    family: list[psutil.Process] = []
    try:
        patience = time.monotonic() + 120
        while not list(tmp_path.rglob("*.jpg")):  # then at least one worker is busy
            assert parent.poll() is None
            assert time.monotonic() < patience
            time.sleep(0.05)
        family = psutil.Process(parent.pid).children(recursive=True)
        assert len(family) >= 2
        parent.kill()
        parent.wait()
        assert psutil.wait_procs(family, timeout=20)[1] == []
        assert not list(tmp_path.rglob("*.part"))
    finally:
        for process in [process for process in family if process.is_running()]:
            process.kill()
        parent.kill()
        parent.wait()


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="'tset'"):
        write(tmp_path, ("tset",))
    with pytest.raises(ValueError, match="-1"):
        write(tmp_path, counts={"test": -1})
    (tmp_path / "file").write_text("")
    assert main(["write", "--root", str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err
    assert (
        main(["sheet", "--out", str(tmp_path / "no" / "sheet.png"), "--per-category", "1", "--width", "64"])
        == 2
    )
