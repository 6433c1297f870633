"""A histogram that grows with its data, as a stand-in for millions of activations in a range search."""

from __future__ import annotations

import torch
from torch import Tensor

_PART_BITS = 12
_PARTS = 1 << _PART_BITS
"""Steps in which a value's place inside its bin is recorded (about what float32 can tell)."""

_BLOCK = 1 << 17
"""Values placed at a time: the temporaries stay in the processor's cache, and the sums in 32 bits."""


class Histogram:
    """Counts and sums of values in equal bins, filled batch by batch.

    When a batch lies outside, pairs of bins are merged until it fits, so every value stays in its true bin
    and the result hardly depends on the order of batches. There are twice as many bins as asked for: at least
    ``bins`` of them always cover the data. Each bin stands for the *mean* of its values, and exact zeros are
    counted apart (after a ReLU they are most of the data, and they are always on the grid).

    bins: resolution over the range of the data (2048 as in MQBench). lo, hi: extremes known beforehand, if
    any.
    """

    def __init__(self, bins: int = 2048, lo: float | None = None, hi: float | None = None) -> None:
        if bins < 2:
            raise ValueError(f"a histogram needs at least 2 bins, not {bins}")
        self.bins = bins
        self.minimum = torch.inf
        self.maximum = -torch.inf
        self.zeros = 0
        self._batches: list[tuple[float, float]] = []
        self._start = self._width = 0.0
        self._counts = torch.zeros(2 * bins, dtype=torch.float64)
        self._sums = torch.zeros(2 * bins, dtype=torch.float64)
        if lo is not None and hi is not None and hi > lo:
            self._start, self._width = lo, (hi - lo) / (2 * bins)

    @classmethod
    def of(cls, x: Tensor, bins: int = 2048) -> Histogram:
        """The histogram of one tensor."""
        lo, hi = torch.aminmax(x.detach())
        histogram = cls(bins, float(lo), float(hi))
        histogram.update(x)
        return histogram

    @property
    def count(self) -> int:
        """Number of values seen."""
        return int(self._counts.sum()) + self.zeros

    @property
    def average_extremes(self) -> tuple[float, float]:
        """Mean over the batches of each batch's extremes."""
        lows, highs = zip(*self._batches, strict=True)
        return sum(lows) / len(lows), sum(highs) / len(highs)

    def update(self, x: Tensor) -> None:
        """Add one batch of any shape. ValueError if it holds a value that is not finite."""
        values = x.detach().float().reshape(-1)
        if values.numel() == 0:
            return
        lo, hi = (float(v) for v in torch.aminmax(values))
        if not (-torch.inf < lo and hi < torch.inf):
            raise ValueError(f"calibration activations must be finite, found a range of {lo}..{hi}")
        self.minimum, self.maximum = min(self.minimum, lo), max(self.maximum, hi)
        self._batches.append((lo, hi))
        if lo == hi == 0:
            self.zeros += values.numel()
            return
        self._cover(lo, hi)
        zeros = values.numel() - int(values.sign().abs_().sum(dtype=torch.float64))
        counts, parts = self._tally(values)
        if zeros:
            counts_of_zeros, parts_of_zeros = self._tally(values.new_zeros(1))
            counts -= zeros * counts_of_zeros
            parts -= zeros * parts_of_zeros
        self.zeros += zeros
        edges = self._start + self._width * torch.arange(2 * self.bins, dtype=torch.float64)
        self._counts += counts
        self._sums += counts * edges + parts * (self._width / _PARTS)

    def _tally(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """How many values each bin gets, and the sum of their places inside it in whole parts, int64.

        Integers add up to the same in any order, so the histogram does not depend on threads or device. One
        number carries both sums (counts in the upper 32 bits): a single scatter instead of two.
        """
        counts = torch.zeros(2 * self.bins, dtype=torch.int64)
        parts = torch.zeros_like(counts)
        for block in torch.split(values, _BLOCK):
            place = (block - self._start).mul_(_PARTS / self._width).long()
            place.clamp_(0, 2 * self.bins * _PARTS - 1)
            both = torch.zeros(2 * self.bins, dtype=torch.int64, device=values.device)
            both.scatter_add_(0, place >> _PART_BITS, place.bitwise_and_(_PARTS - 1).add_(1 << 32))
            tally = both.cpu()
            counts += tally >> 32
            parts += tally & ((1 << 32) - 1)
        return counts, parts

    def points(self) -> tuple[Tensor, Tensor]:
        """Values (float64, increasing but for the zero at the end) and their counts, without empty bins."""
        if self.count == 0:
            raise ValueError("a histogram needs at least one calibration batch")
        filled = self._counts > 0
        counts = self._counts[filled]
        means = self._sums[filled] / counts
        if self.zeros:
            means = torch.cat([means, means.new_zeros(1)])
            counts = torch.cat([counts, counts.new_tensor([float(self.zeros)])])
        return means, counts

    def _cover(self, lo: float, hi: float) -> None:
        if self._width == 0:
            spread = max(hi - lo, abs(hi) * 1e-6, 1e-30)
            self._start, self._width = lo, spread / self.bins
            return
        while lo < self._start or hi > self._start + 2 * self.bins * self._width:
            self._merge_pairs(downwards=lo < self._start)

    def _merge_pairs(self, downwards: bool) -> None:
        """Halve the resolution; the freed half of the bins goes below or above the old range."""
        span = 2 * self.bins * self._width
        for stored in (self._counts, self._sums):
            merged = stored.view(-1, 2).sum(1)
            stored.zero_()
            (stored[self.bins :] if downwards else stored[: self.bins]).copy_(merged)
        self._width *= 2
        if downwards:
            self._start -= span
