"""Data sets: what is read, and that whatever comes malformed from outside is refused in one line that helps."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.metrics.score import score_folders
from datasets import tusimple
from datasets.culane import CULane, make_layout, read_image, read_lanes, read_list, write_lanes
from datasets.culane_layout import main
from datasets.errors import DatasetError, DatasetWarning
from datasets.tusimple import TuSimple, read_records, to_lanes, x_at_rows

LANE = "100.5 590 110 580 120.25 570\n"


def _refused(action: Callable[[], object], *parts: str) -> None:
    """The action raises a DatasetError of one line that holds all the parts."""
    with pytest.raises(DatasetError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def _write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pattern = np.random.default_rng(0).integers(0, 255, (59, 164, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), pattern)
    return path


# Lane files


def test_a_lane_file_is_read_lane_by_lane(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.lines.txt", "1 2 3.5 -4\r\n5e1 6 7 8 \n")
    assert [lane.tolist() for lane in read_lanes(path)] == [[[1, 2], [3.5, -4]], [[50, 6], [7, 8]]]
    assert read_lanes(_write(tmp_path / "none.lines.txt", "")) == []


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("1 2 3 4\n1 2 x 4\n", (":2:", "'x' is not a number")),
        ("1 2 nan 4\n", (":1:", "'nan' is not a finite number")),
        ("1 2 inf 4\n", (":1:", "'inf' is not a finite number")),
        ("1 2 1e999 4\n", (":1:", "'1e999' is not a finite number")),
        ("1 2 3\n", (":1:", "3 numbers", "'3', has no partner")),
        ("1,2 3,4\n", (":1:", "'1,2' uses another separator")),
        ("1_0 2 3 4\n", (":1:", "'1_0' is not a number")),
        ("1 2 40000 4\n", (":1:", "'40000' lies beyond")),
        (b"\xef\xbb\xbf1 2 3 4\n", (":1:", "byte order mark")),
        (b"1 2 3 4\n1 2\0 3 4\n", (":2:", "NUL")),
        (b"1 2 3 4\n1 2 \xc2\xa03 4\n", (":2:", "0xc2 is not ASCII")),
        ("x" * 1000, (":1:", "'xxx")),
    ],
)
def test_a_malformed_lane_file_is_refused(
    tmp_path: Path, content: str | bytes, parts: tuple[str, ...]
) -> None:
    path = _write(tmp_path / "bad.lines.txt", content)
    _refused(lambda: read_lanes(path), str(path), *parts)


def test_a_missing_lane_file_is_refused(tmp_path: Path) -> None:
    _refused(lambda: read_lanes(tmp_path / "none.lines.txt"), "none.lines.txt", "No such file")
    _refused(lambda: read_lanes(tmp_path), "Is a directory")


@pytest.mark.parametrize(
    ("content", "flaw"),
    [
        ("1 2 3 4\n\n", "line 2 has 0 points"),
        ("1 2\n", "line 1 has 1 point;"),
        ("1 2 1 2 5 6\n", "line 1 repeats a point"),
        ("1 2 1.000000001 2 5 6\n", "line 1 repeats a point"),  # the evaluator has single precision
    ],
)
def test_lanes_that_can_match_nothing_are_kept_with_a_warning(
    tmp_path: Path, content: str, flaw: str
) -> None:
    path = _write(tmp_path / "odd.lines.txt", content)
    with pytest.warns(DatasetWarning, match=re.escape(flaw)) as caught:
        lanes = read_lanes(path)
    assert len(lanes) == content.count("\n")
    assert str(path) in str(caught[0].message)


@pytest.mark.parametrize(
    ("content", "lanes"),
    [
        ("1 2 3 4\n\n5 6", [[[1, 2], [3, 4]], [], [[5, 6]]]),
        ("1 2 3\n", [[[1, 2]]]),
        ("1 2 3 x 5 6\n", [[[1, 2]]]),
        ("1 2 nan 4\n", [[[1, 2]]]),
        ("1,2 3,4\n", [[]]),
        ("1 2 .5 -6.e1cm 7 8\n", [[[1, 2], [0.5, -60]]]),
        ("1 2 3 4e\n", [[[1, 2]]]),
        ("\ufeff1 2\n", [[]]),
        ("1 2 99999 1\r\n", [[[1, 2], [99999, 1]]]),
    ],
)
def test_reference_mode_reads_up_to_the_first_flaw(tmp_path: Path, content: str, lanes: list[Any]) -> None:
    path = _write(tmp_path / "odd.lines.txt", content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [lane.tolist() for lane in read_lanes(path, mode="reference")] == lanes
        assert read_lanes(tmp_path / "missing.lines.txt", mode="reference") == []


coordinate = st.one_of(st.floats(-32768, 32768), st.integers(-100, 2000).map(float))


@settings(max_examples=50, deadline=None)
@given(lanes=st.lists(st.lists(st.tuples(coordinate, coordinate), max_size=5), max_size=4))
def test_written_lanes_read_back_equal(
    tmp_path_factory: pytest.TempPathFactory, lanes: list[list[tuple[float, float]]]
) -> None:
    path = tmp_path_factory.mktemp("lanes") / "new" / "a.lines.txt"
    write_lanes(path, [np.array(lane, dtype=np.float64) for lane in lanes])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DatasetWarning)
        for mode in ("strict", "reference"):
            assert [lane.tolist() for lane in read_lanes(path, mode)] == [
                [list(p) for p in lane] for lane in lanes
            ]
    assert [entry.name for entry in path.parent.iterdir()] == ["a.lines.txt"]


def test_what_cannot_be_read_back_is_not_written(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.lines.txt", LANE)
    _refused(lambda: write_lanes(path, [[[1.0, np.nan]]]), "lane 1", "not a number")
    _refused(lambda: write_lanes(path, [[[1.0, 2.0]], [[1e9, 2.0]]]), "lane 2")
    _refused(lambda: write_lanes(path, [[1.0, 2.0, 3.0]]), "shape [3]")
    assert path.read_text() == LANE


# Images


def test_an_image_is_read_in_bgr(tmp_path: Path) -> None:
    blue = np.zeros((8, 12, 3), dtype=np.uint8)
    blue[..., 0] = 255
    cv2.imwrite(str(tmp_path / "blue.png"), blue)
    assert np.array_equal(read_image(tmp_path / "blue.png"), blue)
    assert read_image(_image(tmp_path / "noise.jpg")).shape == (59, 164, 3)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("kept", [0.99, 0.5, 0.02])
def test_half_an_image_is_refused(tmp_path: Path, suffix: str, kept: float) -> None:
    data = _image(tmp_path / f"whole.{suffix}").read_bytes()
    path = _write(tmp_path / f"half.{suffix}", data[: int(len(data) * kept)])
    _refused(lambda: read_image(path), str(path), "ends too early")


def test_other_files_are_no_images(tmp_path: Path) -> None:
    _refused(lambda: read_image(tmp_path / "none.jpg"), "none.jpg", "No such file")
    _refused(lambda: read_image(_write(tmp_path / "empty.jpg", b"")), "empty.jpg", "empty")
    _refused(lambda: read_image(_write(tmp_path / "text.jpg", b"no picture")), "text.jpg", "not an image")
    _refused(lambda: read_image(_write(tmp_path / "fake.jpg", b"\xff\xd8\xff\xda \xff\xd9")), "not an image")


# CULane's lists and folders


def test_a_list_keeps_order_and_forgives_form(tmp_path: Path) -> None:
    path = _write(tmp_path / "l.txt", "/b/2.jpg \r\n\n./a/1.jpg /a/1.png 1 0 1 1\nc.d/3.jpg")
    assert read_list(path) == ["b/2.jpg", "a/1.jpg", "c.d/3.jpg"]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ("is empty",)),
        ("\n \r\n", ("is empty",)),
        ("a/1.jpg\nb/1.jpg\n/a/1.jpg\n", (":3:", "already in line 1")),
        ("a/../../1.jpg\n", (":1:", "'a/../../1.jpg'", "no path inside")),
        ("a\\1.jpg\n", (":1:", "no path inside")),
        ("C:/1.jpg\n", (":1:", "no path inside")),
        ("a/1\0.jpg\n", (":1:", "no path inside")),
        ("\ufeffa/1.jpg\n", (":1:", "no path inside")),
        ("a/b\n", (":1:", "no image file")),
        (b"a/\xff.jpg\n", ("not UTF-8", "byte 2")),
    ],
)
def test_a_malformed_list_is_refused(tmp_path: Path, content: str | bytes, parts: tuple[str, ...]) -> None:
    path = _write(tmp_path / "l.txt", content)
    _refused(lambda: read_list(path), str(path), *parts)


def test_an_absolute_entry_stays_inside_the_data_set(tmp_path: Path) -> None:
    _write(tmp_path / "list" / "test.txt", "/etc/passwd.jpg\n")
    (frame,) = CULane(tmp_path).split("test")
    assert frame.path == tmp_path / "etc" / "passwd.jpg"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Three test frames in two categories, five training frames."""
    for name in ("d/1", "d/2", "e/3", "t/1", "t/2", "t/3", "t/4", "t/5"):
        _image(tmp_path / f"{name}.jpg")
        _write(tmp_path / f"{name}.lines.txt", LANE)
    _write(tmp_path / "list" / "test.txt", "/d/1.jpg\n/d/2.jpg\n/e/3.jpg\n")
    _write(tmp_path / "list" / "test_split" / "test10_rain.txt", "/e/3.jpg\n")
    _write(tmp_path / "list" / "test_split" / "test8_night.txt", "/d/2.jpg\n/d/1.jpg\n")
    _write(
        tmp_path / "list" / "train_gt.txt", "".join(f"/t/{k}.jpg /t/{k}.png 1 1 1 1\n" for k in range(1, 6))
    )
    return tmp_path


