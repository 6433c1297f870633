"""Learned rounding and its schedules."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from selective_focus.quantization import affine, rounding, schedule
from selective_focus.quantization.affine import Grid
from selective_focus.quantization.ranges import mse_shrink


def weight(seed: int = 0, bits: int = 3) -> tuple[Tensor, Grid]:
    w = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(seed)) * 0.1
    return w, mse_shrink(w, bits, per_channel=True, include_zero=True)


def test_rectified_sigmoid_by_hand() -> None:
    """h(0) = 1.2 / 2 - 0.1 = 0.5; it reaches 0 and 1 at -+ ln 11."""
    found = rounding.rectified_sigmoid(torch.tensor([0.0, math.log(11) + 0.01, -math.log(11) - 0.01]))
    assert found.tolist() == pytest.approx([0.5, 1.0, 0.0], abs=1e-6)


def test_soft_and_hard_weight_by_hand() -> None:
    """w = 0.3, s = 1, codes 0..3: soft starts at 0.3; V < 0 rounds down to 0, V > 0 up to 1."""
    grid = Grid(torch.tensor(1.0), torch.tensor(0.0), 0, 3)
    w = torch.tensor([[0.3]])
    floor, start = rounding.floor_codes(w, grid), rounding.initial_v(w, grid)
    assert float(rounding.soft_weight(start, floor, grid)) == pytest.approx(0.3, abs=1e-6)
    assert float(rounding.hard_weight(start, floor, grid)) == 0
    assert float(rounding.hard_weight(-start, floor, grid)) == 1


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.sampled_from([2, 4, 8]))
def test_start_is_the_clipped_float_weight(seed: int, bits: int) -> None:
    w, grid = weight(seed, bits)
    floor, start = rounding.floor_codes(w, grid), rounding.initial_v(w, grid)
    scale, zero_point = affine.along_first(grid.scale, w), affine.along_first(grid.zero_point, w)
    clipped = torch.clamp(w, (grid.qmin - zero_point) * scale, (grid.qmax - zero_point) * scale)
    torch.testing.assert_close(rounding.soft_weight(start, floor, grid), clipped, rtol=1e-4, atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.sampled_from([2, 4, 8]))
def test_hard_weight_is_a_neighbour_on_the_grid(seed: int, bits: int) -> None:
    w, grid = weight(seed, bits)
    v = torch.randn(w.shape, generator=torch.Generator().manual_seed(seed))
    hard = rounding.hard_weight(v, rounding.floor_codes(w, grid), grid)
    again = affine.fake_quantize(hard, grid)
    assert torch.equal(again, hard), "nearest rounding must leave a finished weight alone"
    inside = affine.fake_quantize(w, grid)
    step = affine.along_first(grid.scale, w)
    assert bool(((hard - inside).abs() <= 1.001 * step).all())


def test_start_rounds_to_nearest() -> None:
    w, grid = weight()
    hard = rounding.hard_weight(rounding.initial_v(w, grid), rounding.floor_codes(w, grid), grid)
    assert torch.equal(hard, affine.fake_quantize(w, grid))


def _reference_soft(v: Tensor, floor: Tensor, grid: Grid) -> Tensor:
    zero_point = affine.along_first(grid.zero_point, v)
    code = torch.clamp(floor + rounding.rectified_sigmoid(v) + zero_point, grid.qmin, grid.qmax)
    return (code - zero_point) * affine.along_first(grid.scale, v)


@pytest.mark.parametrize("build", [rounding.soft_weight, rounding.straight_through_weight])
def test_gradient_is_that_of_the_soft_weight(build) -> None:
    w, grid = weight(bits=2)
    floor = rounding.floor_codes(w, grid)
    start = rounding.initial_v(w, grid) + torch.randn(w.shape, generator=torch.Generator().manual_seed(1))
    upstream = torch.randn(w.shape, generator=torch.Generator().manual_seed(2))
    v, v_reference = start.clone().requires_grad_(), start.clone().requires_grad_()
    build(v, floor, grid).backward(upstream)
    _reference_soft(v_reference, floor, grid).backward(upstream)
    torch.testing.assert_close(v.grad, v_reference.grad, rtol=1e-5, atol=1e-7)


def test_straight_through_weight_is_the_hard_one() -> None:
    w, grid = weight()
    floor, v = rounding.floor_codes(w, grid), rounding.initial_v(w, grid).requires_grad_()
    assert torch.equal(
        rounding.straight_through_weight(v, floor, grid).detach(), rounding.hard_weight(v, floor, grid)
    )


def test_regulariser_by_hand() -> None:
    """h = 0.5 costs 1, h = 0 or 1 nothing; beta = 2 at h = 0.75 costs 1 - 0.25."""
    v = torch.tensor([0.0, 10.0, -10.0])
    assert float(rounding.rounding_regulariser(v, 2.0)) == pytest.approx(1.0)
    three_quarters = -math.log(1.2 / 0.85 - 1)
    found = rounding.rounding_regulariser(torch.tensor([three_quarters]), torch.tensor(2.0))
    assert float(found) == pytest.approx(0.75, abs=1e-6)


def test_regulariser_gradient_is_finite_at_its_top() -> None:
    v = torch.tensor([0.0, 1e-8], requires_grad=True)
    rounding.rounding_regulariser(v, 2.0).backward()
    assert v.grad is not None
    assert torch.isfinite(v.grad).all()


def test_unsettled_share_by_hand() -> None:
    assert rounding.unsettled_share(torch.tensor([0.0, 10.0, -10.0, 0.1])) == 0.5


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_beta_falls_from_start_to_end(kind) -> None:
    betas = [schedule.beta_schedule(t, 100, 0.2, 20, 2, kind) for t in range(1, 101)]
    assert betas[:20] == [20] * 20
    assert betas[-1] == pytest.approx(2)
    assert all(a >= b for a, b in itertools.pairwise(betas))
    assert betas[59] == pytest.approx(11)


@pytest.mark.parametrize("warmup", [0.0, 0.5, 1.0])
def test_any_warmup_works(warmup: float) -> None:
    for t in range(1, 11):
        assert 2 <= schedule.beta_schedule(t, 10, warmup) <= 20
        assert schedule.regulariser_active(t, 10, warmup) == (warmup < 1 and t >= warmup * 10)


def test_cosine_learning_rate() -> None:
    assert schedule.cosine_lr(0, 10, 4e-5) == pytest.approx(4e-5)
    assert schedule.cosine_lr(5, 10, 4e-5) == pytest.approx(2e-5)
    assert schedule.cosine_lr(10, 10, 4e-5) == pytest.approx(0, abs=1e-12)
    assert schedule.cosine_lr(3, 0, 1.0) == 0
