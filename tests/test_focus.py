"""Semantic Guided Focus: every term of the loss worked by hand, gradients, empty backgrounds, failures."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy import ToyDetector

from selective_focus import quantize
from selective_focus.focus import focused_loss, head_scale, without_focus
from selective_focus.quantization.config import ConfigurationError

# one image, three anchors, two values each; squared norms of the error: 25, 4, 1
REFERENCE = torch.zeros(1, 3, 2)
QUANTIZED = torch.tensor([[[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]]])
FOREGROUND = torch.tensor([[[0.9], [0.5], [0.1]]])


def loss_of(quantized, reference, foreground, **options) -> float:
    total, per_head = focused_loss(
        {"head": quantized},
        {"head": reference},
        None if foreground is None else {"head": foreground},
        **options,
    )
    assert total.item() == per_head["head"].item()
    return total.item()


# ---------------------------------------------------------------- worked by hand


def test_weighted_mean_of_squared_norms() -> None:
    # (0.9 x 25 + 0.5 x 4 + 0.1 x 1) / 1.5 = 24.6 / 1.5
    assert loss_of(QUANTIZED, REFERENCE, FOREGROUND, normalisation="none") == pytest.approx(16.4)


def test_confidence_heads_keep_epsilon_in_the_background() -> None:
    # weights 1.0, 0.6, 0.2: (25 + 2.4 + 0.2) / 1.8
    options = {"normalisation": "none", "confidence_heads": {"head"}, "epsilon": 0.1}
    assert loss_of(QUANTIZED, REFERENCE, FOREGROUND, **options) == pytest.approx(27.6 / 1.8)


def test_thresholded_weights() -> None:
    options = {"normalisation": "none", "soft": False}
    assert loss_of(QUANTIZED, REFERENCE, FOREGROUND, **options) == pytest.approx(14.5)  # (25 + 4) / 2
    assert loss_of(QUANTIZED, REFERENCE, FOREGROUND, threshold=0.6, **options) == pytest.approx(25.0)


def test_without_focus() -> None:
    # per element: 30 / 6; per position: 30 / 3
    assert loss_of(QUANTIZED, REFERENCE, None, normalisation="none") == pytest.approx(5.0)
    ones = without_focus({"head": FOREGROUND})["head"]
    assert loss_of(QUANTIZED, REFERENCE, ones, normalisation="none") == pytest.approx(10.0)
    assert loss_of(QUANTIZED, REFERENCE, None, normalisation="channels") == pytest.approx(5.0)
    assert loss_of(QUANTIZED, REFERENCE, ones, normalisation="channels") == pytest.approx(5.0)
    # epsilon belongs to the focus: it is nothing to an unfocused loss
    options = {"normalisation": "none", "confidence_heads": {"head"}}
    assert loss_of(QUANTIZED, REFERENCE, None, **options) == pytest.approx(5.0)


def test_variance_normalisation_is_one_number_a_head() -> None:
    # values 0, 2, 4, 6, 8, 10: mean 5, variance 70 / 6; the scale of a position is 2 x that
    reference = torch.arange(0.0, 12.0, 2.0).reshape(1, 3, 2)
    expected = 16.4 / (2 * 70 / 6)
    assert loss_of(reference + QUANTIZED, reference, FOREGROUND) == pytest.approx(expected)
    # per element without focus: 5 / (70 / 6), the same as with equal weights
    assert loss_of(reference + QUANTIZED, reference, None) == pytest.approx(30 / 70)
    ones = torch.ones_like(FOREGROUND)
    assert loss_of(reference + QUANTIZED, reference, ones) == pytest.approx(30 / 70)


def test_scales_can_be_given() -> None:
    assert loss_of(QUANTIZED, REFERENCE, FOREGROUND, normalisation={"head": 4.0}) == pytest.approx(4.1)


def test_a_constant_head_has_a_finite_scale() -> None:
    reference = torch.full((1, 3, 2), 2.0)
    assert head_scale(reference, FOREGROUND).item() == pytest.approx(2 * 4e-6)
    assert head_scale(torch.zeros(1, 3, 2), FOREGROUND).item() > 0


def test_pixel_maps_and_images_of_a_batch() -> None:
    # two images of 1x2 pixels and three classes: the positions are image x pixel
    reference = torch.zeros(2, 3, 1, 2)
    quantized = torch.zeros(2, 3, 1, 2)
    quantized[0, :, 0, 0] = torch.tensor([1.0, 2.0, 2.0])  # squared norm 9
    quantized[1, 2, 0, 1] = 4.0  # squared norm 16
    foreground = torch.tensor([[[[1.0, 0.5]]], [[[0.0, 0.5]]]])  # [2, 1, 1, 2]
    assert loss_of(quantized, reference, foreground, normalisation="none") == pytest.approx((9 + 8) / 2)


def test_the_batch_is_never_part_of_a_vector() -> None:
    # one weight for all of each image: the loss of two images is the mean of their losses, not the sum
    quantized = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    for everywhere in (torch.ones(2, 1), torch.ones(1, 1), torch.ones(1), torch.ones(())):
        assert loss_of(quantized, torch.zeros(2, 2), everywhere, normalisation="none") == pytest.approx(7.0)
        assert head_scale(quantized, everywhere, "channels").item() == 2.0


def test_total_is_weighted_over_heads() -> None:
    heads = {"a": QUANTIZED, "b": 2 * QUANTIZED, "c": QUANTIZED}
    zeros = dict.fromkeys(heads, REFERENCE)
    foreground = dict.fromkeys(heads, FOREGROUND)
    weights = {"a": 1.0, "b": 0.05, "c": 0.0}
    total, per_head = focused_loss(heads, zeros, foreground, weights, normalisation="none")
    assert {name: loss.item() for name, loss in per_head.items()} == pytest.approx(
        {"a": 16.4, "b": 65.6, "c": 16.4}
    )
    assert total.item() == pytest.approx(16.4 + 0.05 * 65.6)
    assert focused_loss(heads, zeros, foreground, normalisation="none")[0].item() == pytest.approx(98.4)


# ---------------------------------------------------------------- behaviour


@pytest.mark.parametrize("soft", [True, False])
def test_a_batch_of_background_is_finite(soft: bool) -> None:
    quantized = QUANTIZED.clone().requires_grad_()
    heads, zeros = {"head": quantized}, {"head": REFERENCE}
    total, _ = focused_loss(heads, zeros, {"head": torch.zeros(1, 3, 1)}, soft=soft, normalisation="none")
    total.backward()
    assert total.item() == 0
    assert torch.equal(quantized.grad, torch.zeros_like(quantized))
    # a confidence head still sees its false positives there: all weights are epsilon
    total, _ = focused_loss(
        heads,
        zeros,
        {"head": torch.zeros(1, 3, 1)},
        soft=soft,
        confidence_heads=["head"],
        normalisation="none",
    )
    assert total.item() == pytest.approx(10.0)


def test_gradient_by_hand_and_none_into_the_reference() -> None:
    quantized = QUANTIZED.clone().requires_grad_()
    reference = REFERENCE.clone().requires_grad_()
    foreground = FOREGROUND.clone().requires_grad_()
    total, per_head = focused_loss(
        {"head": quantized}, {"head": reference}, {"head": foreground}, normalisation="none"
    )
    total.backward()
    # 2 w (Q - O) / sum w
    assert torch.allclose(quantized.grad, 2 * FOREGROUND * QUANTIZED / 1.5)
    assert reference.grad is None
    assert foreground.grad is None
    assert not per_head["head"].requires_grad


def test_a_dropped_head_gets_no_gradient() -> None:
    kept, dropped = QUANTIZED.clone().requires_grad_(), QUANTIZED.clone().requires_grad_()
    total, _ = focused_loss(
        {"kept": kept, "dropped": dropped},
        {"kept": REFERENCE, "dropped": REFERENCE},
        {"kept": FOREGROUND, "dropped": FOREGROUND},
        {"kept": 1.0, "dropped": 0.0},
    )
    total.backward()
    assert kept.grad is not None
    assert dropped.grad is None


def test_autograd_agrees_with_finite_differences_and_inputs_are_untouched() -> None:
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(2, 3, 4, generator=generator)
    quantized = reference + torch.randn(2, 3, 4, generator=generator)
    foreground = torch.rand(2, 3, 1, generator=generator)
    before = [tensor.clone() for tensor in (reference, quantized, foreground)]
    moved = quantized.clone().requires_grad_()
    total, _ = focused_loss({"head": moved}, {"head": reference}, {"head": foreground})
    total.backward()
    step = torch.zeros_like(quantized)
    step[1, 2, 3] = 1e-2
    up, down = (loss_of(quantized + sign * step, reference, foreground) for sign in (1, -1))
    assert (up - down) / 2e-2 == pytest.approx(moved.grad[1, 2, 3].item(), rel=1e-2)
    after = (reference, quantized, foreground)
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_half_precision_heads_are_summed_in_single() -> None:
    big = torch.full((1, 1, 64), 200.0, dtype=torch.float16)  # 64 x 200^2 overflows float16
    loss = loss_of(big, torch.zeros_like(big), torch.ones(1, 1, 1), normalisation="none")
    assert loss == pytest.approx(64 * 200.0**2)


@given(st.floats(0.01, 100), st.floats(-50, 50), st.integers(0, 1000))
def test_variance_normalisation_ignores_units(unit: float, offset: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    reference = torch.randn(2, 5, 3, generator=generator)
    quantized = reference + 0.3 * torch.randn(2, 5, 3, generator=generator)
    foreground = torch.rand(2, 5, 1, generator=generator)
    plain = loss_of(quantized, reference, foreground)
    other = loss_of(unit * quantized + unit * offset, unit * reference + unit * offset, foreground)
    assert other == pytest.approx(plain, rel=1e-2)


@given(st.integers(0, 1000), st.floats(0.05, 1))
def test_the_scale_of_the_weights_does_not_matter(seed: int, factor: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    reference, error = torch.randn(2, 5, 3, generator=generator), torch.randn(2, 5, 3, generator=generator)
    foreground = torch.rand(2, 5, 1, generator=generator)
    full = loss_of(reference + error, reference, foreground)
    assert loss_of(reference + error, reference, factor * foreground) == pytest.approx(full, rel=1e-4)


# ---------------------------------------------------------------- failures


def test_refusals_name_the_value() -> None:
    heads, zeros, foreground = {"head": QUANTIZED}, {"head": REFERENCE}, {"head": FOREGROUND}
    with pytest.raises(ValueError, match=r"shape \[1, 2, 1\] does not broadcast against .* \[1, 3, 2\]"):
        focused_loss(heads, zeros, {"head": torch.ones(1, 2, 1)})
    with pytest.raises(ValueError, match="does not broadcast"):
        focused_loss(heads, zeros, {"head": torch.ones(1, 1, 3, 1)})
    with pytest.raises(ValueError, match="foreground lacks head 'head'"):
        focused_loss(heads, zeros, {})
    with pytest.raises(ValueError, match="head_weights lacks head 'head'"):
        focused_loss(heads, zeros, foreground, {"other": 1.0})
    with pytest.raises(ValueError, match=r"one of them positive, not \{'head': 0.0\}"):
        focused_loss(heads, zeros, foreground, {"head": 0.0})
    with pytest.raises(
        ValueError, match=r"quantized heads \['head'\] must be the full-precision ones, \['x'\]"
    ):
        focused_loss(heads, {"x": REFERENCE}, foreground)
    with pytest.raises(ValueError, match=r"shape \[1, 3, 2\] quantized but \[1, 2, 2\]"):
        focused_loss(heads, {"head": torch.zeros(1, 2, 2)}, foreground)
    with pytest.raises(ValueError, match="variance, channels, none or one scale a head, not 'std'"):
        focused_loss(heads, zeros, foreground, normalisation="std")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="normalisation lacks head 'head'"):
        focused_loss(heads, zeros, foreground, normalisation={"other": 1.0})
    with pytest.raises(ValueError, match="epsilon -1 must be at least 0"):
        focused_loss(heads, zeros, foreground, epsilon=-1)


class Misspelt(ToyDetector):
    confidence_heads = frozenset({"existance"})


class Lacking(ToyDetector):
    def foreground(self, heads):
        return {"existence": super().foreground(heads)["existence"]}


class Misshapen(ToyDetector):
    def foreground(self, heads):
        return {**super().foreground(heads), "columns": torch.ones(2, 4, 1)}


class Unbounded(ToyDetector):
    def foreground(self, heads):
        return {**super().foreground(heads), "columns": 3 * torch.ones_like(heads["columns"])}


@pytest.mark.parametrize(
    ("detector", "words"),
    [
        (Misspelt, r"confidence_heads names 'existance'.*expected names out of existence, columns"),
        (Lacking, r"foreground\(heads\) has no weight for head 'columns', only for existence; return"),
        (Misshapen, r"foreground\(heads\)\['columns'\] has shape \[2, 4, 1\].*\[5, 4, 8\]; expected"),
        (Unbounded, r"foreground\(heads\)\['columns'\] has values from 3 to 3; expected weights in \[0, 1\]"),
    ],
)
def test_a_detector_that_does_not_fit_its_own_heads_is_one_line(detector, words) -> None:
    with pytest.raises(ConfigurationError, match=f"detector 'toy': {words}") as caught:
        quantize(detector(), torch.rand(5, 3, 16, 32), "selective-focus", iterations=2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (
            torch.zeros(4, 3, 16, 32, dtype=torch.uint8),
            r"torch.uint8: expected .*\[M, 3, 16, 32\].* torch.float32",
        ),
        (torch.zeros(4, 3, 16, 32, dtype=torch.float64), r"torch.float64: expected"),
        (torch.zeros(4, 3, 32, 16), r"shape \[4, 3, 32, 16\]: expected network inputs \[M, 3, 16, 32\]"),
        (torch.zeros(3, 16, 32), r"shape \[3, 16, 32\]: expected"),
        (torch.tensor(1.0), r"shape \[\]: expected"),
        (torch.full((1, 3, 16, 32), torch.nan), r"not finite"),
        ([torch.zeros(3, 16, 32), torch.zeros(3, 16, 31)], r"\[3, 16, 31\] and \[3, 16, 32\]: expected"),
        ([], r"none at all: expected"),
        ([torch.zeros(3, 16, 32).numpy()], r"type ndarray: expected .* detector.transform"),
    ],
)
@pytest.mark.parametrize("method", ["minmax", "selective-focus"])
def test_images_that_are_no_network_inputs_are_one_line(images, words, method) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        quantize(ToyDetector(), images, method)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("minmax", []),
        ("selective-focus", [(step, 6) for step in range(1, 7)]),
        ("qdrop", [(step, 30) for step in range(1, 31)]),
        # two phases; in the second the first layer, whose input is the image, has nothing to learn
        ("brecq", [*((step, 30) for step in range(1, 31)), *((step, 10) for step in range(3, 11))]),
    ],
)
def test_progress_is_told_step_by_step(method, expected) -> None:
    told: list[tuple[int, int]] = []
    options = {"iterations": 6, "batch_size": 2, "rounding": "straight-through"} if expected else {}
    quantize(ToyDetector(), torch.rand(4, 3, 16, 32), method, progress=lambda *x: told.append(x), **options)
    assert told == expected