def test_frames_and_categories(small: Path) -> None:
    data = CULane(small)
    frames = data.split("test")
    assert [frame.name for frame in frames] == ["d/1.jpg", "d/2.jpg", "e/3.jpg"]
    assert [frame.category for frame in frames] == ["night", "night", "rain"]
    assert frames[0].annotation == small / "d" / "1.lines.txt"
    assert read_image(frames[0].path).shape == (59, 164, 3)
    assert list(data.categories().items()) == [("night", ("d/2.jpg", "d/1.jpg")), ("rain", ("e/3.jpg",))]
    assert len(data.split("train")) == 5
    assert data.split("train")[0].category is None
    data.check("test")
    (small / "e" / "3.lines.txt").unlink()
    _refused(lambda: data.check("test"), "3.lines.txt", "no such file")


def test_without_category_lists_all_is_one(small: Path) -> None:
    for path in (small / "list" / "test_split").iterdir():
        path.unlink()
    assert CULane(small).categories() == {"all": ("d/1.jpg", "d/2.jpg", "e/3.jpg")}
    assert {frame.category for frame in CULane(small).split("test")} == {"all"}


def test_category_lists_that_do_not_fit_the_test_list_warn(small: Path) -> None:
    _write(small / "list" / "test_split" / "test10_rain.txt", "/d/1.jpg\n/x/9.jpg\n")
    with pytest.warns(DatasetWarning) as caught:
        frames = CULane(small).split("test")
    message = str(caught[0].message)
    assert "1 frames in more than one category" in message
    assert "1 frames of the test list in no category" in message
    assert "1 frames in a category but not in the test list" in message
    assert [frame.category for frame in frames] == ["night", "night", None]


