"""Equalised inputs: the scale worked by hand, the same layer in floating point, a smaller error with few bits."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from toy import ToyDetector

from lane_models.deform_conv import DeformConv2d
from selective_focus import quantize
from selective_focus.quantization.calibrate import calibrate_activations
from selective_focus.quantization.config import ConfigurationError, QuantizationConfig
from selective_focus.quantization.equalise import LIMIT, equalise_inputs, equalising_scale
from selective_focus.quantization.layers import QuantizedLayer, quantized_layers
from selective_focus.quantization.wrap import twin_models


@pytest.mark.parametrize(
    ("exponent", "expected"), [(0.0, [1.0, 1.0]), (0.5, [2**0.5, 2**-0.5]), (1.0, [2.0, 0.5])]
)
def test_the_scale_of_two_channels(exponent: float, expected: list[float]) -> None:
    """Peaks 8 and 2: ratio 4, of which the exponent takes 1, 2 or 4, shared evenly about 1."""
    torch.testing.assert_close(equalising_scale(torch.tensor([8.0, 2.0]), exponent), torch.tensor(expected))


def test_a_silent_channel_is_left_alone_and_none_goes_beyond_the_limit() -> None:
    scale = equalising_scale(torch.tensor([1e4, 0.0, 1.0, 1e-1]), 1.0)
    assert scale[1] == 1
    assert scale.tolist()[::3] == [LIMIT, 1 / LIMIT]
    assert equalising_scale(torch.zeros(3), 0.5).tolist() == [1.0, 1.0, 1.0]


@given(st.lists(st.floats(0.5, 2.0), min_size=1, max_size=30), st.floats(0, 1))
def test_peaks_come_together_and_their_geometric_mean_stays(peaks: list[float], exponent: float) -> None:
    before = torch.tensor(peaks, dtype=torch.float64)
    scale = equalising_scale(before, exponent)
    after = (before / scale).log()
    assert abs(float(scale.log().mean())) < 1e-6
    torch.testing.assert_close(after - after.mean(), (1 - exponent) * (before.log() - before.log().mean()))


LAYERS = {
    "convolution": (nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 9, 9)),
    "without a batch": (nn.Conv2d(4, 6, 3), (4, 4, 9)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2), (2, 4, 9, 9)),
    "one dimension": (nn.Conv1d(4, 6, 3), (2, 4, 9)),
}
SCALE = torch.tensor([0.25, 1.0, 2.0, 8.0])


@pytest.mark.parametrize("name", LAYERS)
def test_in_floating_point_a_layer_stays_the_same(name: str) -> None:
    layer, shape = copy.deepcopy(LAYERS[name])
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    wrapped = QuantizedLayer(layer, 4, 4, equalisable=True)
    expected = wrapped(x)
    before = layer.weight.detach().clone()
    for times in (1, 2):
        wrapped.divide_input(SCALE)
        assert wrapped.input_scale is not None
        assert torch.equal(wrapped.input_scale, SCALE**times)
        torch.testing.assert_close(wrapped(x), expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(wrapped.layer.weight, before)


def test_a_deformable_convolution_stays_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = DeformConv2d(4, 6)
    nn.init.normal_(layer.weight, generator=generator)
    x, offset = (torch.randn(2, c, 9, 9, generator=generator) for c in (4, 18))
    mask = torch.rand(2, 9, 9, 9, generator=generator)
    wrapped = QuantizedLayer(layer, 4, 4, equalisable=True)
    expected = wrapped(x, offset, mask)
    wrapped.divide_input(SCALE)
    torch.testing.assert_close(wrapped(x, offset, mask), expected, rtol=1e-4, atol=1e-5)


class Twice(nn.Module):
    """A convolution called twice: its first channel is largest in the first call, its second in the other."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = QuantizedLayer(nn.Conv1d(3, 2, 1), 4, 3, equalisable=True)

    def forward(self, x: Tensor) -> Tensor:
        first, second = torch.tensor([[[1.0]] * 3, [[0.1], [4.0], [0.1]]])
        return self.layer(x * first) + self.layer(x * second)


