"""The doctor: a folder beside the published data sets, checkpoints by what they are, and room for a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import lane_models
from bench import checkpoint_check, dataset_check, doctor
from bench.checkpoint_check import check_weights
from bench.dataset_check import check_culane, check_tusimple
from bench.errors import BenchError
from bench.finding import Finding
from bench.paper import releases as paper_releases
from bench.paper.releases import published_f1, releases
from bench.profile import load_profile

NAMES = [f"driver/{number}.jpg" for number in range(5)]


@pytest.fixture
def culane(tmp_path: Path) -> Path:
    """Three test frames in two categories, two lanes each, and two to calibrate with."""
    root = tmp_path / "culane"
    (root / "driver").mkdir(parents=True)
    for name in NAMES:
        cv2.imwrite(str(root / name), np.zeros((59, 164, 3), dtype=np.uint8))
        (root / name).with_suffix(".lines.txt").write_text("80 59 82 40 84 25\n120 59 110 40 100 25\n")
    lists = {"test.txt": NAMES[:3], "val.txt": NAMES[3:]}
    lists |= {"test_split/test0_normal.txt": NAMES[:2], "test_split/test8_night.txt": NAMES[2:3]}
    for name, content in lists.items():
        (root / "list" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "list" / name).write_text("\n".join(content) + "\n")
    return root


def texts(findings: list[Finding], level: str) -> list[str]:
    assert all("\n" not in finding.text for finding in findings)
    return [finding.text for finding in findings if finding.level == level]


def as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny folder takes the place of the full set."""
    monkeypatch.setattr(dataset_check, "LISTED", {"train": 0, "val": 2, "test": 3})
    monkeypatch.setattr(dataset_check, "CATEGORIES", {"normal": 2, "night": 1})
    monkeypatch.setattr(dataset_check, "TEST_LANES", 6)
    monkeypatch.setattr(dataset_check, "IMAGE_SIZE", (59, 164))


def test_published_sizes_add_up() -> None:
    assert sum(dataset_check.CATEGORIES.values()) == dataset_check.LISTED["test"] == 34_680


def test_a_part_of_culane_is_usable_and_said_to_be_a_part(culane: Path) -> None:
    findings = list(check_culane(culane))
    assert not texts(findings, "BAD")
    notes = " | ".join(texts(findings, "note"))
    for words in ("3 test images listed, CULane has 34,680", "scores are not CULane's", "164x59", "train"):
        assert words in notes
    assert f"{culane}: 6 lanes annotated on the test images" in texts(findings, "ok")