def test_calibration_frames_are_drawn_alike_and_never_from_the_test_list(small: Path) -> None:
    data = CULane(small)
    three = data.calibration_frames(3, seed=1)
    assert data.calibration_frames(3, seed=1) == three
    assert data.calibration_frames(2, seed=1) == three[:2]
    assert {tuple(f.name for f in data.calibration_frames(3, seed=s)) for s in range(9)} != {tuple(three)}
    assert {frame.name for frame in data.split("calibration")} == {f"t/{k}.jpg" for k in range(1, 6)}
    _refused(lambda: data.calibration_frames(6), "6 calibration frames asked for", "there are 5")
    _refused(lambda: data.calibration_frames(0), "0 calibration frames")

    _write(small / "list" / "calibration.txt", "/t/2.jpg\n/d/1.jpg\n")
    assert [frame.name for frame in data.split("calibration")] == ["t/2.jpg", "d/1.jpg"]
    with pytest.warns(DatasetWarning, match="1 of its 2 frames are test frames"):
        assert [frame.name for frame in data.calibration_frames(1)] == ["t/2.jpg"]


def test_a_folder_without_training_frames_says_what_to_do(small: Path) -> None:
    (small / "list" / "train_gt.txt").unlink()
    _refused(lambda: CULane(small).split("calibration"), "calibration.txt", "none of the test list")
    _refused(lambda: CULane(small).split("train"), "train.txt", "no such list")
    _refused(lambda: CULane(small).split("tset"), "'tset'", "train, val, test, calibration")
    _refused(lambda: CULane(small / "d"), "'list' is missing", "make-layout")


