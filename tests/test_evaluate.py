"""Evaluation: stages overlap, little is kept, memory decides the batch, and none of it changes a result."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stand_ins
import torch
from torch import Tensor

from bench import batch_size
from bench.evaluate import WAITING, Measurement, NetworkInputs, Seconds, detect_all
from bench.found_lanes import FoundLanes
from selective_focus import Lane, lane_distortion_score

FRAMES = [stand_ins.DrawnFrame(seed) for seed in range(8)]


def detect(detector: Any, size: int = 3, device: str = "cpu") -> tuple[list[list[Lane]], Seconds, list[int]]:
    lanes: list[list[Lane]] = []
    told: list[int] = []
    inputs = NetworkInputs(FRAMES, detector, 0)
    seconds = detect_all(detector, inputs, stand_ins.IMAGE_SIZE, size, device, lanes.extend, told.append)
    return lanes, seconds, told


def same(found: list[list[Lane]], expected: list[list[Lane]]) -> bool:
    pairs = [pair for images in zip(found, expected, strict=True) for pair in zip(*images, strict=True)]
    return all(np.array_equal(a.points, b.points) and a.score == b.score for a, b in pairs)


def one_by_one(detector: Any, size: int) -> list[list[Lane]]:
    """The same without any overlap."""
    lanes: list[list[Lane]] = []
    for start in range(0, len(FRAMES), size):
        x = torch.stack([detector.transform(frame.image()) for frame in FRAMES[start : start + size]])
        with torch.inference_mode():
            lanes += detector.decode(detector.heads(x), stand_ins.IMAGE_SIZE)
    return lanes


def test_overlapping_stages_find_the_same_lanes_in_the_same_order() -> None:
    lanes, seconds, told = detect(stand_ins.toy_detector())
    assert same(lanes, one_by_one(stand_ins.toy_detector(), 3))
    assert told == [3, 3, 2]
    assert seconds.batch == 3
    assert 0 < seconds.network_s <= seconds.total_s


def test_a_batch_is_decoded_while_the_network_works_on_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = stand_ins.toy_detector()
    second_batch = threading.Event()
    heads, decode, calls = detector.heads, detector.decode, []
    overlapped = []

    def watched_heads(x: Tensor) -> Any:
        calls.append(len(x))
        if len(calls) == 2:
            second_batch.set()
        return heads(x)

    def waiting_decode(*arguments: Any) -> Any:
        overlapped.append(second_batch.wait(timeout=20))
        return decode(*arguments)

    monkeypatch.setattr(detector, "heads", watched_heads)
    monkeypatch.setattr(detector, "decode", waiting_decode)
    detect(detector)
    assert overlapped == [True] * 3


def test_frames_are_read_no_further_ahead_than_two_batches() -> None:
    read = []

    class Counted:
        def __init__(self, seed: int) -> None:
            self.seed = seed

        def image(self) -> np.ndarray:
            read.append(self.seed)
            return stand_ins.DrawnFrame(self.seed).image()

    batches = NetworkInputs([Counted(i) for i in range(40)], stand_ins.toy_detector(), 0).batches(4)
    for number in range(1, 4):
        next(batches)
        assert len(read) <= 4 * (number + WAITING)
    batches.close()
    assert len(read) <= 4 * (3 + WAITING), "what was not asked for is not read"


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory"), MemoryError()],
)
def test_batches_shrink_when_memory_runs_out(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = stand_ins.toy_detector()
    heads, sizes = detector.heads, []

    def small(x: Tensor) -> Any:
        if len(x) > 2:
            raise error
        sizes.append(len(x))
        return heads(x)

    monkeypatch.setattr(detector, "heads", small)
    lanes, seconds, _ = detect(detector, size=5)
    assert (sizes, seconds.batch) == ([2, 2, 1, 2, 1], 2)
    assert len(lanes) == len(FRAMES)


def test_other_errors_of_the_network_and_of_decoding_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("heads", "decode"):
        detector = stand_ins.toy_detector()

        def broken(*arguments: Any) -> Any:
            raise RuntimeError("shapes differ")

        monkeypatch.setattr(detector, name, broken)
        with pytest.raises(RuntimeError, match="shapes differ"):
            detect(detector)


def test_the_batch_follows_from_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = stand_ins.toy_detector()
    inputs = NetworkInputs(FRAMES, detector, 0)
    monkeypatch.setattr(batch_size, "free_bytes", lambda device: 2**40)
    assert batch_size.fitting(detector, inputs, 16, "cpu") == 16
    monkeypatch.setattr(batch_size, "free_bytes", lambda device: 1)
    assert batch_size.fitting(detector, inputs, 16, "cpu") == 1
    needed = batch_size.QUANTIZED * batch_size._sum_of_outputs(detector, next(inputs.batches(1)))
    monkeypatch.setattr(batch_size, "free_bytes", lambda device: int(5.5 * needed / batch_size.SHARE))
    assert batch_size.fitting(detector, inputs, 16, "cpu") == 4, "16 halved until it fits"
    assert batch_size.fitting(detector, inputs, 16, "cpu", processes=2) == 2


def test_scores_come_from_pieces_as_from_the_whole() -> None:
    data = stand_ins.toy_data(stand_ins.profile())
    reference = one_by_one(stand_ins.toy_detector(), 3)
    moved = [[Lane(lane.points + np.array([2.0, 0.0]), lane.score) for lane in image] for image in reference]
    whole = Measurement(data.scorer, FoundLanes.of(reference), data.image_size)
    whole.add(moved)
    pieces = Measurement(data.scorer, FoundLanes.of(reference), data.image_size, shown=[0, 5])
    for start in range(0, len(moved), 3):
        pieces.add(moved[start : start + 3])
    assert pieces.result() == whole.result()
    assert sorted(pieces.shown) == [0, 5]
    scores = [
        lane_distortion_score(a, b, data.image_size).score for a, b in zip(reference, moved, strict=True)
    ]
    assert whole.result().lds == pytest.approx(1640 / data.image_size[1] * np.mean(scores))


def test_too_few_too_many_and_impossible_lanes_are_no_score() -> None:
    data = stand_ins.toy_data(stand_ins.profile())
    reference = one_by_one(stand_ins.toy_detector(), 3)
    measured = Measurement(data.scorer, FoundLanes.of(reference), data.image_size)
    measured.add(reference[:7])
    with pytest.raises(RuntimeError, match="7 frames were detected, 8"):
        measured.result()
    with pytest.raises(RuntimeError, match="more frames"):
        measured.add(reference[:2])
    with pytest.raises(RuntimeError, match="cannot be scored"):
        measured.add([[Lane(np.array([[1.0, np.nan], [2.0, 3.0]]), 1.0)]])


def test_packed_lanes_are_the_lanes_and_survive_a_file(tmp_path: Path) -> None:
    lanes = [*one_by_one(stand_ins.toy_detector(), 3), [], [Lane(np.zeros((0, 2)), 0.5)]]
    packed = FoundLanes.of(lanes)
    assert same([packed[i] for i in range(len(packed))], lanes)
    assert len(list(packed)) == len(lanes)
    packed.write(tmp_path / "lanes.npz", [1.0, 2.0])
    stored = FoundLanes.read(tmp_path / "lanes.npz")
    assert stored is not None
    assert same(list(stored[0]), lanes)
    assert stored[1] == [1.0, 2.0]
    assert FoundLanes.read(tmp_path / "none.npz") is None
    whole = (tmp_path / "lanes.npz").read_bytes()
    (tmp_path / "lanes.npz").write_bytes(whole[: len(whole) // 2])
    assert FoundLanes.read(tmp_path / "lanes.npz") is None
    assert len(FoundLanes.of([])) == 0
