"""Which state of a reconstruction is kept: the last, the one of least loss, or the one that moves lanes least."""

from __future__ import annotations

import json
import time

import pytest
import torch
from toy import ToyDetector

from selective_focus import quantize
from selective_focus.job import QuantizationJob, heads_of, hold_back
from selective_focus.lane_distortion import lane_distortion_scores, mean_distortion
from selective_focus.methods import Method, find, methods, register
from selective_focus.quantization.config import ConfigurationError, ReconstructionConfig
from selective_focus.quantization.layers import activation_quantizers, quantized_layers
from selective_focus.quantization.reconstruct import look_steps

LEARNING = [name for name in methods() if find(name).reconstruction is not None]
SETTINGS = {"iterations": 12, "batch_size": 8, "looks": 4, "rounding": "straight-through", "weight_lr": 1e-2}
LDS = {**SETTINGS, "kept_state": "best-lds", "held_back": 9}


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(37, 3, 16, 32, generator=torch.Generator().manual_seed(3))


def lds(quantized, images: torch.Tensor) -> float:
    detector = ToyDetector()
    lanes = [found.detect(images) for found in (detector, quantized)]
    return mean_distortion(lane_distortion_scores(*lanes, detector.image_size)).score


def same(first, second, images: torch.Tensor) -> bool:
    with torch.no_grad():
        heads = [detector.heads(images) for detector in (first, second)]
    return all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])


def test_held_back_images_are_spread_and_the_rest_stays_in_order():
    images = torch.arange(10.0)
    trained, held = hold_back(images, 3)
    assert held.tolist() == [1, 5, 8]
    assert trained.tolist() == [0, 2, 3, 4, 6, 7, 9]
    assert hold_back(images, 0)[0] is images


@pytest.mark.parametrize("count", [1, 2, 5, 36])
def test_as_many_are_held_back_as_were_asked_for(count):
    trained, held = hold_back(torch.arange(37), count)
    assert len(held) == count
    assert len(trained) == 37 - count


@pytest.mark.parametrize("method", LEARNING)
def test_held_back_images_influence_nothing_but_the_choice(method, images):
    """With the last state kept there is no choice, so other images in their place change nothing."""
    others = images.clone()
    others[hold_back(torch.arange(37), 9)[1]] = 0.5
    options = {**SETTINGS, "kept_state": "last", "held_back": 9}
    first, second = (quantize(ToyDetector(), x, method, **options)[0] for x in (images, others))
    assert same(first, second, images)
    assert not same(first, quantize(ToyDetector(), images, method, **SETTINGS)[0], images)


@pytest.mark.parametrize("method", LEARNING)
@pytest.mark.parametrize("rule", ["best-loss", "best-lds"])
def test_every_method_keeps_its_best_look(method, rule, images):
    _, log = quantize(ToyDetector(), images, method, **{**LDS, "kept_state": rule})
    score = {"best-loss": "hard_loss", "best-lds": "lds"}[rule]
    for unit in log.units:
        steps = [look["step"] for look in unit["looks"]]
        assert steps == sorted({0, *(unit["iterations"] * k // 4 for k in range(1, 5))}) or len(steps) < 5
        best = min(unit["looks"], key=lambda look: (look[score], -look["step"]))
        assert unit["kept_step"] == best["step"]
        assert unit["hard_loss_after"] == best["hard_loss"]
    json.dumps(log.to_dict())


def test_the_kept_state_is_what_is_returned(images):
    """Network-wise, so that what was measured is the whole network."""
    quantized, log = quantize(ToyDetector(), images, "selective-focus", **LDS, scale_lr=1e-2)
    (unit,) = log.units
    held = hold_back(images, 9)[1]
    scores = [look["lds"] for look in unit["looks"]]
    assert len(set(scores)) > 1, "nothing to choose from"
    assert lds(quantized, held) == pytest.approx(min(scores), rel=1e-4)  # batch norms are folded


def test_learning_that_harms_is_undone(images):
    """Absurd learning rates: the start is one of the looks, and it is kept."""
    harmful = {**LDS, "weight_lr": 10.0, "scale_lr": 2.0}
    quantized, log = quantize(ToyDetector(), images, "selective-focus", **harmful)
    assert log.units[0]["kept_step"] == 0
    trained = hold_back(images, 9)[0]
    nearest, _ = quantize(ToyDetector(), trained, "omse", weight_power=2.4, activation_power=2.4)
    assert same(quantized, nearest, images)


def caught_job(images: torch.Tensor) -> QuantizationJob:
    caught: list[QuantizationJob] = []
    method = Method(f"kept-{id(caught)}", "", caught.append, reconstruction={})
    register(method)
    quantize(ToyDetector(), images, method.name, held_back=9)
    return caught[0]


def test_units_to_come_are_in_float_while_measuring(images):
    job = caught_job(images)
    names = [unit.name for unit in job.units("block")]
    job.quantize_weights()
    job.calibrate_activations()
    before = [layer.layer.weight.clone() for layer in quantized_layers(job.model).values()]
    assert job.held_back_lds(names) == pytest.approx(0.0, abs=1e-3), "all of it in float"
    some, everything = job.held_back_lds(names[2:]), job.held_back_lds()
    assert 0 < some != everything
    after = [layer.layer.weight for layer in quantized_layers(job.model).values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(q.enabled for q in activation_quantizers(job.model).values() if q.bits < 32)
    frame = job.detector.image_size
    lanes = [job.detector.decode(heads_of(m, [job.held_back]), frame) for m in (job.float_model, job.model)]
    assert everything == pytest.approx(mean_distortion(lane_distortion_scores(*lanes, frame)).score)


def test_the_last_step_is_always_looked_at():
    assert look_steps(ReconstructionConfig(iterations=100)) == {100}
    assert look_steps(ReconstructionConfig(iterations=100, kept_state="best-loss", looks=3)) == {33, 66, 100}
    assert look_steps(ReconstructionConfig(iterations=2, kept_state="best-loss", looks=8)) == {1, 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kept_state": "best-lds"}, "held_back=0: expected images"),
        ({"held_back": 37}, "held_back=37 of 37 calibration images"),
        ({"held_back": -1}, "at least 0 images"),
        ({"looks": 0}, "at least 1 look"),
        ({"kept_state": "best"}, "kept_state='best': expected one of"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(options, message, images):
    with pytest.raises(ConfigurationError, match=message) as caught:
        quantize(ToyDetector(), images, "qdrop", **options)
    assert "\n" not in str(caught.value)


def test_looking_is_not_counted_as_reconstruction(images, monkeypatch):
    def slow(self, to_come=()):
        time.sleep(0.05)
        return 1.0

    monkeypatch.setattr(QuantizationJob, "held_back_lds", slow)
    started = time.perf_counter()
    _, log = quantize(ToyDetector(), images, "selective-focus", **LDS)
    total = time.perf_counter() - started
    looks = len(log.units[0]["looks"])
    assert log.looking_s == log.units[0]["looking_seconds"] >= 0.05 * looks
    assert 0 < log.units[0]["seconds"] <= log.reconstruction_s <= total - log.looking_s
