"""Setting the range of a quantizer from data: extremes, percentiles and searches for the smallest error.

Searches minimise mean |x - FQ(x)|^p over candidate grids. They run on the raw values (per tensor or per
channel) or, for activations, on a ``Histogram``: the same candidates, a few thousand weighted points instead
of millions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from selective_focus.quantization.affine import (
    SCALE_FLOOR,
    Grid,
    SymmetricRule,
    integer_range,
    scale_and_zero_point,
)
from selective_focus.quantization.histogram import Histogram
from selective_focus.quantization.samples import Samples, first_smallest

Range = tuple[Tensor, Tensor]
"""(lo, hi), both 0-d or [C]."""

_CANDIDATES = 1 << 22
"""Candidates of a 2-D search that are listed at a time."""


def min_max(x: Tensor, per_channel: bool = False) -> Range:
    """Raw extremes, 0-d or per slice of the first dimension [C]."""
    flat = x.detach().flatten(1) if per_channel else x.detach().reshape(1, -1)
    lo, hi = torch.aminmax(flat, dim=1)
    return (lo, hi) if per_channel else (lo[0], hi[0])


class RunningMinMax:
    """Extremes over all batches seen."""

    def __init__(self) -> None:
        self._lo: list[Tensor] = []
        self._hi: list[Tensor] = []

    def update(self, x: Tensor) -> None:
        """See one more batch."""
        lo, hi = min_max(x)
        self._lo.append(lo)
        self._hi.append(hi)

    def range(self) -> Range:
        """(lo, hi), 0-d. ValueError before the first batch."""
        lo, hi = self._stacked()
        return lo.min(), hi.max()

    def _stacked(self) -> Range:
        if not self._lo:
            raise ValueError("a range observer needs at least one calibration batch")
        return torch.stack(self._lo), torch.stack(self._hi)


class AverageMinMax(RunningMinMax):
    """Mean over batches of each batch's extremes (QDrop's AvgMinMaxObserver)."""

    def range(self) -> Range:
        """(lo, hi), 0-d. ValueError before the first batch."""
        lo, hi = self._stacked()
        return lo.mean(), hi.mean()


def average_min_max(batches: Iterable[Tensor]) -> Range:
    """Mean over batches of each batch's extremes, 0-d."""
    observer = AverageMinMax()
    for batch in batches:
        observer.update(batch)
    return observer.range()


def percentile(x: Tensor, p: float, symmetric: bool = False) -> Range:
    """The linearly interpolated (100 - p)-th and p-th percentile of all elements; symmetric: -+ that of |x|.

    p: 50..100. Our definition: the codes of the compared methods have none.
    """
    if not 50 <= p <= 100:
        raise ValueError(f"percentile must be in 50..100, not {p}")
    values = x.detach().float().cpu().numpy().ravel()
    if symmetric:
        hi = float(np.percentile(np.abs(values).astype(np.float64), p))
        return torch.tensor(-hi), torch.tensor(hi)
    lo, hi = np.percentile(values.astype(np.float64), [100 - p, p])
    return torch.tensor(float(lo)), torch.tensor(float(hi))


def quantization_error(x: Tensor, grid: Grid, p: float = 2.4) -> Tensor:
    """mean |x - FQ(x)|^p, 0-d, or [C] for a per-channel grid; float64."""
    samples = Samples.of(x, grid.per_channel)
    owner = torch.arange(samples.channels, device=x.device)
    scale, zero_point = grid.scale.reshape(-1), grid.zero_point.reshape(-1)
    return samples.shaped(samples.errors(owner, scale, zero_point, grid.qmin, grid.qmax, p))


def mse_shrink(
    x: Tensor | Histogram,
    bits: int,
    per_channel: bool = False,
    symmetric: bool = False,
    p: float = 2.4,
    candidates: int = 80,
    rule: SymmetricRule = "full",
    include_zero: bool = False,
) -> Grid:
    """BRECQ's range search: the extremes shrunk together by 1 % steps, the smallest mean |error|^p wins.

    Candidate i = 0..candidates-1: (1 - 0.01 i) times the raw extremes; the first wins a tie. As in BRECQ zero
    is not forced into the range, so for data all on one side of zero the zero point can lie outside the
    codes; include_zero=True widens the extremes first (what deployment needs). Symmetric: the same steps on
    max |x|.
    """
    if not 1 <= candidates <= 100:
        raise ValueError(f"candidates must be 1..100 (steps of 1 %), not {candidates}")
    samples = Samples.of(x, per_channel)
    lo, hi = samples.lo, samples.hi
    if include_zero:
        lo, hi = lo.clamp(max=0), hi.clamp(min=0)
    factor = 1 - 0.01 * torch.arange(candidates, device=lo.device, dtype=torch.float32)[:, None]
    qmin, qmax = integer_range(bits, symmetric, rule)
    if symmetric:
        scale, zero_point = scale_and_zero_point(factor * lo, factor * hi, bits, True, rule)
    else:
        scale = ((factor * hi - factor * lo) / qmax).clamp(min=SCALE_FLOOR)
        zero_point = torch.round(-(factor * lo) / scale) + 0.0
    owner = torch.arange(samples.channels, device=lo.device).repeat(candidates)
    errors = samples.errors(owner, scale.reshape(-1), zero_point.reshape(-1), qmin, qmax, p)
    winner = first_smallest(errors, owner, samples.channels)
    best_scale, best_zero = (samples.shaped(v.reshape(-1)[winner]) for v in (scale, zero_point))
    return Grid(best_scale, best_zero, qmin, qmax)