# make-layout


def _flat(folder: Path) -> Path:
    for name in ("1", "2", "more/3"):
        _image(folder / f"{name}.jpg")
    _write(folder / "1.lines.txt", LANE)
    _write(folder / "2.lines.txt", "")
    return folder


@pytest.mark.parametrize("copy", [False, True])
def test_a_flat_folder_becomes_a_data_set(tmp_path: Path, copy: bool) -> None:
    layout = make_layout(_flat(tmp_path / "flat"), tmp_path / "out", "night", copy)
    assert (layout.test, layout.calibration) == (2, 1)
    data = CULane(tmp_path / "out")
    assert [(frame.name, frame.category) for frame in data.split("test")] == [
        ("night/1.jpg", "night"),
        ("night/2.jpg", "night"),
    ]
    assert [frame.name for frame in data.split("calibration")] == ["night/more/3.jpg"]
    assert (tmp_path / "out" / "list" / "test_split" / "test8_night.txt").is_file()
    assert [len(read_lanes(frame.annotation)) for frame in data.split("test")] == [1, 0]
    assert data.split("test")[0].path.is_symlink() is not copy
    data.check("test")

    make_layout(tmp_path / "flat", tmp_path / "out", "rain")
    assert {name: len(frames) for name, frames in CULane(tmp_path / "out").categories().items()} == {
        "night": 2,
        "rain": 2,
    }


def test_a_flawed_folder_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flat, out = _flat(tmp_path / "flat"), tmp_path / "out"
    _refused(lambda: make_layout(tmp_path / "none", out), "no such folder")
    _refused(lambda: make_layout(flat, out, "../night"), "category '../night'")
    _write(flat / "2.lines.txt", "1 2 3\n")
    _refused(lambda: make_layout(flat, out), "2.lines.txt:1")
    for path in flat.glob("*.txt"):
        path.unlink()
    _refused(lambda: make_layout(flat, out), "1.lines.txt", "no image has a lane file")
    _write(flat / "1.lines.txt", LANE)
    _image(flat / "with blank.jpg")
    assert main(["make-layout", "--images", str(flat), "--out", str(out)]) == 2
    assert "with blank.jpg" in capsys.readouterr().err
    assert not out.exists()


def test_make_layout_from_the_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "datasets.culane", "make-layout", "--category", "night"]
    command += ["--images", str(_flat(tmp_path / "flat")), "--out", str(tmp_path / "out")]
    root = Path(__file__).resolve().parents[1]
    first = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (first.returncode, first.stderr) == (0, "")
    assert "2 test frames (night), 1 for calibration" in first.stdout
    again = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout) == (2, "")
    assert "exists already" in again.stderr


# Scoring folders


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    lane = np.array([[900.0, 590.0], [880.0, 400.0], [860.0, 300.0]])
    for k in range(3):
        write_lanes(tmp_path / "truth" / f"{k}.lines.txt", [lane, lane - np.array([500.0, 0.0])])
        write_lanes(
            tmp_path / "found" / f"{k}.lines.txt", [lane + np.array([2.0, 0.0])][: k + 1] if k < 2 else []
        )
    listed = _write(tmp_path / "test.txt", "/0.jpg\n/1.jpg\n/2.jpg\n")
    return tmp_path / "truth", tmp_path / "found", listed


