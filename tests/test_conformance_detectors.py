"""What every method must hold on every detector that ships; on one that is not ours: ``test_conformance.py``.

Small inputs, two images and one iteration a unit: whether it learns *well* is no question here.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import lane_models
from bench.metrics.culane import Counts, count_matches
from datasets.synthetic import render, sample_scene
from selective_focus import Heads, LaneDetector, QuantizationLog, load_quantized, quantize, save_quantized
from selective_focus.methods import find, methods
from selective_focus.quantization.affine import fake_quantize
from selective_focus.quantization.layers import activation_quantizers, quantized_layers

DETECTORS = lane_models.names()
QUANTIZING = [name for name in methods() if name != "fp32"]
SMALLER = {"bezierlanenet": (64, 128), "clrnet": (64, 128), "lstr": (96, 160)}
"""Inputs smaller than the variant's own, for networks that take any size."""
QUICK = {"iterations": 1, "batch_size": 2, "rounding": "straight-through", "scale_steps": "relative"}
ROAD = {"size": (128, 384), "rows": (206, 590)}


class Case(NamedTuple):
    detector: LaneDetector
    quantized: LaneDetector
    images: torch.Tensor
    log: QuantizationLog


def build(name: str, seed: int = 0) -> LaneDetector:
    """LaneATT with its embedded weights, the others with random ones."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = lane_models.build(name) if name == "laneatt" and not seed else lane_models.untrained(name)
    made.input_size = SMALLER.get(name, made.input_size)
    return made


def inputs(name: str) -> torch.Tensor:
    if name == "laneatt":
        return torch.stack([frame(sample_scene("train", index)) for index in range(2)])
    return torch.rand(2, 3, *build(name).input_size, generator=torch.Generator().manual_seed(1))


def frame(scene) -> torch.Tensor:
    """LaneATT's input of a scene."""
    return build_laneatt().crop.normalise(render(scene, **ROAD))


@functools.cache
def build_laneatt() -> LaneDetector:
    return build("laneatt")


def run(name: str, method: str, bits: str) -> Case:
    detector, images = build(name), inputs(name)
    options = QUICK if find(method).reconstruction is not None else {}
    quantized, log = quantize(detector, images, method, bits, **options)
    return Case(detector, quantized, images, log)


case = functools.cache(functools.partial(run, bits="w8a8"))


def heads(detector: LaneDetector, images: torch.Tensor) -> Heads:
    with torch.no_grad():
        return detector.heads(images)


def equal(first: Heads, second: Heads) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


on_every_detector = pytest.mark.parametrize("name", DETECTORS)
with_every_method = pytest.mark.parametrize("method", QUANTIZING)


@on_every_detector
@with_every_method
def test_weights_lie_on_their_grids_and_rounding_again_changes_nothing(name, method):
    layers = quantized_layers(case(name, method).quantized.model)
    assert len(layers) > 10
    for layer in layers.values():
        rows = layer.rows(layer.layer.weight)
        assert torch.equal(fake_quantize(rows, layer.weight_grid), rows)
        assert rows[0].unique().numel() <= 2**layer.weight_bits


@on_every_detector
@with_every_method
def test_8_bits_stay_close_to_full_precision(name, method):
    detector, quantized, images, _ = case(name, method)
    found = heads(quantized, images)
    for head, full in heads(detector, images).items():
        error = float((found[head] - full).norm() / full.norm())
        assert 0 < error < 0.1 or full.norm() < 1e-6, head


@on_every_detector
@with_every_method
def test_32_bits_are_the_identity(name, method):
    detector, quantized, images, _ = run(name, method, "w32a32")
    found = heads(quantized, images)
    for head, full in heads(detector, images).items():
        tolerance = 1e-4 * float(full.abs().max())  # batch norms are folded
        torch.testing.assert_close(
            found[head], full, rtol=1e-4, atol=tolerance, msg=lambda m, h=head: f"{h}: {m}"
        )


@on_every_detector
@with_every_method
def test_nothing_is_left_behind(name, method):
    detector, quantized, _, _ = case(name, method)
    assert not any(p.requires_grad or p.grad is not None for p in quantized.model.parameters())
    assert not any(q.observer or q.masks for q in activation_quantizers(quantized.model).values())
    fresh = build(name).model.state_dict()
    assert all(torch.equal(fresh[key], value) for key, value in detector.model.state_dict().items())
    assert type(quantized).decode is type(detector).decode
    assert vars(quantized).keys() == vars(detector).keys()


@on_every_detector
@with_every_method
def test_a_file_round_trip_gives_the_same_bits(name, method, tmp_path: Path):
    _, quantized, images, log = case(name, method)
    path = tmp_path / "quantized.safetensors"
    save_quantized(quantized, log, path)
    assert equal(heads(load_quantized(build(name, seed=9), path), images), heads(quantized, images))


@on_every_detector
def test_again_gives_the_same_bits(name):
    _, quantized, images, _ = case(name, "selective-focus")
    again = run(name, "selective-focus", "w8a8").quantized
    assert equal(heads(quantized, images), heads(again, images))


@functools.cache
def road() -> tuple[list, torch.Tensor]:
    """Validation frames, four of each category."""
    scenes = [sample_scene("val", index) for index in range(36)]
    return scenes, torch.stack([frame(scene) for scene in scenes])


@functools.cache
def full_precision_f1() -> float:
    return f1(build_laneatt())


def f1(detector: LaneDetector) -> float:
    """CULane's, in percent."""
    scenes, images = road()
    pairs = zip(detector.detect(images), scenes, strict=True)
    return 100 * sum((count_matches(lanes, scene.lanes) for lanes, scene in pairs), Counts()).f1


@with_every_method
def test_8_bits_lose_less_than_a_point_of_f1(method):
    """Of 106 lanes: two of them are about a point."""
    assert full_precision_f1() > 75
    assert f1(case("laneatt", method).quantized) > full_precision_f1() - 1
