"""Equalised inputs: the scale worked by hand, the same layer in floating point, a smaller error with few bits."""

from __future__ import annotations

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
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2), (2, 4, 9, 9)),
    "one dimension": (nn.Conv1d(4, 6, 3), (2, 4, 9)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_in_floating_point_a_layer_stays_the_same(name: str) -> None:
    layer, shape = LAYERS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    wrapped = QuantizedLayer(layer, 4, 4)
    expected = wrapped(x)
    weight = layer.weight.detach().clone()
    wrapped.divide_input(torch.tensor([0.25, 1.0, 2.0, 8.0]))
    torch.testing.assert_close(wrapped(x), expected)
    assert not torch.equal(wrapped.layer.weight, weight)
    layer.weight.data.copy_(weight)


def test_a_deformable_convolution_stays_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = DeformConv2d(4, 6)
    nn.init.normal_(layer.weight, generator=generator)
    x, offset = (torch.randn(2, c, 9, 9, generator=generator) for c in (4, 18))
    mask = torch.rand(2, 9, 9, 9, generator=generator)
    wrapped = QuantizedLayer(layer, 4, 4)
    expected = wrapped(x, offset, mask)
    wrapped.divide_input(torch.tensor([0.25, 1.0, 2.0, 8.0]))
    torch.testing.assert_close(wrapped(x, offset, mask), expected, rtol=1e-4, atol=1e-5)


class Uneven(nn.Module):
    """A convolution called twice, whose last channels are a hundredth of its first ones and matter as much."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = QuantizedLayer(nn.Conv1d(8, 8, 1, bias=False), 4, 3)
        self.grouped = QuantizedLayer(nn.Conv1d(8, 8, 1, groups=2), 4, 3)
        self.wide = QuantizedLayer(nn.Conv1d(8, 8, 1), 8, 8)
        self.linear = QuantizedLayer(nn.Linear(8, 8), 4, 3)
        size = torch.tensor([1.0] * 4 + [0.01] * 4)
        self.layer.float_weight = (torch.eye(8) / size)[..., None]
        self.layer.use_float_weight()
        self.register_buffer("size", size)

    def forward(self, x: Tensor) -> Tensor:
        scaled = (x * self.size)[..., None]
        self.linear(self.wide(self.grouped(scaled))[..., 0])
        return torch.cat([self.layer(scaled), self.layer(2 * scaled)])


def test_few_bits_serve_small_channels_better() -> None:
    x = torch.rand(64, 8, generator=torch.Generator().manual_seed(0))
    config = QuantizationConfig(4, 3)
    errors = {}
    for exponent in (0.0, 0.5, 1.0):
        model = Uneven()
        expected = model(x)
        assert equalise_inputs(model, [x[:40], x[40:]], exponent) == 1, (
            "neither the grouped nor the 8-bit one"
        )
        torch.testing.assert_close(model(x), expected)
        calibrate_activations(model, [x], config)
        errors[exponent] = float((model(x) - expected).detach()[:, 4:].square().mean())
    assert errors[1.0] < 0.3 * errors[0.5]
    assert errors[0.5] < 0.7 * errors[0.0]
    assert all(left.input_scale is None for left in (model.grouped, model.wide, model.linear))


@pytest.mark.parametrize("method", ["minmax", "omse", "adaround", "qdrop", "selective-focus"])
def test_it_is_an_option_of_every_method(method: str) -> None:
    images = torch.rand(12, 3, 16, 32, generator=torch.Generator().manual_seed(3))
    options = {} if method in ("minmax", "omse") else {"iterations": 3, "batch_size": 4}
    plain, _ = quantize(ToyDetector(), images, method, **options)
    equalised, log = quantize(ToyDetector(), images, method, activation_equalisation=0.5, **options)
    assert all(layer.input_scale is None for layer in quantized_layers(plain.model).values())
    divided = [n for n, layer in quantized_layers(equalised.model).items() if layer.input_scale is not None]
    few = [
        n
        for n, layer in quantized_layers(equalised.model).items()
        if layer.input.bits < 8 and layer.layer.weight.ndim == 4
    ]
    assert divided == few
    assert divided
    assert log.config["quantization"]["activation_equalisation"] == 0.5


def test_an_impossible_exponent_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"activation_equalisation=1\.5: expected a value in 0\.\.1"):
        QuantizationConfig(4, 4, activation_equalisation=1.5)
