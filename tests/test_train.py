"""Training: the same seed gives the same weights, interrupted or not; labels stay on their pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import lane_models
from bench.train import TrainingConfig, batch_of, train, write_curve, write_weights
from bench.training_frames import (
    Example,
    TrainingError,
    TrainingFrames,
    augmented,
    mirrored,
    render_frames,
)
from lane_models.road_crop import RoadCrop
from selective_focus import LaneDetector

SIZE = RoadCrop().size


def drawn(index: int) -> Example:
    """Two bright straight lanes, three pixels wide, on a dark ground."""
    rng = np.random.default_rng(index)
    image = np.full((*SIZE, 3), 40, np.uint8)
    rows = np.arange(20, SIZE[0])
    lanes = []
    for centre in (110.0, 260.0):
        xs = centre + rng.uniform(-20, 20) + (rows - 20) * rng.uniform(-0.4, 0.4)
        for side in (-1, 0, 1):
            image[rows, np.round(xs).astype(int) + side] = 220
        lanes.append(np.stack([xs, rows], axis=1)[::-4].astype(np.float64))
    return Example(image, lanes, [2, 3])


FRAMES = [drawn(index) for index in range(24)]
CONFIG = TrainingConfig("laneatt", steps=4, batch=4, warmup=2, frames=len(FRAMES))


def detector(seed: int = 0) -> LaneDetector:
    torch.manual_seed(seed)
    return lane_models.untrained("laneatt", "synthetic")


def trained(
    out: Path, config: TrainingConfig = CONFIG, stops: tuple[int | None, ...] = (None,)
) -> dict[str, torch.Tensor]:
    """The weights after a run that was stopped after each of ``stops`` steps, each time in a fresh
    process's state.
    """
    for stop in stops:
        torch.manual_seed(99)
        own = detector()
        train(config, own, FRAMES, out, save_every=2, report=lambda _: None, stop_after=stop)
    return own.model.state_dict()


def test_a_resumed_run_ends_in_the_same_weights(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole")
    resumed = trained(tmp_path / "resumed", stops=(1, 2, None))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    other = trained(tmp_path / "other", replace(CONFIG, seed=1))
    assert not torch.equal(whole["cls_layer.weight"], other["cls_layer.weight"])


def test_the_curve_of_a_resumed_run_has_every_step_once(tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    for step, loss in ((50, 3.0), (100, 2.0), (150, 1.0), (100, 2.5)):  # killed after 150, saved at 50
        write_curve(path, step, {"loss": loss, "other": 0.5})
    assert path.read_text() == "step,loss,other\n50,3.0000,0.5000\n100,2.5000,0.5000\n"


def test_other_settings_do_not_go_on_from_a_saved_run(tmp_path: Path) -> None:
    trained(tmp_path, stops=(1,))
    with pytest.raises(TrainingError, match="other settings"):
        train(replace(CONFIG, steps=5), detector(), FRAMES, tmp_path, report=lambda _: None)


@pytest.mark.parametrize("content", ["cut", "empty", "other"])
def test_a_damaged_saved_state_is_named_in_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "training.pt"
    if content == "other":
        torch.save({"model": {}}, path)
    else:
        trained(tmp_path, stops=(1,))
        path.write_bytes(path.read_bytes()[:5000] if content == "cut" else b"")
    with pytest.raises(TrainingError) as caught:
        train(CONFIG, detector(), FRAMES, tmp_path, report=lambda _: None)
    assert f"{path}: truncated or damaged" in str(caught.value)
    assert "remove it" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_detector_without_loss_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="lanenet has no training loss"):
        train(replace(CONFIG, detector="lanenet"), detector(), FRAMES, tmp_path, report=lambda _: None)


def test_every_epoch_sees_every_frame_once() -> None:
    config = replace(CONFIG, batch=6)
    tagged = [
        Example(np.full((*SIZE, 3), i, np.uint8), [np.array([[i, 0.0], [i, 9.0]])], [0]) for i in range(24)
    ]
    from bench.train import _indices

    seen = [index for step in range(8) for index in _indices(config, len(tagged), step)]
    assert sorted(seen[:24]) == sorted(seen[24:]) == list(range(24))
    assert seen[:24] != seen[24:]
    first, again = batch_of(config, FRAMES, 3), batch_of(config, FRAMES, 3)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, again, strict=True))


def brightness_on(example: Example) -> float:
    """How much brighter the picture is on its labels than elsewhere."""
    mask = np.zeros(SIZE, dtype=bool)
    for lane in example.lanes:
        x, y = np.round(lane).astype(int).T
        inside = (x >= 0) & (x < SIZE[1]) & (y >= 0) & (y < SIZE[0])
        mask[y[inside], x[inside]] = True
    grey = example.image.mean(axis=2)
    return float(grey[mask].mean() - grey[~mask].mean())


def test_labels_stay_on_their_lanes_under_augmentation() -> None:
    for seed in range(40):
        changed = augmented(drawn(seed), np.random.default_rng(seed))
        assert changed.image.shape == (*SIZE, 3)
        assert changed.image.dtype == np.uint8
        assert brightness_on(changed) > 25, seed


def test_mirroring_twice_changes_nothing_and_swaps_slots_once() -> None:
    example = drawn(3)
    once = mirrored(example)
    assert once.slots == [3, 2]
    twice = mirrored(once)
    assert np.array_equal(twice.image, example.image)
    for a, b in zip(twice.lanes, example.lanes, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


def test_rendered_frames_survive_the_disk_and_are_not_rendered_twice(tmp_path: Path) -> None:
    said: list[str] = []
    frames = render_frames(tmp_path, drawn, 260, processes=1, report=said.append)
    assert len(frames) == 260
    for index in (0, 7, 250, 259):
        expected = drawn(index)
        assert np.array_equal(frames[index].image, expected.image)
        assert frames[index].slots == expected.slots
        np.testing.assert_allclose(frames[index].lanes[1], expected.lanes[1], atol=1e-4)
    count = len(said)
    again = render_frames(tmp_path, drawn, 260, processes=1, report=said.append)
    assert (len(said), len(again.lanes)) == (count, 260)
    (tmp_path / "00001.images.npy").unlink()
    render_frames(tmp_path, drawn, 260, processes=1, report=said.append)
    assert len(said) == count + 1
    for name in ("00001.images.npy", "00001.lanes.npz"):
        whole = (tmp_path / name).read_bytes()
        for half in (whole[: len(whole) // 2], b""):
            (tmp_path / name).write_bytes(half)
            with pytest.raises(TrainingError, match=rf"{name}: truncated or damaged \(.*remove it"):
                TrainingFrames(tmp_path, 260)
        (tmp_path / name).unlink()
        again = render_frames(tmp_path, drawn, 260, processes=1, report=said.append)
    assert len(said) == count + 3
    assert isinstance(again, TrainingFrames)


def test_written_weights_load_again_nearly_equal(tmp_path: Path) -> None:
    source = detector()
    path = tmp_path / "weights.safetensors"
    write_weights(source.model, path, {"training": "{}"})
    loaded = lane_models.build("laneatt", "synthetic", path).model.state_dict()
    for key, value in source.model.state_dict().items():
        assert loaded[key].dtype == value.dtype
        torch.testing.assert_close(loaded[key], value, rtol=1e-3, atol=1e-6)


def test_crop_there_and_back() -> None:
    crop = RoadCrop()
    points = np.array([[0.0, 206.0], [1640.0, 590.0], [820.0, 398.0]])
    np.testing.assert_allclose(crop.to_network(points), [[0, 0], [384, 128], [192, 64]])
    for size in ((590, 1640), (720, 1280)):
        np.testing.assert_allclose(crop.to_frame(crop.to_network(points, size), size), points)
