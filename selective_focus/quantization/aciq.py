"""ACIQ (Banner et al. 2019): clipping values in closed form for an assumed density.

The clipping value is a multiple of one statistic: b = mean|x - mean x| for Laplace, the (unbiased) standard
deviation for Gauss. The multiple minimises clipping noise plus rounding noise; the authors' code reads it
from two-decimal tables, which ``exact=True`` replaces by the numerical minimum. Activations only: weights use
min-max.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

Density = Literal["laplace", "gauss"]

LAPLACE = {0: 1.05, 1: 1.86, 2: 2.83, 3: 3.89, 4: 5.03, 5: 6.2, 6: 7.41, 7: 8.64, 8: 9.89}
LAPLACE_ONE_SIDED = {0: 1.86, 1: 2.83, 2: 3.89, 3: 5.02, 4: 6.2, 5: 7.41, 6: 8.64, 7: 9.89, 8: 11.16}
GAUSS = {1: 1.24, 2: 1.71, 3: 2.15, 4: 2.55, 5: 2.93, 6: 3.28, 7: 3.61, 8: 3.92}
GAUSS_ONE_SIDED = {1: 1.71, 2: 2.15, 3: 2.55, 4: 2.93, 5: 3.28, 6: 3.61, 7: 3.92, 8: 4.2}
"""Multipliers by bits, as printed in the authors' code. One-sided: data after a ReLU."""

_TABLES: dict[tuple[Density, bool], dict[int, float]] = {
    ("laplace", False): LAPLACE,
    ("laplace", True): LAPLACE_ONE_SIDED,
    ("gauss", False): GAUSS,
    ("gauss", True): GAUSS_ONE_SIDED,
}


def laplace_noise(alpha: float, bits: float) -> float:
    """Expected squared error of a Laplace(b = 1) variable clipped at +-alpha with 2^bits levels."""
    return 2 * math.exp(-alpha) + alpha**2 / (3 * 4**bits)


def gauss_noise(alpha: float, bits: float) -> float:
    """Expected squared error of a standard normal variable clipped at +-alpha with 2^bits levels."""
    tail = (1 + alpha**2) * math.erfc(alpha / math.sqrt(2))
    density = math.sqrt(2 / math.pi) * alpha * math.exp(-(alpha**2) / 2)
    return tail - density + alpha**2 / (3 * 4**bits)


@cache
def exact_multiplier(bits: int, density: Density = "laplace", one_sided: bool = False) -> float:
    """The multiplier that minimises the expected squared error.

    One-sided data spends all levels on one half, exactly as if there were one more bit: the half-Laplace
    objective exp(-a) + a^2 / (24 4^M) is half the two-sided one at M + 1.
    """
    noise: Callable[[float, float], float] = laplace_noise if density == "laplace" else gauss_noise
    effective = bits + 1 if one_sided else bits
    found = minimize_scalar(
        noise, args=(effective,), bounds=(0.1, 40.0), method="bounded", options={"xatol": 1e-9}
    )
    return float(found.x)


def multiplier(
    bits: int, density: Density = "laplace", one_sided: bool = False, exact: bool = False
) -> float:
    """The clipping value in units of the density's statistic; ValueError if the table has no such bits."""
    if exact:
        return exact_multiplier(bits, density, one_sided)
    table = _TABLES[density, one_sided]
    if bits not in table:
        raise ValueError(
            f"ACIQ's {density} table covers {min(table)}..{max(table)} bits, not {bits}; try exact=True"
        )
    return table[bits]


@dataclass(frozen=True)
class AciqStatistics:
    """What ACIQ needs to know of a tensor (or the mean of it over calibration batches)."""

    mean: float
    laplace_b: float
    """mean |x - mean x|"""
    std: float
    """unbiased standard deviation"""
    minimum: float

    @classmethod
    def of(cls, x: Tensor) -> AciqStatistics:
        """Statistics over all elements of x, summed in float64."""
        wide = x.detach().double()
        mean = wide.mean()
        deviation = (wide - mean).abs()
        spread = torch.sqrt(deviation.square().sum() / max(x.numel() - 1, 1))
        return cls(float(mean), float(deviation.mean()), float(spread), float(wide.min()))

    @classmethod
    def average(cls, batches: Sequence[AciqStatistics]) -> AciqStatistics:
        """Mean over batches (the authors' collected mode); the minimum is the running one."""
        if not batches:
            raise ValueError("ACIQ needs the statistics of at least one calibration batch")
        n = len(batches)
        return cls(
            sum(b.mean for b in batches) / n,
            sum(b.laplace_b for b in batches) / n,
            sum(b.std for b in batches) / n,
            min(b.minimum for b in batches),
        )


def aciq_range(
    statistics: AciqStatistics,
    bits: int,
    density: Density = "laplace",
    one_sided: bool = False,
    exact: bool = False,
) -> tuple[Tensor, Tensor]:
    """(lo, hi), 0-d, from which ``grid_from_range`` makes the grid.

    Two-sided: lo = max(minimum, mean - alpha), hi = lo + 2 alpha. One-sided (after a ReLU): 0..max(mean, 0) +
    alpha.
    """
    spread = statistics.laplace_b if density == "laplace" else statistics.std
    alpha = multiplier(bits, density, one_sided, exact) * spread
    if one_sided:
        return torch.tensor(0.0), torch.tensor(max(statistics.mean, 0.0) + alpha)
    lo = max(statistics.minimum, statistics.mean - alpha)
    return torch.tensor(lo), torch.tensor(lo + 2 * alpha)
