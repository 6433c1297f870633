"""ACIQ: multipliers are minima, ranges by hand, statistics over batches."""

from __future__ import annotations

import math

import pytest
import torch

from selective_focus.quantization import aciq
from selective_focus.quantization.affine import fake_quantize, grid_from_range


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize(("density", "noise"), [("laplace", aciq.laplace_noise), ("gauss", aciq.gauss_noise)])
def test_exact_multiplier_is_a_minimum(density, noise, bits: int) -> None:
    alpha = aciq.exact_multiplier(bits, density)
    assert noise(alpha, bits) <= min(noise(alpha * 0.999, bits), noise(alpha * 1.001, bits))
    assert alpha == pytest.approx(aciq.multiplier(bits, density), rel=0.01), "the authors' table"


def test_laplace_multiplier_solves_its_equation() -> None:
    """d/da: -2 exp(-a) + 2 a / (3 4^M) = 0."""
    alpha = aciq.exact_multiplier(4)
    assert math.exp(-alpha) == pytest.approx(alpha / (3 * 4**4), rel=1e-4)


def test_ranges_by_hand() -> None:
    """4-bit Laplace multiplier 5.03, one-sided 6.2."""
    statistics = aciq.AciqStatistics(mean=0.5, laplace_b=1.0, std=2.0, minimum=-3.0)
    lo, hi = aciq.aciq_range(statistics, 4)
    assert (float(lo), float(hi)) == (pytest.approx(-3.0), pytest.approx(-3 + 10.06)), "cut at the minimum"
    lo, hi = aciq.aciq_range(statistics, 4, one_sided=True)
    assert (float(lo), float(hi)) == (0, pytest.approx(6.7))
    lo, hi = aciq.aciq_range(aciq.AciqStatistics(0.0, 1.0, 2.0, -99.0), 4, "gauss")
    assert (float(lo), float(hi)) == (pytest.approx(-5.1), pytest.approx(5.1))


def test_statistics_by_hand_and_averaged() -> None:
    one = aciq.AciqStatistics.of(torch.tensor([0.0, 0.0, 2.0, 2.0]))
    assert (one.mean, one.laplace_b, one.minimum) == (1, 1, 0)
    assert one.std == pytest.approx(math.sqrt(4 / 3))
    both = aciq.AciqStatistics.average([one, aciq.AciqStatistics(3.0, 3.0, 0.0, -5.0)])
    assert (both.mean, both.laplace_b, both.minimum) == (2, 2, -5)
    with pytest.raises(ValueError, match="at least one"):
        aciq.AciqStatistics.average([])


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_clipping_beats_min_max_on_its_own_density(bits: int) -> None:
    x = torch.distributions.Laplace(0.0, 1.0).icdf(torch.linspace(0.0005, 0.9995, 5001))
    clipped = grid_from_range(*aciq.aciq_range(aciq.AciqStatistics.of(x), bits), bits)
    plain = grid_from_range(x.min(), x.max(), bits)
    error = [float((x - fake_quantize(x, grid)).square().mean()) for grid in (clipped, plain)]
    assert error[0] < error[1]


def test_bits_outside_the_table() -> None:
    with pytest.raises(ValueError, match="exact=True"):
        aciq.multiplier(9)
    assert aciq.multiplier(9, exact=True) > aciq.multiplier(8)
