"""What a range search measures its candidates on: raw values, per tensor or per channel, or a histogram."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from selective_focus.quantization.histogram import Histogram

_BLOCK = {"cpu": 1 << 16}
"""Elements worked on at a time: on a processor the temporaries must stay in its cache."""
_LARGE_BLOCK = 1 << 22


@dataclass(frozen=True, eq=False)
class Samples:
    """Values [C, n] (C = 1: a whole tensor), the share of each column [n] (None: equal), raw extremes [C].

    Candidates come as flat lists: ``owner`` [M] names the channel, everything else has a value per candidate.
    """

    values: Tensor
    share: Tensor | None
    lo: Tensor
    hi: Tensor
    per_channel: bool

    @classmethod
    def of(cls, x: Tensor | Histogram, per_channel: bool = False) -> Samples:
        """ValueError for an empty tensor, or for channels of a histogram."""
        if isinstance(x, Histogram):
            if per_channel:
                raise ValueError("a histogram has no channels: search on the tensor itself, or per tensor")
            values, counts = x.points()
            lo, hi = torch.tensor([x.minimum]), torch.tensor([x.maximum])
            return cls(values.float()[None], (counts / counts.sum()).float(), lo, hi, False)
        if x.numel() == 0:
            raise ValueError("cannot set the range of an empty tensor")
        flat = x.detach().float().flatten(1) if per_channel else x.detach().float().reshape(1, -1)
        lo, hi = torch.aminmax(flat, dim=1)
        return cls(flat, None, lo, hi, per_channel)

    @property
    def channels(self) -> int:
        """Number of separate searches."""
        return self.values.shape[0]

    @property
    def one_sided(self) -> bool:
        """Whether no value of any channel is below zero, or none above."""
        return bool((self.lo >= 0).all()) or bool((self.hi <= 0).all())

    def shaped(self, value: Tensor) -> Tensor:
        """[C] as it is, or 0-d when the whole tensor shares one range."""
        return value if self.per_channel else value[0]

    def errors(
        self, owner: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, p: float
    ) -> Tensor:
        """mean |x - FQ(x)|^p [M] of candidate grids, float64."""
        scale, lower, upper = scale[:, None], (qmin - zero_point)[:, None], (qmax - zero_point)[:, None]

        def distance(values: Tensor, some: slice) -> Tensor:
            codes = torch.div(values, scale[some]).round_()
            return codes.clamp_(min=lower[some]).clamp_(max=upper[some]).mul_(scale[some]).sub_(values)

        return self._mean_power(owner, distance, p)

    def clipping(self, owner: Tensor, lo: Tensor, hi: Tensor, p: float) -> Tensor:
        """mean |x - clip(x, lo, hi)|^p [M]: what clipping alone costs, float64."""
        lower, upper = lo[:, None], hi[:, None]

        def distance(values: Tensor, some: slice) -> Tensor:
            return torch.clamp(values, min=lower[some]).clamp_(max=upper[some]).sub_(values)

        return self._mean_power(owner, distance, p)

    def _mean_power(self, owner: Tensor, distance: Callable[[Tensor, slice], Tensor], p: float) -> Tensor:
        total = torch.zeros(owner.shape, dtype=torch.float64, device=owner.device)
        block = _BLOCK.get(owner.device.type, _LARGE_BLOCK)
        n = self.values.shape[1]
        rows = max(1, block // n)
        for first in range(0, n, block):
            columns = self.values[:, first : first + block]
            share = None if self.share is None else self.share[first : first + block]
            for row in range(0, owner.numel(), rows):
                some = slice(row, row + rows)
                values = columns if self.channels == 1 else columns.index_select(0, owner[some])
                error = distance(values, some).abs_().pow_(p)
                total[some] += error.sum(1) if share is None else error @ share
        return total / n if self.share is None else total


def first_smallest(error: Tensor, owner: Tensor, channels: int) -> Tensor:
    """Index of the smallest error of each channel [C], the first one on a tie. error, owner: [M]."""
    best = torch.full((channels,), torch.inf, dtype=error.dtype, device=error.device)
    best.scatter_reduce_(0, owner, error, "amin")
    place = torch.arange(error.numel(), device=error.device)
    place = torch.where(error == best[owner], place, error.numel())
    winner = torch.full((channels,), error.numel(), device=error.device)
    return winner.scatter_reduce_(0, owner, place, "amin")
