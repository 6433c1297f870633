"""Losses in probabilities and pixels: hand-worked numbers, zero for equal heads, gradients where they belong."""

from __future__ import annotations

import math

import pytest
import torch
from toy import ToyDetector

from selective_focus.lane_loss import class_divergence, lane_displacement
from selective_focus.method import SelectiveFocusOptions
from selective_focus.plus import PlusOptions
from selective_focus.quantization.config import ConfigurationError
from selective_focus.quantize import quantize


def test_divergence_of_two_classes_by_hand() -> None:
    reference = torch.tensor([[[0.0, 0.0], [0.0, math.log(3)]]])
    quantized = torch.tensor([[[0.0, math.log(3)], [0.0, math.log(3)]]])
    first = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    weight = torch.tensor([[[1.0], [1.0]]])
    assert class_divergence(quantized, reference, weight, -1) == pytest.approx(first / 2, abs=1e-6)
    weight = torch.tensor([[[3.0], [1.0]]])
    assert class_divergence(quantized, reference, weight, -1) == pytest.approx(first * 3 / 4, abs=1e-6)


def test_divergence_of_a_yes_or_no_is_that_of_two_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    reference, quantized = torch.randn(2, 5, 4, 1, generator=generator)
    weight = torch.rand(5, 4, 1, generator=generator)
    both = [torch.cat([torch.zeros_like(one), one], dim=-1) for one in (quantized, reference)]
    alone = class_divergence(quantized, reference, weight, None)
    assert alone == pytest.approx(float(class_divergence(*both, weight, -1)), rel=1e-5)
    assert class_divergence(reference, reference, weight, None) == pytest.approx(0, abs=1e-7)
    assert math.isfinite(float(class_divergence(quantized * 1e4, reference * 1e4, weight, None)))


def test_displacement_is_quadratic_then_linear_in_units_of_delta() -> None:
    reference = torch.zeros(1, 1, 2)
    quantized = torch.tensor([[[15.0, 90.0]]])
    ones = torch.ones(1, 1, 2)
    assert lane_displacement(quantized, reference, ones, 30.0) == pytest.approx((0.125 + 2.5) / 2)
    assert lane_displacement(quantized, reference, torch.tensor([[[1.0, 0.0]]]), 30.0) == pytest.approx(0.125)
    assert lane_displacement(quantized, reference, ones * 0, 30.0) == 0


def test_gradient_flows_into_the_quantized_heads_alone() -> None:
    quantized, reference = (torch.full((1, 2, 2), value, requires_grad=True) for value in (1.0, 2.0))
    total = lane_displacement(quantized, reference, torch.ones(1, 2, 1), 30.0)
    total = total + class_divergence(quantized, reference, torch.ones(1, 2, 1), None)
    total.backward()
    assert quantized.grad is not None
    assert quantized.grad.abs().min() > 0
    assert reference.grad is None


def test_a_detector_that_declares_nothing_has_the_loss_of_selective_focus() -> None:
    detector = ToyDetector()
    images = torch.rand(8, 3, *detector.input_size, generator=torch.Generator().manual_seed(0))
    common = {
        "bits": "w4a4",
        "iterations": 4,
        "batch_size": 4,
        "selection": False,
        "activation_importance": "uniform",
        "activation_equalisation": 0.0,
    }
    plus, _ = quantize(detector, images, "selective-focus-plus", **common)
    plain, _ = quantize(detector, images, "selective-focus", **common)
    for name, head in plain.heads(images).items():
        assert torch.equal(head, plus.heads(images)[name])


@pytest.mark.parametrize(
    "bad",
    [{"delta": 0}, {"lane_weight": -1}, dict.fromkeys(("class_weight", "lane_weight", "head_weight"), 0)],
)
def test_bad_shares_are_refused_in_one_line(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=r"^[^\n]*expected weights of at least 0[^\n]*$"):
        PlusOptions(**bad)
    assert isinstance(PlusOptions(), SelectiveFocusOptions)
