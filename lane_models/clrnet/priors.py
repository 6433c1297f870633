"""CLRNet's lane priors: straight lines given by a start and an angle, and features sampled along them."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def initial_priors(count: int) -> Tensor:
    """[count, 3]: start_y (0 bottom edge .. 1 top), start_x (0 left .. 1 right), angle (parts of pi).

    An eighth of them starts at the left edge, six eighths at the bottom, an eighth at the right edge, as the
    official 192 do: at the sides two angles a place up to half the height, at the bottom four. ``count`` is
    a multiple of 16.
    """
    side, bottom = count // 16, 3 * count // 16
    if count % 16:
        raise ValueError(f"{count} priors: choose a multiple of 16")
    heights = torch.arange(side) * (0.5 / (side - 1))
    places = torch.arange(1, bottom + 1) / (bottom + 1)
    return torch.cat(
        (
            _at(heights, torch.zeros(side), (0.16, 0.32)),
            _at(torch.zeros(bottom), places, (0.2, 0.4, 0.6, 0.8)),
            _at(heights, torch.ones(side), (0.68, 0.84)),
        )
    )


def _at(start_y: Tensor, start_x: Tensor, angles: tuple[float, ...]) -> Tensor:
    """Every place with every angle, [places * angles, 3]."""
    places = torch.stack((start_y, start_x), dim=1).repeat_interleave(len(angles), dim=0)
    return torch.cat((places, torch.tensor(angles).repeat(len(start_y))[:, None]), dim=1)


def line_xs(start: Tensor, angle: Tensor, ys: Tensor, size: tuple[int, int]) -> Tensor:
    """Where straight lines cross rows: start [..., 2] (start_y, start_x), angle [..., 1] -> x [..., R].

    ys [R]: rows, 1 at the bottom edge and 0 at the top edge of the network's image of ``size`` (H, W).
    x in parts of the width less one pixel, as the official code counts; lines are not ended at the edges.
    """
    height, width = size
    start_y, start_x = start[..., :1], start[..., 1:]
    run = (1 - ys - start_y) * height / torch.tan(angle * math.pi + 1e-5)
    return (start_x * (width - 1) + run) / (width - 1)


def sample(features: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Features [N, C, H, W] read at xs [N, P, K] and ys [K] -> [N, C, K, P], bilinearly, 0 outside.

    xs and ys run from 0, the first column or row's centre, to 1, the last one's. All lines are read on the
    same rows, so reading is two matrix products with tent-shaped weights: without scattered additions its
    gradients are the same in every run, on a GPU too.
    """
    height, width = features.shape[-2:]
    rows = _tent(ys, height).to(features.dtype) @ features
    weights = _tent(xs.permute(0, 2, 1), width).transpose(2, 3).to(features.dtype)
    return (rows.transpose(1, 2) @ weights).transpose(1, 2)


def _tent(places: Tensor, size: int) -> Tensor:
    """Weights of linear interpolation, [..., size], for relative places [...]."""
    cells = torch.arange(size, dtype=places.dtype, device=places.device)
    return (1 - (places[..., None] * (size - 1) - cells).abs()).clamp(min=0)