def mse_grid(
    x: Tensor | Histogram,
    bits: int,
    per_channel: bool = False,
    symmetric: bool = False,
    p: float = 2.4,
    steps: int = 100,
    rule: SymmetricRule = "full",
) -> Range:
    """QDrop's range search over ``steps`` widths i/steps of the full range.

    Symmetric or one-sided data: 1-D, t = i/steps max|x|, range [-t, t], [0, t] or [-t, 0]. Two-sided
    asymmetric: 2-D, for each width also every zero point 0..2^b-1 (steps * 2^b candidates, most of which are
    ruled out unmeasured). The first wins a tie. One-sidedness is that of all the data handed in, so hand in
    the whole calibration set (QDrop looks at its first batch only). Returns (lo, hi) for ``grid_from_range``.
    """
    samples = Samples.of(x, per_channel)
    part = torch.arange(1, steps + 1, device=samples.lo.device, dtype=torch.float32)[:, None] / steps
    if symmetric or samples.one_sided:
        return _line_search(samples, part, bits, symmetric, p, rule)
    return _plane_search(samples, part, bits, p)


def _line_search(
    samples: Samples, part: Tensor, bits: int, symmetric: bool, p: float, rule: SymmetricRule
) -> Range:
    below, above = (part * end for end in _reach(samples))
    scale, zero_point = scale_and_zero_point(below, above, bits, symmetric, rule)
    owner = torch.arange(samples.channels, device=scale.device).repeat(len(part))
    limits = integer_range(bits, symmetric, rule)
    errors = samples.errors(owner, scale.reshape(-1), zero_point.reshape(-1), *limits, p)
    winner = first_smallest(errors, owner, samples.channels)
    return samples.shaped(below.reshape(-1)[winner]), samples.shaped(above.reshape(-1)[winner])


def _reach(samples: Samples) -> Range:
    """The widest range [C] of a 1-D search: -+ max|x|, cut at zero where all data is on one side of it."""
    reach = torch.maximum(-samples.lo, samples.hi)
    below = torch.zeros_like(reach) if bool((samples.lo >= 0).all()) else -reach
    above = torch.zeros_like(reach) if bool((samples.hi <= 0).all()) else reach
    return below, above