def test_the_full_set_is_recognised(culane: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_published(monkeypatch)
    findings = list(check_culane(culane))
    assert [text for text in texts(findings, "note") if "train" not in text] == []
    assert sum("as published" in text or "published sizes" in text for text in texts(findings, "ok")) == 4


def test_another_version_of_the_annotations(culane: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_published(monkeypatch)
    (culane / "driver/1.lines.txt").write_text("80 59 82 40 84 25\n")
    (bad,) = texts(list(check_culane(culane)), "BAD")
    assert "5 lanes" in bad
    assert "have 6: another version" in bad
    assert "--only annotations_new" in bad
    assert not texts(list(check_culane(culane, short=True)), "BAD")


def test_lists_of_other_sizes_in_a_full_set(culane: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_published(monkeypatch)
    monkeypatch.setattr(dataset_check, "CATEGORIES", {"normal": 1, "night": 2})
    (bad,) = texts(list(check_culane(culane)), "BAD")
    assert "normal 2, night 1; published are normal 1, night 2" in bad


def test_missing_and_damaged_files_are_bad_and_named(culane: Path) -> None:
    (culane / "driver/1.jpg").unlink()
    (culane / "driver/2.lines.txt").unlink()
    (culane / "driver/0.lines.txt").write_text("80 oops\n")
    (culane / "driver/3.jpg").unlink()
    bad = texts(list(check_culane(culane)), "BAD")
    images, lanes, calibration, annotation = bad
    assert images.startswith(f"{culane}/driver/1.jpg: listed, but not here, nor 0 more test images")
    assert "download.py --culane" in images
    assert lanes.startswith(f"{culane}/driver/2.lines.txt: no such annotation")
    assert calibration.startswith(
        f"{culane}/driver/3.jpg: listed, but not here, nor 0 more calibration images"
    )
    assert annotation.startswith(f"{culane}/driver/0.lines.txt:1: 'oops' is not a number")


def test_what_is_no_culane_folder(tmp_path: Path) -> None:
    (bad,) = texts(list(check_culane(tmp_path)), "BAD")
    assert "'list' is missing" in bad
    (bad,) = texts(list(check_tusimple(tmp_path / "none")), "BAD")
    assert "none" in bad


def test_before_a_run_only_what_is_worth_reading(culane: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = load_profile("quick", limit=3)
    lines = list(doctor.before_culane(profile, culane))
    assert any("not the full set" in line for line in lines)
    (culane / "driver/1.jpg").unlink()
    with pytest.raises(BenchError, match=r"driver/1\.jpg"):
        list(doctor.before_culane(profile, culane))


def test_room_is_measured_against_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    quick, full = load_profile("quick", workers=1), load_profile("full")
    assert doctor.memory_needed_gb(quick, 34_680) < 4, "frames are streamed beyond input_cache_mb"
    assert doctor.memory_needed_gb(full, 34_680) > doctor.memory_needed_gb(quick, 34_680)
    assert doctor.disk_needed_gb(full, 34_680) > doctor.disk_needed_gb(full, 900)
    monkeypatch.setattr(doctor, "PROCESS_GB", 1e6)
    (bad,) = texts(list(doctor.room(quick, 100)), "BAD")
    assert "lower input_cache_mb" in bad


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the state of one variant under its released name, and a file of nobody."""
    monkeypatch.setattr(lane_models, "names", lambda: ("lstr",))  # each one more takes seconds
    folder = tmp_path / "weights"
    (folder / "lstr").mkdir(parents=True)
    torch.manual_seed(0)
    state = lane_models.untrained("lstr", "culane").model.state_dict()
    torch.save(state, folder / "lstr/LSTR_CULANE_500000.pkl")
    torch.save({"weight": torch.zeros(3)}, folder / "other.pth")
    return folder


def test_checkpoints_are_recognised_by_keys_and_checksum(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = list(check_weights(weights))
    (bad,) = texts(findings, "BAD")
    assert "fits lstr" in bad
    assert "SHA-256 differs" in bad
    assert any("other.pth: fits no detector" in text for text in texts(findings, "note"))
    missing = texts(findings, "note")[-1]
    assert "no released weights of clrnet r18" in missing
    assert "make weights" in missing
    path = weights / "lstr/LSTR_CULANE_500000.pkl"
    known = tuple(
        replace(release, sha256=checkpoint_check.sha256(path)) if release.sha256 else release
        for release in releases()
    )
    monkeypatch.setattr(checkpoint_check, "releases", lambda: known)
    assert any("the released file (SHA-256)" in text for text in texts(list(check_weights(weights)), "ok"))


def test_a_damaged_checkpoint_and_a_missing_folder(tmp_path: Path) -> None:
    (tmp_path / "clrnet.pth").write_bytes(b"PK\x03\x04 half a file")
    assert any("clrnet.pth" in text for text in texts(list(check_weights(tmp_path)), "BAD"))
    (bad,) = texts(list(check_weights(tmp_path / "none")), "BAD")
    assert "make weights" in bad


def test_published_scores_belong_to_released_full_precision_weights() -> None:
    cell = {"dataset": "culane", "method": "fp32", "weights": "a.pt", "detector": "laneatt", "variant": "r18"}
    assert published_f1(cell)[0] == 0.7513
    assert "LaneATT" in published_f1(cell)[1]
    for change in (
        {"weights": "embedded"},
        {"method": "minmax"},
        {"dataset": "tusimple"},
        {"variant": "synthetic"},
    ):
        assert published_f1({**cell, **change}) == (None, "")
    assert paper_releases.releases() is releases()
