"""A layer that runs several times an image has a range for each call."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from selective_focus.detector import MatMul
from selective_focus.quantization.calibrate import calibrate_activations
from selective_focus.quantization.config import QuantizationConfig
from selective_focus.quantization.layers import ActivationQuantizer, QuantizerPerCall, activation_quantizers
from selective_focus.quantization.wrap import TwinModels, twin_models

CALLS = 3


class Refining(nn.Module):
    """A stem, then a head that runs the same layers three times, each time on ten times as large an input."""

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.product = nn.Linear(4, 4), MatMul()
            self.fails_at: int | None = None

        def forward(self, x: Tensor) -> Tensor:
            total = torch.zeros_like(x)
            for call in range(CALLS):
                if call == self.fails_at:
                    raise KeyboardInterrupt
                y = self.layer(x * 10.0**call)
                total = total + self.product(y, y.transpose(1, 2)).sum() + y
            return total

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(4, 4), self.Head()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.head(self.stem(x))}


@pytest.fixture
def images() -> Tensor:
    return torch.rand(8, 5, 4, generator=torch.Generator().manual_seed(0)) - 0.5


def calibrated(images: Tensor, bits: int = 8, **options: object) -> TwinModels:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Refining().eval()
    config = QuantizationConfig(bits, bits, **options)  # type: ignore[arg-type]
    twins = twin_models(model, images[:1], config)
    calibrate_activations(twins.quantized_model, [images], config)
    return twins


def test_every_call_has_its_own_range(images: Tensor) -> None:
    quantizers = activation_quantizers(calibrated(images, activation_range="min-max").quantized_model)
    scales = [float(quantizers[f"head.layer.input.calls.{call}"].scale) for call in range(CALLS)]
    assert scales[1] / scales[0] == pytest.approx(10, rel=0.1)
    assert scales[2] / scales[1] == pytest.approx(10, rel=0.1)
    assert {name.rpartition(".calls.")[0] for name in quantizers if ".calls." in name} == {
        *("head.layer.input", "head.product.left", "head.product.right")
    }


def test_one_range_for_all_calls_is_an_option(images: Tensor) -> None:
    model = calibrated(images, activation_range_per_call=False).quantized_model
    assert isinstance(model.get_submodule("head.layer.input"), ActivationQuantizer)
    assert not any(isinstance(module, QuantizerPerCall) for module in model.modules())


def test_ranges_for_each_call_are_closer_to_full_precision(images: Tensor) -> None:
    def error(**options: object) -> float:
        twins = calibrated(images, **options)
        with torch.no_grad():
            found, expected = twins.quantized_model(images)["out"], twins.float_model(images)["out"]
        return float((found - expected).square().mean())

    assert error() < 0.7 * error(activation_range_per_call=False)


def test_calls_are_counted_from_the_first_in_every_pass(images: Tensor) -> None:
    model = calibrated(images).quantized_model
    with torch.no_grad():
        first = model(images)["out"]
        assert torch.equal(model(images)["out"], first)
        model.head.fails_at = 1
        with pytest.raises(KeyboardInterrupt):
            model(images)
        model.head.fails_at = None
        assert torch.equal(model(images)["out"], first), "a pass that broke off leaves nothing behind"
        inside = model.head(model.stem(images))
    assert torch.equal(inside, first), "the head alone, as block-wise methods call it"


def test_a_copy_counts_for_itself_and_a_state_dict_holds_all_ranges(images: Tensor) -> None:
    model = calibrated(images).quantized_model
    other = copy.deepcopy(model)
    with torch.no_grad():
        first = model(images)["out"]
        assert torch.equal(other(images)["out"], first)
    fresh = calibrated(images * 3).quantized_model
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(fresh(images)["out"], first)


def test_more_calls_than_were_seen_use_the_last_range() -> None:
    quantizer = QuantizerPerCall(8, 2)
    quantizer.begin()
    for _ in range(4):
        assert torch.equal(quantizer(torch.ones(3)), torch.ones(3))
