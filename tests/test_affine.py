"""The quantizer's arithmetic: hand-worked numbers and properties."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selective_focus.quantization import affine
from selective_focus.quantization.affine import Grid


def grid(scale: float, zero_point: float, qmin: int = 0, qmax: int = 15) -> Grid:
    return Grid(torch.tensor(scale), torch.tensor(zero_point), qmin, qmax)


def values(seed: int, *shape: int, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * spread


def test_two_bits_by_hand() -> None:
    """s = 0.5, z = 1, codes 0..3: the grid is -0.5, 0, 0.5, 1."""
    x = torch.tensor([-2.0, -0.5, -0.2, 0.1, 0.25, 0.3, 0.75, 1.2, 9.0])
    found = affine.fake_quantize(x, grid(0.5, 1, 0, 3))
    # 0.25 / 0.5 = 0.5 and 0.75 / 0.5 = 1.5 are ties: to the even multiples 0 and 2
    assert found.tolist() == [-0.5, -0.5, 0, 0, 0, 0.5, 1.0, 1.0, 1.0]


def test_rounds_before_adding_the_zero_point() -> None:
    """0.5 rounds to 0, then + 3 = 3; adding first would round 3.5 to 4."""
    assert affine.codes(torch.tensor([0.5]), grid(1.0, 3)).tolist() == [3]


def test_asymmetric_grid_by_hand() -> None:
    made = affine.grid_from_range(torch.tensor(-1.0), torch.tensor(2.0), 2)
    assert (float(made.scale), float(made.zero_point), made.qmin, made.qmax) == (1.0, 1.0, 0, 3)


@pytest.mark.parametrize(("lo", "hi"), [(1.0, 3.0), (-3.0, -1.0)])
def test_range_is_widened_to_zero(lo: float, hi: float) -> None:
    made = affine.grid_from_range(torch.tensor(lo), torch.tensor(hi), 2)
    assert float(made.scale) == 1.0
    assert affine.fake_quantize(torch.zeros(1), made).item() == 0


def test_symmetric_rules_by_hand() -> None:
    full = affine.grid_from_range(torch.tensor(-3.0), torch.tensor(1.0), 3, symmetric=True)
    assert (float(full.scale), full.qmin, full.qmax) == (pytest.approx(3 / 3.5), -4, 3)
    narrow = affine.grid_from_range(torch.tensor(-3.0), torch.tensor(1.0), 3, True, "restricted")
    assert (float(narrow.scale), narrow.qmin, narrow.qmax) == (1.0, -3, 3)


def test_constant_tensor_has_a_usable_grid() -> None:
    made = affine.grid_from_range(torch.tensor(0.0), torch.tensor(0.0), 4)
    assert float(made.scale) == pytest.approx(1e-8)
    assert affine.fake_quantize(torch.zeros(3), made).tolist() == [0, 0, 0]


@pytest.mark.parametrize("bits", [1, 0, 17])
def test_impossible_bits_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=f"not {bits}"):
        affine.grid_from_range(torch.tensor(0.0), torch.tensor(1.0), bits)


def test_grid_refuses_an_empty_range_and_a_matrix_of_scales() -> None:
    with pytest.raises(ValueError, match="qmin < qmax"):
        grid(1.0, 0.0, 3, 3)
    with pytest.raises(ValueError, match="0-d or"):
        Grid(torch.ones(2, 2), torch.zeros(2, 2), 0, 3)


ranges_of_values = st.tuples(st.floats(-50, 50, width=32), st.floats(-50, 50, width=32)).map(sorted)


@settings(deadline=None, max_examples=60)
@given(ranges_of_values, st.integers(2, 8), st.booleans(), st.integers(0, 1000))
def test_properties(ends: list[float], bits: int, symmetric: bool, seed: int) -> None:
    made = affine.grid_from_range(*(torch.tensor(e) for e in ends), bits, symmetric)
    x = values(seed, 200, spread=20.0).sort().values
    y, q = affine.fake_quantize(x, made), affine.codes(x, made)
    assert made.qmin <= int(q.min()) <= int(q.max()) <= made.qmax
    assert torch.equal(affine.dequantize(q, made), y), "the codes are those of the fake-quantized values"
    assert torch.equal(affine.fake_quantize(y, made), y), "quantizing twice changes nothing"
    assert bool((y.diff() >= 0).all()), "quantizing keeps the order"
    if not symmetric:
        inside = (x >= ends[0]) & (x <= ends[1])
        # a rounded zero point moves the range by up to half a step, and rounding costs half a step
        assert bool(((y - x).abs()[inside] <= 1.001 * made.scale + 1e-6).all())


def test_per_channel_is_every_channel_alone() -> None:
    w = values(0, 5, 3, 2, 2)
    lo, hi = w.flatten(1).amin(1), w.flatten(1).amax(1)
    made = affine.grid_from_range(lo, hi, 3)
    together = affine.fake_quantize(w, made)
    for channel in range(5):
        alone = affine.fake_quantize(w[channel], affine.grid_from_range(lo[channel], hi[channel], 3))
        assert torch.equal(together[channel], alone)


def test_same_values_with_and_without_gradient() -> None:
    x, made = values(1, 4, 3, 5), grid(0.37, 6)
    with_gradient = affine.fake_quantize(x.clone().requires_grad_(), made)
    assert torch.equal(with_gradient.detach(), affine.fake_quantize(x, made))


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: object, upstream: torch.Tensor) -> torch.Tensor:
        return upstream


def _reference(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, qmin: int, qmax: int, keep: torch.Tensor
) -> torch.Tensor:
    """The same function written with straight-through rounding and autograd."""
    y = (torch.clamp(_StraightThrough.apply(x / scale) + zero_point, qmin, qmax) - zero_point) * scale
    return torch.where(keep, y, x)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("mask", ["none", "boolean", "float"])
def test_fused_gradients_equal_autograd(per_channel: bool, mask: str) -> None:
    x0, upstream = values(2, 4, 3, 5, 5), values(3, 4, 3, 5, 5)
    scale0 = torch.tensor([0.3, 0.5, 0.7, 0.2]) if per_channel else torch.tensor(0.3)
    zero_point = torch.tensor([3.0, 5.0, 7.0, 0.0]) if per_channel else torch.tensor(5.0)
    keep = values(4, 4, 3, 5, 5) > 0 if mask != "none" else torch.ones_like(x0, dtype=torch.bool)
    handed = {"none": None, "boolean": keep, "float": keep.float()}[mask]
    x, scale = x0.clone().requires_grad_(), scale0.clone().requires_grad_()
    y = affine.fake_quantize_drop(x, scale, zero_point, 0, 15, handed, grad_factor=0.25)
    y.backward(upstream)
    x_ref, scale_ref = x0.clone().requires_grad_(), scale0.clone().requires_grad_()
    shape = (-1, 1, 1, 1) if per_channel else ()
    expected = _reference(x_ref, scale_ref.view(shape), zero_point.view(shape), 0, 15, keep)
    expected.backward(upstream)
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(x.grad, x_ref.grad, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(scale.grad, scale_ref.grad * 0.25, rtol=1e-4, atol=1e-5)


def test_dropped_elements_pass_bit_for_bit() -> None:
    x = values(5, 1000)
    keep = (values(6, 1000) > 0).float()
    y = affine.fake_quantize_drop(x, torch.tensor(0.3), torch.tensor(7.0), 0, 15, keep)
    assert torch.equal(y[keep == 0], x[keep == 0])
    assert torch.equal(y[keep == 1], affine.fake_quantize(x, grid(0.3, 7))[keep == 1])


def test_lsq_gradient_by_hand() -> None:
    """s = 1, codes 0..3: below gives 0, 0.4 gives -0.4, 1.7 gives 0.3, above gives 3."""
    for clip_first, slope_at_3_3 in ((False, -0.3), (True, 3.0)):
        for value, slope in ((-1.0, 0.0), (0.4, -0.4), (1.7, 0.3), (9.0, 3.0), (3.3, slope_at_3_3)):
            scale = torch.tensor(1.0, requires_grad=True)
            x = torch.tensor([value])
            affine.lsq_fake_quantize(
                x, scale, torch.tensor(0.0), 0, 3, clip_first=clip_first
            ).sum().backward()
            assert scale.grad is not None
            assert float(scale.grad) == pytest.approx(slope, abs=1e-6)


def test_works_in_channels_last_layout() -> None:
    x = values(7, 2, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    mask = affine.MaskPool(0.5, seed=1, size=100).draw(x)
    assert mask is not None
    assert mask.is_contiguous(memory_format=torch.channels_last)
    y = affine.fake_quantize_drop(x, torch.tensor(0.3), torch.tensor(7.0), 0, 15, mask)
    assert torch.equal(y, torch.where(mask > 0, affine.fake_quantize(x, grid(0.3, 7)), x))


def test_masks_are_reproducible_differ_and_have_the_right_share() -> None:
    x = torch.empty(20, 1000)
    first, second = affine.MaskPool(0.3, seed=5), affine.MaskPool(0.3, seed=5)
    drawn = [first.draw(x) for _ in range(3)]
    for mask in drawn:
        again = second.draw(x)
        assert mask is not None
        assert again is not None
        assert torch.equal(mask, again)
        assert set(mask.unique().tolist()) == {0.0, 1.0}
        assert float(mask.mean()) == pytest.approx(0.3, abs=0.02)
    assert not torch.equal(drawn[0], drawn[1])


def test_pool_grows_for_a_larger_tensor() -> None:
    pool = affine.MaskPool(0.5, seed=0, size=10)
    for shape in ((2, 3), (7, 11, 13), (4,)):
        mask = pool.draw(torch.empty(shape))
        assert mask is not None
        assert mask.shape == torch.Size(shape)


def test_keeping_everything_needs_no_mask() -> None:
    assert affine.MaskPool(1.0, seed=0).draw(torch.empty(3)) is None
    none_kept = affine.MaskPool(0.0, seed=0).draw(torch.empty(50))
    assert none_kept is not None
    assert float(none_kept.sum()) == 0


def test_impossible_probability_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.\.1"):
        affine.MaskPool(1.5, seed=0)