def test_the_peak_is_over_all_images_and_calls_and_of_either_sign() -> None:
    """Peaks: 4 (a negative value of the second chunk, first call), 4 (second call), 1: with exponent 1 the ratios."""
    model = Twice()
    chunks = [torch.tensor([[[1.0], [1.0], [1.0]]]), torch.tensor([[[-4.0], [0.5], [-0.5]]])]
    assert equalise_inputs(model, chunks, 1.0) == 1
    scale = model.layer.input_scale
    assert scale is not None
    torch.testing.assert_close(scale / scale[2], torch.tensor([4.0, 4.0, 1.0]))


class Uneven(nn.Module):
    """Layers of every kind; the last channels of the first one are a hundredth of the others and matter as much."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv1d(8, 8, 1, bias=False)
        self.grouped = nn.Conv1d(8, 8, 1, groups=2)
        self.linear = nn.Linear(8, 8)
        self.tied, self.tied_too, self.last = nn.Conv1d(8, 8, 1), nn.Conv1d(8, 8, 1), nn.Conv1d(8, 8, 1)
        self.tied_too.weight = self.tied.weight
        self.stem = nn.Conv1d(8, 8, 1, bias=False)
        self.size = torch.tensor([1.0] * 4 + [0.01] * 4)
        self.layer.weight.data = (torch.eye(8) / self.size)[..., None]
        self.stem.weight.data = torch.eye(8)[..., None]

    def forward(self, x: Tensor) -> Tensor:
        scaled = self.stem(x) * self.size[:, None]
        others = self.tied_too(self.tied(self.grouped(scaled)))
        self.last(self.linear(others.mT).mT)
        return self.layer(scaled)


def test_few_bits_serve_small_channels_better_and_some_layers_are_left_alone() -> None:
    x = torch.rand(64, 8, 1, generator=torch.Generator().manual_seed(0))
    errors = {}
    for exponent in (0.0, 0.5, 1.0):
        config = QuantizationConfig(8, 3, activation_equalisation=exponent)
        twins = twin_models(Uneven(), x[:1], config, ["last"])
        model = twins.quantized_model
        divided = [name for name, m in quantized_layers(model).items() if m.input_scale is not None]
        assert divided == (["layer"] if exponent else []), (
            "not the first, the last, grouped, linear or tied ones"
        )
        expected = model(x)
        assert equalise_inputs(model, [x[:40], x[40:]], exponent) == len(divided)
        torch.testing.assert_close(model(x), expected)
        calibrate_activations(model, [x], config)
        errors[exponent] = float((model(x) - expected).detach()[:, 4:].square().mean())
    assert errors[1.0] < 0.3 * errors[0.5]
    assert errors[0.5] < 0.7 * errors[0.0]


def test_a_state_dict_brings_the_float_weight_along() -> None:
    wrapped, fresh = (QuantizedLayer(nn.Conv2d(4, 6, 3), 4, 4, equalisable=True) for _ in range(2))
    fresh.float_weight = wrapped.float_weight.clone()
    wrapped.divide_input(SCALE)
    fresh.load_state_dict(wrapped.state_dict())
    torch.testing.assert_close(fresh.float_weight, wrapped.float_weight)


@pytest.mark.parametrize(
    "method", ["minmax", "omse", "adaround", "qdrop", "selective-focus", "selective-focus-plus"]
)
def test_it_is_an_option_of_every_method(method: str) -> None:
    images = torch.rand(12, 3, 16, 32, generator=torch.Generator().manual_seed(3))
    options = {} if method in ("minmax", "omse") else {"iterations": 3, "batch_size": 4}
    plain, log = quantize(ToyDetector(), images, method, activation_equalisation=0.0, **options)
    assert log.equalised_inputs == 0
    if method != "selective-focus-plus":
        options["activation_equalisation"] = 0.5  # plus has it by itself
    equalised, log = quantize(ToyDetector(), images, method, **options)
    assert all(layer.input_scale is None for layer in quantized_layers(plain.model).values())
    divided = [n for n, layer in quantized_layers(equalised.model).items() if layer.input_scale is not None]
    few = [
        n
        for n, layer in quantized_layers(equalised.model).items()
        if layer.input.bits < 8 and layer.layer.weight.ndim == 4
    ]
    assert divided == few
    assert len(divided) == log.equalised_inputs > 0
    assert log.config["quantization"]["activation_equalisation"] == 0.5


def test_an_impossible_exponent_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"activation_equalisation=1\.5: expected a value in 0\.\.1"):
        QuantizationConfig(4, 4, activation_equalisation=1.5)
