"""Attention among the cells of a map, as CondLaneNet and GANet run it on their coarsest features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lane_models.backbones.conv_norm_relu import ConvNormReLU
from lane_models.backbones.sine_code import sine_code
from selective_focus import MatMul


class SelfAttention(nn.Module):
    """Every cell adds what it attends to among all others: [N, in_channels, h, w] -> [N, channels, h, w].

    The scores are not scaled. Queries, keys and values all see the places, which are counted in cells.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.pre_conv = ConvNormReLU(in_channels, channels, (3, 3))
        self.query_conv, self.key_conv = (nn.Conv2d(channels, channels // 4, 1) for _ in range(2))
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.compare = MatMul()
        self.softmax = nn.Softmax(dim=-1)
        self.attend = MatMul()
        self.gamma = nn.Parameter(torch.zeros(1))
        self.final_conv = ConvNormReLU(channels, channels, (3, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pre_conv(x)
        x = x + places(x)
        query, key, value = (conv(x).flatten(2) for conv in (self.query_conv, self.key_conv, self.value_conv))
        attention = self.softmax(self.compare(query.transpose(1, 2), key))
        attended = self.attend(value, attention.transpose(1, 2)).view_as(x)
        return self.final_conv(self.gamma * attended + x)


class AttentionStack(nn.Module):
    """Two layers of attention: [N, in_channels, h, w] -> [N, channels, h, w]."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.attn_layers = nn.Sequential(
            SelfAttention(in_channels, channels), SelfAttention(channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.attn_layers(x)


def places(features: Tensor) -> Tensor:
    """The fixed code of the cells of features [N, C, h, w], [C, h, w]: of rows, then of columns, from 1."""
    channels, (h, w) = features.shape[1] // 2, features.shape[2:]
    rows, columns = (
        sine_code(torch.arange(1, size + 1, device=features.device, dtype=torch.float32), channels)
        for size in (h, w)
    )
    y = rows.t()[:, :, None].expand(channels, h, w)
    x = columns.t()[:, None].expand(channels, h, w)
    return torch.cat((y, x)).to(features.dtype)
