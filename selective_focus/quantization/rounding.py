"""Learned rounding (AdaRound, Nagel et al. 2020): each weight rounds down or up as its variable V decides.

W(V) = s * (clip(floor(w/s) + h(V) + z, qmin, qmax) - z),  h(V) = clip((zeta - gamma) * sigmoid(V) + gamma, 0,
1). floor(w/s) never changes while V is trained, so it is computed once (``floor_codes``) and handed in.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from selective_focus.quantization.affine import Grid, along_first

ZETA = 1.1
GAMMA = -0.1


def rectified_sigmoid(v: Tensor) -> Tensor:
    """h(V): a sigmoid stretched to gamma..zeta and clipped, so that 0 and 1 are reached (AdaRound eq. 23)."""
    return torch.clamp(torch.sigmoid(v) * (ZETA - GAMMA) + GAMMA, 0, 1)


def floor_codes(w: Tensor, grid: Grid) -> Tensor:
    """floor(w / s), shape of w, without the zero point."""
    return torch.floor(w.detach() / along_first(grid.scale, w))


def initial_v(w: Tensor, grid: Grid) -> Tensor:
    """V with h(V) = frac(w / s), so that the soft weight starts as the (clipped) float weight."""
    ratio = w.detach() / along_first(grid.scale, w)
    fraction = ratio - torch.floor(ratio)
    return -torch.log((ZETA - GAMMA) / (fraction - GAMMA) - 1)


def v_of_rounded(v: Tensor, rounded: Tensor, floor: Tensor, grid: Grid) -> Tensor:
    """V that decides as ``rounded`` (a weight on the grid) did: mirrored about h = 1/2 where ``v`` decides otherwise.

    h(-V) = 1 - h(V), so a weight stays as far from being undecided as its fraction makes it.
    """
    differs = (hard_weight(v, floor, grid) - rounded).abs() > along_first(grid.scale, v) / 2
    return torch.where(differs, torch.where(v >= 0, -v - 1e-6, -v), v)


def _weight(up: Tensor, floor: Tensor, grid: Grid) -> Tensor:
    zero_point = along_first(grid.zero_point, floor)
    clipped = torch.clamp(floor + up, grid.qmin - zero_point, grid.qmax - zero_point)
    return clipped * along_first(grid.scale, floor)


class _LearnedRounding(torch.autograd.Function):
    """The weight with soft or hard rounding; either way the gradient to V is that of the soft weight."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, floor: Tensor, grid: Grid, hard: bool) -> Tensor:
        sigmoid = torch.sigmoid(v)
        stretched = sigmoid * (ZETA - GAMMA) + GAMMA
        h = stretched.clamp(0, 1)
        if ctx.needs_input_grad[0]:
            zero_point = along_first(grid.zero_point, floor)
            code = floor + h + zero_point
            moves = (stretched == h) & (code >= grid.qmin) & (code <= grid.qmax)
            slope = (1 - sigmoid).mul_(sigmoid).mul_(ZETA - GAMMA).mul_(moves)
            ctx.save_for_backward(slope.mul_(along_first(grid.scale, floor)))
        return _weight((v >= 0).to(v.dtype) if hard else h, floor, grid)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return upstream * slope, None, None, None


def soft_weight(v: Tensor, floor: Tensor, grid: Grid) -> Tensor:
    """The weight with soft rounding h(V), shape of v; gradient to v."""
    weight: Tensor = _LearnedRounding.apply(v, floor, grid, False)  # type: ignore[no-untyped-call]
    return weight


def straight_through_weight(v: Tensor, floor: Tensor, grid: Grid) -> Tensor:
    """The hard-rounded weight with the gradient of the soft one: training sees what deployment will use."""
    weight: Tensor = _LearnedRounding.apply(v, floor, grid, True)  # type: ignore[no-untyped-call]
    return weight


def hard_weight(v: Tensor, floor: Tensor, grid: Grid) -> Tensor:
    """The final weight: up where V >= 0, down elsewhere. On the grid, no gradient."""
    return _weight((v.detach() >= 0).to(floor.dtype), floor, grid)


def rounding_regulariser(v: Tensor, beta: float | Tensor) -> Tensor:
    """sum of 1 - |2 h(V) - 1|^beta, 0-d (AdaRound eq. 24): drives every h to 0 or 1 as beta falls.

    beta may be a 0-d tensor, so that a compiled step is not compiled again for every value.
    """
    return (1 - (2 * rectified_sigmoid(v) - 1).abs().pow(beta)).sum()


def unsettled_share(v: Tensor, margin: float = 0.05) -> float:
    """Share of roundings whose h is still more than ``margin`` away from both 0 and 1."""
    h = rectified_sigmoid(v.detach())
    return float(((h > margin) & (h < 1 - margin)).float().mean())
