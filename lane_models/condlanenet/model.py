"""CondLaneNet's network: a heat map of where lanes start, kernels for each start, and the map they are applied to.

Liu et al., "CondLaneNet: a Top-to-down Lane Detection Framework Based on Conditional Convolution", ICCV 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lane_models.backbones.conv_norm_relu import ConvNormReLU
from lane_models.backbones.fpn import FPN
from lane_models.backbones.resnet import BLOCKS, ResNet, initialise
from lane_models.backbones.self_attention import AttentionStack
from lane_models.road_crop import RoadCrop
from selective_focus import Heads, MatMul

STRIDE = 8
"""Pixels of the input for a cell of the map on which lanes are drawn; starts are found on cells twice as large."""

RARE = 2.19
"""Logit of a probability of 0.1 that is subtracted from the biases of all kernels, and initially of the heat map."""


@dataclass(frozen=True)
class CondLaneNetConfig:
    """Everything in which variants differ.

    depth: of the ResNet. width: channels of its first stage. channels: of everything behind it.
    crop: None: the rows below the sky, as published. threshold: what a start's score must exceed.
    grouping: starts so near, in cells of 16 px, are of one lane.
    """

    depth: int = 18
    width: int = 64
    channels: int = 64
    input_size: tuple[int, int] = (320, 800)
    crop: RoadCrop | None = None
    threshold: float = 0.5
    grouping: float = 4.0

    @property
    def map_size(self) -> tuple[int, int]:
        """(rows, columns) of the map on which lanes are drawn."""
        return self.input_size[0] // STRIDE, self.input_size[1] // STRIDE


def conditional_maps(
    kernels: Tensor, features: Tensor, product: Callable[[Tensor, Tensor], Tensor] = torch.matmul
) -> Tensor:
    """Kernels [N, P, 2 + C + 1] applied to features [N, C, H, W] at every cell: [N, P, H, W].

    A kernel weighs the column, the row (both in parts of the width: so the official code counts) and the
    features, then adds its last number. product: of the features' weights and the features alone: coordinates are
    below 1 where features may be tens, so one step size would not do for both.
    """
    height, width = features.shape[-2:]
    maps = product(kernels[..., 2:-1], features.flatten(2)).unflatten(-1, (height, width))
    x = torch.arange(width, dtype=maps.dtype, device=maps.device) / width
    y = torch.arange(height, dtype=maps.dtype, device=maps.device)[:, None] / width
    across, down, bias = (kernels[..., i, None, None] for i in (0, 1, -1))
    return maps + across * x + down * y + (bias - RARE)


class Neck(FPN):
    """Stages at strides 8, 16, 32 -> maps of strides 8 and 16, after attention on the coarsest."""

    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        super().__init__((*in_channels[:-1], channels), channels, used=2)
        self.trans_head = AttentionStack(in_channels[-1], channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return super().forward((*features[:-1], self.trans_head(features[-1])))


class RowRange(nn.Module):
    """Kernels [N, P, 2 + C + 1] and features [N, C, H, W] -> logits of each row to be in the lane, [N, 2, P, H].

    Reads a lane's location logits row by row. The official code does so for the starts that it found; here it is
    done for every cell, so that shapes are fixed and two networks' rows line up whatever starts they find.
    """

    def __init__(self, columns: int, channels: int) -> None:
        super().__init__()
        self.apply_kernels = MatMul()
        self.layers = nn.ModuleList((nn.Conv1d(columns, channels, 1), nn.Conv1d(channels, 2, 1)))
        self.relu = nn.ReLU()

    def forward(self, kernels: Tensor, features: Tensor) -> Tensor:
        location = conditional_maps(kernels, features, self.apply_kernels)
        rows = location.permute(0, 3, 1, 2).flatten(2)
        return self.layers[1](self.relu(self.layers[0](rows))).unflatten(2, location.shape[1:3])


class StartHead(nn.Module):
    """Features at stride 16 -> heat map [N, 1, h, w] of lanes' starts, kernels [N, 2 (C + 3), h, w] of each cell."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.hm = _two_convolutions(channels, 1)
        self.params = _two_convolutions(channels, 2 * (channels + 3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.hm(x), self.params(x)


class Head(nn.Module):
    """Maps of strides 8 and 16 -> heads (see ``CondLaneNet``)."""

    def __init__(self, config: CondLaneNetConfig) -> None:
        super().__init__()
        channels = config.channels
        self.ctnet_head = StartHead(channels)
        self.mask_branch = nn.Sequential(*(ConvNormReLU(channels, channels, (3, 3)) for _ in range(3)))
        self.mlp = RowRange(config.map_size[1], channels)

    def forward(self, levels: Sequence[Tensor]) -> Heads:
        fine, coarse = levels
        heat_map, kernels = self.ctnet_head(coarse)
        location, offset = kernels.chunk(2, dim=1)
        features = self.mask_branch(fine)
        ranges = self.mlp(location.flatten(2).transpose(1, 2), features)
        return {
            "heat_map": heat_map,
            "location_kernels": location,
            "offset_kernels": offset,
            "features": features,
            "row_range": ranges.transpose(2, 3).unflatten(3, heat_map.shape[-2:]),
        }


class CondLaneNet(nn.Module):
    """[N, 3, H, W] -> heads, for N images, cells h x w at stride 16, R x S (rows, columns) at stride 8, C channels.

    | head | shape | meaning |
    | --- | --- | --- |
    | heat_map | [N, 1, h, w] | logit: does a lane start in this cell |
    | location_kernels | [N, C + 3, h, w] | of the lane that starts there: weights of x, y, features, and a bias |
    | offset_kernels | [N, C + 3, h, w] | the same for the distance from a column to the lane, in cells |
    | features | [N, C, R, S] | what kernels are applied to: location gives each row's logits over the columns |
    | row_range | [N, 2, R, h, w] | logits of rows to be outside, inside the lane; reads the location's logits |

    Kernels are applied in ``decode``, in floating point, to the starts that the heat map has; for ``row_range``
    they are applied here too, for all cells.
    """

    def __init__(self, config: CondLaneNetConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = ResNet(BLOCKS[config.depth], config.width)
        self.neck = Neck(self.backbone.channels[1:], config.channels)
        self.bbox_head = Head(config)
        initialise(self)
        # At first hardly any cell is a start (Lin et al. 2017, section 4.1), and kernels are near zero.
        for branch in (self.bbox_head.ctnet_head.hm, self.bbox_head.ctnet_head.params):
            nn.init.normal_(branch[-1].weight, std=0.001)
        self.bbox_head.ctnet_head.hm[-1].bias.data.fill_(-RARE)

    def forward(self, x: Tensor) -> Heads:
        heads: Heads = self.bbox_head(self.neck(self.backbone(x)[1:]))
        return heads


def _two_convolutions(channels: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, outputs, 1)
    )