@pytest.mark.parametrize("workers", [1, 2, None])
def test_folders_are_scored(
    folders: tuple[Path, Path, Path], workers: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.metrics.score.CHUNK", 2)
    expected = {"tp": 2, "fp": 0, "fn": 4, "precision": 1.0, "recall": 1 / 3, "f1": 0.5, "images": 3}
    assert score_folders(*folders, workers=workers) == expected


def test_a_wrong_path_never_gives_a_score(folders: tuple[Path, Path, Path]) -> None:
    truth, found, listed = folders
    _refused(lambda: score_folders(truth, found / "x", listed), "found/x", "no such folder of predictions")
    _refused(lambda: score_folders(truth.parent / "y", found, listed), "no such folder of annotations")
    _refused(lambda: score_folders(truth, found, listed.parent / "z.txt"), "z.txt", "cannot read this list")
    _refused(lambda: score_folders(truth.parent, found, listed), "0.lines.txt", "2 more of the 3")
    (found / "1.lines.txt").unlink()
    _refused(lambda: score_folders(truth, found, listed), "1.lines.txt", "no such prediction file")
    with pytest.raises(ValueError, match="between 0 and 1"):
        score_folders(truth, truth, listed, iou=50)


def test_predictions_of_another_resolution_warn(folders: tuple[Path, Path, Path]) -> None:
    truth, found, listed = folders
    for path in found.iterdir():
        write_lanes(path, [lane / 2 for lane in read_lanes(path)])
    with pytest.warns(DatasetWarning, match="another resolution"):
        score_folders(truth, found, listed)


# TuSimple

ROW = {"raw_file": "clips/a/20.jpg", "lanes": [[-2, 5, 6], [7.5, 8, 9]], "h_samples": [300, 310, 320]}


def _labels(path: Path, *changes: dict[str, Any]) -> Path:
    rows = [{**ROW, "raw_file": f"clips/{k}/20.jpg", **change} for k, change in enumerate(changes)]
    rows = [{key: value for key, value in row.items() if value != "left out"} for row in rows]
    return _write(path, "".join(json.dumps(row) + "\n" for row in rows))


def test_tusimple_frames(tmp_path: Path) -> None:
    _labels(tmp_path / "test_label.json", {}, {"raw_file": "./clips/b/20.jpg"})
    _labels(tmp_path / "label_data_0313.json", {"raw_file": "/clips/c/20.jpg"}, {})
    data = TuSimple(tmp_path)
    test = data.split("test")
    assert [frame.raw_file for frame in test] == ["clips/0/20.jpg", "clips/b/20.jpg"]
    assert test[0].path == tmp_path / "clips" / "0" / "20.jpg"
    assert test[0].lanes == ((-2, 5, 6), (7.5, 8, 9))
    assert [frame.raw_file for frame in data.split("calibration")] == data_names(data.calibration_frames(2))
    assert len(data.split("all")) == 4
    chosen = TuSimple(tmp_path, "label_data_0313.json")
    assert [frame.raw_file for frame in chosen.split("test")] == ["clips/c/20.jpg", "clips/1/20.jpg"]
    _refused(lambda: chosen.split("train"), "label_data_*.json", "no such label file")
    _refused(lambda: data.calibration_frames(9), "9 calibration frames", "have 2")
    _refused(lambda: TuSimple(tmp_path / "clips"), "no TuSimple data set")


def data_names(frames: list[tusimple.Frame]) -> list[str]:
    return [frame.name for frame in frames]


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"raw_file": "left out"}, ("'raw_file' is missing",)),
        ({"lanes": "left out"}, ("'lanes' is missing",)),
        ({"h_samples": "left out"}, ("'h_samples' is missing",)),
        ({"h_samples": []}, ("h_samples", "at least one")),
        ({"h_samples": [300, 310, 300]}, ("different heights",)),
        ({"lanes": 5}, ("lanes must be a list of lists, not 5",)),
        ({"lanes": [5]}, ("lane 0 must be a list", "not 5")),
        ({"lanes": [[1, 2]]}, ("lane 0 has 2 values for 3 h_samples",)),
        ({"lanes": [[1, 2, None]]}, ("lane 0 holds None",)),
        ({"lanes": [[1, 2, "3"]]}, ("lane 0 holds '3'",)),
        ({"lanes": [[1, 2, True]]}, ("lane 0 holds True",)),
        ({"lanes": [[1, 2, float("nan")]]}, ("NaN is not a finite number",)),
        ({"lanes": [[1, 2, float("inf")]]}, ("Infinity is not a finite number",)),
        ({"run_time": "fast"}, ("run_time holds 'fast'",)),
        ({"raw_file": "../a.jpg"}, ("'../a.jpg' is no path inside",)),
        ({"raw_file": 7}, ("raw_file 7",)),
        ({"raw_file": "./clips/0/20.jpg"}, ("given twice",)),
    ],
)
def test_malformed_tusimple_labels_are_refused(
    tmp_path: Path, change: dict[str, Any], parts: tuple[str, ...]
) -> None:
    path = _labels(tmp_path / "test_label.json", {}, change)
    _refused(lambda: TuSimple(tmp_path).split("test"), f"{path}:2:", *parts)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("{bad\n", (":1:", "not JSON", "column 2")),
        ("[1, 2]\n", (":1:", "is not an object")),
        ("[" * 100_000, (":1:", "not JSON")),
        ('{"raw_file": "a.jpg", "lanes": [[1e999]], "h_samples": [1]}', (":1:", "holds inf")),
        ("\n", ("is empty",)),
        (b"\xff\n", ("not UTF-8",)),
    ],
)
def test_files_that_are_no_labels_are_refused(
    tmp_path: Path, content: str | bytes, parts: tuple[str, ...]
) -> None:
    path = _write(tmp_path / "x.json", content)
    _refused(lambda: read_records(path), str(path), *parts)
    _refused(lambda: read_records(tmp_path / "none.json"), "none.json", "No such file")


