"""What every method must hold on any detector, here one that is not ours (``toy.py``)."""

from __future__ import annotations

import pytest
import torch
from toy import ToyDetector

from selective_focus import quantize
from selective_focus.methods import find, methods
from selective_focus.quantization.affine import fake_quantize
from selective_focus.quantization.config import ConfigurationError
from selective_focus.quantization.layers import quantized_layers

IMAGES = 37  # not a multiple of the chunk or batch: the last partial batch counts
QUICK = {"iterations": 5, "batch_size": 8}
LEARNING = [name for name in methods() if find(name).reconstruction is not None]
QUANTIZING = [name for name in methods() if name != "fp32"]


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(IMAGES, 3, 16, 32, generator=torch.Generator().manual_seed(3))


def run(method: str, images: torch.Tensor, bits: str = "w4a4", seed: int = 0, **options):
    options = {**(QUICK if method in LEARNING else {}), **options}
    return quantize(ToyDetector(), images, method, bits, seed=seed, **options)


def heads(detector, images):
    with torch.no_grad():
        return detector.heads(images)


def test_full_precision_is_the_detector_itself(images):
    detector = ToyDetector()
    same, log = quantize(detector, images, "fp32", "w32a32")
    assert same is detector
    assert log.reconstruction_s == 0


@pytest.mark.parametrize("method", QUANTIZING)
def test_32_bits_change_nothing(method, images):
    quantized, _ = run(method, images, "w32a32")
    for name, head in heads(ToyDetector(), images).items():
        torch.testing.assert_close(heads(quantized, images)[name], head, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", QUANTIZING)
def test_weights_lie_on_their_grid_and_rounding_again_changes_nothing(method, images):
    quantized, _ = run(method, images)
    layers = quantized_layers(quantized.model)
    assert len(layers) == 7
    for layer in layers.values():
        rows = layer.rows(layer.layer.weight)
        torch.testing.assert_close(fake_quantize(rows, layer.weight_grid), rows, rtol=0, atol=1e-6)
        assert int(torch.unique(rows[0]).numel()) <= 2**layer.weight_bits


@pytest.mark.parametrize("method", QUANTIZING)
def test_activations_lie_on_their_grid(method, images):
    quantized, _ = run(method, images)
    seen = {}
    for name, layer in quantized_layers(quantized.model).items():
        layer.layer.register_forward_pre_hook(lambda m, args, n=name: seen.__setitem__(n, args[0]))
    heads(quantized, images)
    assert seen["stem"].unique().numel() > 256, "the image stays as it is"
    assert all(seen[name].unique().numel() <= 16 for name in seen if name.startswith("blocks"))


@pytest.mark.parametrize("method", QUANTIZING)
def test_the_detector_given_is_not_touched_and_its_decode_is_kept(method, images):
    detector, fresh = ToyDetector(), ToyDetector()
    options = QUICK if method in LEARNING else {}
    quantized, _ = quantize(detector, images, method, **options)
    assert quantized.model is not detector.model
    assert type(quantized).decode is ToyDetector.decode
    for (name, value), other in zip(
        detector.model.state_dict().items(), fresh.model.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), name


@pytest.mark.parametrize("method", QUANTIZING)
def test_no_gradient_is_left(method, images):
    quantized, _ = run(method, images)
    assert all(not p.requires_grad and p.grad is None for p in quantized.model.parameters())


@pytest.mark.parametrize("method", QUANTIZING)
def test_the_same_seed_gives_the_same_bits(method, images):
    first, second = (heads(run(method, images, seed=7)[0], images) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("method", LEARNING)
def test_another_seed_gives_others(method, images):
    first, second = (heads(run(method, images, seed=s, iterations=20)[0], images) for s in (1, 2))
    assert any(not torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("method", QUANTIZING)
def test_state_dict_round_trip(method, images):
    quantized, _ = run(method, images)
    other, _ = run("minmax", images[:4])
    other.model.load_state_dict(quantized.model.state_dict())
    assert all(torch.equal(heads(other, images)[n], h) for n, h in heads(quantized, images).items())


@pytest.mark.parametrize("method", LEARNING)
def test_learning_lowers_the_error_of_the_heads(method, images):
    """Against the same ranges with rounding to nearest, on the calibration images themselves.

    At 2-bit weights, where rounding matters most: a third of the error is left, on any machine.
    """
    reference = heads(ToyDetector(), images)

    def error(detector) -> float:
        found = heads(detector, images)
        return sum(float((found[n] - h).square().mean() / h.var()) for n, h in reference.items())

    options = {"rounding": "straight-through", "weight_lr": 1e-2, "scale_lr": 1e-2, "scale_steps": "relative"}
    learned, log = run(method, images, "w2a4", iterations=150, **options)
    nearest, _ = run("omse", images, "w2a4", weight_power=2.4, activation_power=2.4)
    assert error(learned) < 0.7 * error(nearest)
    assert log.iterations > 0


@pytest.mark.parametrize("method", LEARNING)
@pytest.mark.parametrize("rounding", ["soft", "straight-through"])
def test_both_roundings_run_and_are_logged(method, rounding, images):
    _, log = run(method, images, rounding=rounding)
    assert log.config["reconstruction"]["rounding"] == rounding
    assert all(0 <= unit["unsettled_roundings"] <= 1 for unit in log.units)
    assert sum(unit["roundings"] for unit in log.units) > 0


class MisspeltBlock(ToyDetector):
    reconstruction_blocks = ("blocks.0", "block.1")


@pytest.mark.parametrize("method", ["minmax", "selective-focus"])
def test_a_misspelt_block_is_refused_whatever_the_method(method, images):
    with pytest.raises(
        ConfigurationError, match=r"reconstruction_blocks names 'block.1', which does not run"
    ):
        quantize(MisspeltBlock(), images, method)