def _plane_search(samples: Samples, part: Tensor, bits: int, p: float) -> Range:
    """Every width and zero point, but for those that cannot win (see ``_worth_measuring``)."""
    lo, hi = samples.lo, samples.hi
    lo, hi = lo.clamp(max=0), hi.clamp(min=0)
    qmax = integer_range(bits, False)[1]
    width = part * (hi - lo)
    scale = (width / qmax).clamp(min=SCALE_FLOOR)
    narrowest = _narrowest_width(samples, lo, hi, scale, qmax, p)
    best_lo, best_hi = torch.zeros_like(lo), torch.zeros_like(hi)
    zero_points = torch.arange(qmax + 1, device=lo.device, dtype=torch.float32)
    group = max(1, _CANDIDATES // (len(part) * (qmax + 1)))
    for first in range(0, samples.channels, group):
        some = slice(first, first + group)
        measured = _worth_measuring(lo[some], hi[some], scale[:, some], zero_points, qmax)
        measured &= torch.arange(len(part), device=lo.device)[None, :, None] >= narrowest[some][:, None, None]
        channel, step, code = measured.nonzero(as_tuple=True)
        owner = channel + first
        tried_scale, tried_zero = scale[step, owner], zero_points[code]
        errors = samples.errors(owner, tried_scale, tried_zero, 0, qmax, p)
        winner = first_smallest(errors, channel, min(group, samples.channels - first))
        start = -tried_zero[winner] * tried_scale[winner]
        best_lo[some], best_hi[some] = start, start + width[step[winner], owner[winner]]
    return samples.shaped(best_lo), samples.shaped(best_hi)


def _worth_measuring(lo: Tensor, hi: Tensor, scale: Tensor, zero_points: Tensor, qmax: int) -> Tensor:
    """Which candidates [C, W, Z] are not beaten by the neighbouring zero point.

    Both grids are parts of one lattice. One that reaches a whole step beyond the data on one side, while data
    is clipped on the other, is never better than the grid moved by that step, and it loses ties (or is
    strictly worse). lo, hi: [C], scale: [W, C].
    """
    step = scale.T[:, :, None]
    below, above = -zero_points * step, (qmax - zero_points) * step
    lo, hi = lo[:, None, None], hi[:, None, None]
    slack = 1.001 * step
    too_low = (below <= lo - slack) & (above < hi)
    too_high = (above >= hi + slack) & (below - 0.501 * step > lo)
    return ~(too_low | too_high)


def _narrowest_width(samples: Samples, lo: Tensor, hi: Tensor, scale: Tensor, qmax: int, p: float) -> Tensor:
    """Index [C] of the narrowest width that can still win.

    Clipping alone costs a narrower range more, at its best zero point, than the full error of some wider
    candidate. That cost falls with the width (bisection) and is convex in the zero point (bisection on its
    slope).
    """
    steps, channels = scale.shape
    every = torch.arange(channels, device=lo.device)
    zero_point = torch.round(-lo / (hi - lo).clamp(min=SCALE_FLOOR) * qmax).expand(steps, -1)
    owner = every.repeat(steps)
    errors = samples.errors(owner, scale.reshape(-1), zero_point.reshape(-1), 0, qmax, p)
    bound = errors.view(steps, channels).amin(0) * (1 + 1e-5)
    small, large = torch.zeros_like(every), torch.full_like(every, steps - 1)
    while bool((small < large).any()):
        middle = (small + large) // 2
        possible = _least_clipping(samples, every, scale[middle, every], qmax, p) <= bound
        large = torch.where(possible, middle, large)
        small = torch.where(possible, small, torch.minimum(middle + 1, large))
    return large


def _least_clipping(samples: Samples, owner: Tensor, scale: Tensor, qmax: int, p: float) -> Tensor:
    """The smallest cost of clipping [C] over all zero points of a grid with this scale [C]."""

    def cost(zero_point: Tensor) -> Tensor:
        return samples.clipping(owner, -zero_point * scale, (qmax - zero_point) * scale, p)

    return cost(_lowest_point(cost, scale, qmax))


def _lowest_point(cost: Callable[[Tensor], Tensor], like: Tensor, qmax: int) -> Tensor:
    """The whole number in 0..qmax, shape of ``like`` of the least (convex) cost: bisection on its slope."""
    small, large = torch.zeros_like(like), torch.full_like(like, qmax)
    while bool((small < large).any()):
        middle = torch.floor((small + large) / 2)
        falling = (cost(middle + 1) < cost(middle)) & (small < large)
        small, large = torch.where(falling, middle + 1, small), torch.where(falling, large, middle)
    return small


def golden_section(
    x: Tensor | Histogram,
    bits: int,
    per_channel: bool = False,
    symmetric: bool = False,
    p: float = 2.4,
    rule: SymmetricRule = "full",
    iterations: int = 20,
) -> Range:
    """The range with the smallest mean |error|^p by golden-section search, for every channel at once.

    As QDrop's MSEFastObserver: symmetric or one-sided data search the reach, two-sided asymmetric data the
    width and, within each width, the zero point. The error has several shallow minima at low bits, so this is
    quicker than ``mse_grid`` but can settle in a worse one. Returns (lo, hi) for ``grid_from_range``.
    """
    samples = Samples.of(x, per_channel)
    owner = torch.arange(samples.channels, device=samples.lo.device)
    qmin, qmax = integer_range(bits, symmetric, rule)
    plane = not (symmetric or samples.one_sided)
    lo, hi = (samples.lo, samples.hi) if plane else _reach(samples)

    def ends(part: Tensor) -> Range:
        if not plane:
            return part * lo, part * hi
        scale = (part * (hi - lo) / qmax).clamp(min=SCALE_FLOOR)
        zero_point = _lowest_point(lambda z: samples.errors(owner, scale, z, qmin, qmax, p), scale, qmax)
        return -zero_point * scale, (qmax - zero_point) * scale

    def error(part: Tensor) -> Tensor:
        scale, zero_point = scale_and_zero_point(*ends(part), bits, symmetric, rule)
        return samples.errors(owner, scale, zero_point, qmin, qmax, p)

    below, above = ends(_golden_minimum(error, torch.full_like(lo, 0.01), torch.ones_like(lo), iterations))
    return samples.shaped(below), samples.shaped(above)


def _golden_minimum(
    error: Callable[[Tensor], Tensor], left: Tensor, right: Tensor, iterations: int
) -> Tensor:
    """Where a function that falls and then rises is least between ``left`` and ``right`` (element-wise)."""
    ratio = (math.sqrt(5) - 1) / 2
    inner = right - ratio * (right - left)
    outer = left + ratio * (right - left)
    error_inner, error_outer = error(inner), error(outer)
    for _ in range(iterations):
        lower = error_inner < error_outer
        left, right = torch.where(lower, left, inner), torch.where(lower, outer, right)
        probe = torch.where(lower, right - ratio * (right - left), left + ratio * (right - left))
        measured = error(probe)
        inner, outer = torch.where(lower, probe, outer), torch.where(lower, inner, probe)
        error_inner, error_outer = (
            torch.where(lower, measured, error_outer),
            torch.where(lower, error_inner, measured),
        )
    return torch.where(error_inner < error_outer, inner, outer)