def test_a_submission_needs_no_rows(tmp_path: Path) -> None:
    path = _labels(tmp_path / "x.json", {"h_samples": "left out", "run_time": 12}, {"h_samples": "left out"})
    first, second = read_records(path, labels=False)
    assert (first.h_samples, first.run_time, second.run_time) == (None, 12.0, None)


def test_a_frame_in_two_label_files_is_refused(tmp_path: Path) -> None:
    _labels(tmp_path / "label_data_1.json", {})
    _labels(tmp_path / "label_data_2.json", {})
    _refused(lambda: TuSimple(tmp_path).split("train"), "label_data_2.json", "also in", "label_data_1.json")


def test_rows_to_points_and_back() -> None:
    frame = tusimple.Frame(
        Path("a"), "a", ((-2, 5, 6, -2), (-2, -2, -2, -2), (1, 2, 3, 4)), (300, 310, 320, 330)
    )
    lanes = to_lanes(frame)
    assert [lane.tolist() for lane in lanes] == [
        [[5, 310], [6, 320]],
        [[1, 300], [2, 310], [3, 320], [4, 330]],
    ]
    assert [x_at_rows(lane, frame.h_samples) for lane in lanes] == [
        list(frame.lanes[0]),
        list(frame.lanes[2]),
    ]


def test_x_between_points_and_outside_of_the_image() -> None:
    lane = np.array([[-10.0, 400.0], [10.0, 300.0], [1300.0, 200.0]])  # bottom up, as CULane writes it
    assert x_at_rows(lane, [150, 200, 250, 300, 325, 360, 400, 410]) == [-2, -2, 655, 10, 5, -2, -2, -2]
    assert x_at_rows(lane, [200], image_width=None) == [1300]
    assert x_at_rows(np.zeros((0, 2)), [200, 300]) == [-2, -2]
    assert x_at_rows([[7.0, 200.0]], [200, 300]) == [7, -2]
    _refused(lambda: x_at_rows([[np.nan, 3.0]], [200]), "finite")


# Real folders


def test_real_culane_folders_are_read(shared: Path, tmp_path: Path) -> None:
    night = make_layout(shared / "real" / "culane_night", tmp_path / "data", "night")
    assert (night.test, night.calibration) == (7, 41)
    frames = CULane(tmp_path / "data").split("test")
    assert {read_image(frame.path).shape for frame in frames} == {(590, 1640, 3)}
    assert sum(len(read_lanes(frame.annotation)) for frame in frames) >= 21
    listed = tmp_path / "data" / "list" / "test.txt"
    score = score_folders(tmp_path / "data", tmp_path / "data", listed)
    assert (score["f1"], score["fp"], score["images"]) == (1.0, 0, 7)


def test_real_tusimple_folder_is_read(shared: Path) -> None:
    from bench.metrics.tusimple import score_image

    data = TuSimple(shared / "real" / "tusimple", "label_data_0601.json")
    assert (len(data.split("test")), len(data.split("train"))) == (4, 120)
    for frame in data.split("test"):
        assert read_image(frame.path).shape == (720, 1280, 3)
        back = [x_at_rows(lane, frame.h_samples) for lane in to_lanes(frame)]
        assert score_image(back, frame.lanes, frame.h_samples).fn == 0
