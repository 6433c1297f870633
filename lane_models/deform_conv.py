"""Modulated deformable convolution (Zhu et al., CVPR 2019) in plain PyTorch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class DeformConv2d(nn.Module):
    """A convolution whose taps are moved and weighted: x [N, C, H, W] -> [N, out_channels, H, W].

    Stride 1, odd kernel (h, w), padding that keeps the size, one offset group. ``forward(x, offsets, modulation)``:

        offsets     [N, 2 K, H, W] in pixels, for each of the K taps (row-major) dy then dx
        modulation  [N, K, H, W], the weight of each tap; None: 1

    Tap k of output (i, j) reads x at (i + row_k + dy, j + column_k + dx), bilinearly; each of the four
    corners that lies outside counts as 0. No CUDA extension; on a CPU gradients are deterministic too.
    """

    quantizable = True
    """For quantizers: one ``weight``, applied to the first argument."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: tuple[int, int] = (3, 3), bias: bool = True
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Tensor, offsets: Tensor, modulation: Tensor | None = None) -> Tensor:
        n, _, h, w = x.shape
        columns = sample_taps(x, offsets, modulation, self.kernel_size)
        product = self.weight.flatten(1) @ columns.reshape(n, -1, h * w)
        if self.bias is not None:
            product = product + self.bias[:, None]
        return product.reshape(n, self.out_channels, h, w)


def sample_taps(
    x: Tensor, offsets: Tensor, modulation: Tensor | None, kernel_size: tuple[int, int]
) -> Tensor:
    """What the taps read, weighted: [N, C, K, H, W] (arguments as in ``DeformConv2d``)."""
    n, c, h, w = x.shape
    y, column = _tap_positions(offsets, kernel_size)
    top, left = y.floor(), column.floor()
    flat = x.flatten(2)
    read = torch.zeros(n, c, y[0].numel(), dtype=x.dtype, device=x.device)
    for row, row_weight in ((top, 1 - (y - top)), (top + 1, y - top)):
        for col, col_weight in ((left, 1 - (column - left)), (left + 1, column - left)):
            inside = (row >= 0) & (row < h) & (col >= 0) & (col < w)
            share = row_weight * col_weight * inside
            if modulation is not None:
                share = share * modulation
            index = (row.clamp(0, h - 1) * w + col.clamp(0, w - 1)).long().flatten(1)
            values = flat.gather(2, index[:, None].expand(-1, c, -1))
            read = read + values * share.flatten(1)[:, None]
    return read.reshape(n, c, *y.shape[1:])


def _tap_positions(offsets: Tensor, kernel_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Row and column [N, K, H, W], in pixels, that each tap reads."""
    h, w = offsets.shape[2:]
    steps = [torch.arange(n, device=offsets.device, dtype=offsets.dtype) - n // 2 for n in kernel_size]
    rows = torch.arange(h, device=offsets.device, dtype=offsets.dtype)
    columns = torch.arange(w, device=offsets.device, dtype=offsets.dtype)
    dy, dx = offsets[:, 0::2], offsets[:, 1::2]
    down, right = (grid.reshape(-1, 1, 1) for grid in torch.meshgrid(*steps, indexing="ij"))
    return dy + down + rows[:, None], dx + right + columns
