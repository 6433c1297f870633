"""Setting the range of a quantizer from data: extremes, percentiles and searches for the smallest error.

Searches minimise mean |x - FQ(x)|^p over candidate grids. They run on the raw values (per tensor or per
channel) or, for activations, on a ``Histogram``: the same candidates, a few thousand weighted points instead
of millions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

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

Range = tuple[Tensor, Tensor]
"""(lo, hi), both 0-d or [C]."""

BLOCK = 1 << 16
"""Elements worked on at a time in a search: temporaries stay in the processor's cache."""


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


@dataclass(frozen=True, eq=False)
class _Points:
    """What a search runs on: values [C, n] with the share of each [n], or None for equal shares."""

    values: Tensor
    share: Tensor | None
    per_channel: bool

    @classmethod
    def of(cls, x: Tensor | Histogram, per_channel: bool = False) -> _Points:
        if isinstance(x, Histogram):
            values, counts = x.points()
            return cls(values.float()[None], (counts / counts.sum()).float(), False)
        flat = x.detach().float()
        return cls(flat.flatten(1) if per_channel else flat.reshape(1, -1), None, per_channel)

    def extremes(self) -> Range:
        lo, hi = torch.aminmax(self.values, dim=1)
        return lo, hi

    def errors(self, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, p: float) -> Tensor:
        """Mean |x - FQ(x)|^p [K, C] of K candidate grids, scale and zero_point [K, C]."""
        total = torch.zeros(scale.shape, dtype=torch.float64, device=scale.device)
        channels, n = self.values.shape
        columns = max(1, min(n, BLOCK))
        rows = max(1, BLOCK // columns)
        flat_total, flat_scale, flat_zero = total.view(-1), scale.reshape(-1, 1), zero_point.reshape(-1, 1)
        owner = torch.arange(channels, device=scale.device).repeat(scale.shape[0])
        for first in range(0, n, columns):
            block = self.values[:, first : first + columns]
            share = None if self.share is None else self.share[first : first + columns]
            for row in range(0, owner.numel(), rows):
                some = slice(row, row + rows)
                values = block if channels == 1 else block[owner[some]]
                s, z = flat_scale[some], flat_zero[some]
                error = (
                    torch.div(values, s)
                    .round_()
                    .clamp_(qmin - z, qmax - z)
                    .mul_(s)
                    .sub_(values)
                    .abs_()
                    .pow_(p)
                )
                flat_total[some] += error.sum(1) if share is None else error @ share
        return total / n if self.share is None else total

    def shaped(self, value: Tensor) -> Tensor:
        return value if self.per_channel else value[0]


def quantization_error(x: Tensor, grid: Grid, p: float = 2.4) -> Tensor:
    """mean |x - FQ(x)|^p, 0-d, or [C] for a per-channel grid; float64."""
    points = _Points.of(x, grid.per_channel)
    scale, zero_point = grid.scale.reshape(1, -1), grid.zero_point.reshape(1, -1)
    return points.shaped(points.errors(scale, zero_point, grid.qmin, grid.qmax, p)[0])


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
    points = _Points.of(x, per_channel)
    lo, hi = points.extremes()
    if include_zero:
        lo, hi = lo.clamp(max=0), hi.clamp(min=0)
    factor = 1 - 0.01 * torch.arange(candidates, dtype=torch.float64, device=lo.device).float()[:, None]
    if symmetric:
        scale, zero_point = scale_and_zero_point(factor * lo, factor * hi, bits, True, rule)
        return _best(points, scale, zero_point, *integer_range(bits, True, rule), p)
    qmin, qmax = integer_range(bits, False)
    scale = ((factor * hi - factor * lo) / qmax).clamp(min=SCALE_FLOOR)
    return _best(points, scale, torch.round(-(factor * lo) / scale) + 0.0, qmin, qmax, p)


def _best(points: _Points, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, p: float) -> Grid:
    winner = points.errors(scale, zero_point, qmin, qmax, p).argmin(dim=0, keepdim=True)
    chosen = (value.gather(0, winner)[0] for value in (scale, zero_point))
    best_scale, best_zero = (points.shaped(value) for value in chosen)
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
    asymmetric: 2-D, for each width also every zero point 0..2^b-1 (steps * 2^b candidates). The first wins a
    tie. One-sidedness is that of all the data handed in, so hand in the whole calibration set (QDrop looks at
    its first batch only). Returns (lo, hi) for ``grid_from_range``.
    """
    points = _Points.of(x, per_channel)
    lo, hi = points.extremes()
    part = torch.arange(1, steps + 1, dtype=torch.float64, device=lo.device).float()[:, None]
    if symmetric or bool((lo >= 0).all()) or bool((hi <= 0).all()):
        return _line_search(points, lo, hi, part / steps, bits, symmetric, p, rule)
    return _plane_search(points, lo.clamp(max=0), hi.clamp(min=0), part / steps, bits, p)


def _line_search(
    points: _Points,
    lo: Tensor,
    hi: Tensor,
    part: Tensor,
    bits: int,
    symmetric: bool,
    p: float,
    rule: SymmetricRule,
) -> Range:
    reach = part * torch.maximum(-lo, hi)
    below = torch.zeros_like(reach) if bool((lo >= 0).all()) else -reach
    above = torch.zeros_like(reach) if bool((hi <= 0).all()) else reach
    scale, zero_point = scale_and_zero_point(below, above, bits, symmetric, rule)
    errors = points.errors(scale, zero_point, *integer_range(bits, symmetric, rule), p)
    winner = errors.argmin(dim=0, keepdim=True)
    return points.shaped(below.gather(0, winner)[0]), points.shaped(above.gather(0, winner)[0])


def _plane_search(points: _Points, lo: Tensor, hi: Tensor, part: Tensor, bits: int, p: float) -> Range:
    qmin, qmax = integer_range(bits, False)
    width = part * (hi - lo)
    scale = (width / qmax).clamp(min=SCALE_FLOOR)
    zero_points = torch.arange(qmax + 1, dtype=torch.float32, device=lo.device)
    best = torch.full_like(lo, torch.inf, dtype=torch.float64)
    best_lo, best_hi = lo.clone(), hi.clone()
    for row_scale, row_width in zip(scale, width, strict=True):
        each_scale = row_scale.expand(len(zero_points), -1)
        each_zero = zero_points[:, None].expand_as(each_scale)
        error, winner = points.errors(each_scale, each_zero, qmin, qmax, p).min(dim=0)
        better = error < best
        start = -zero_points[winner] * row_scale
        best = torch.where(better, error, best)
        best_lo = torch.where(better, start, best_lo)
        best_hi = torch.where(better, start + row_width, best_hi)
    return points.shaped(best_lo), points.shaped(best_hi)
