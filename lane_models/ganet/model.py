"""GANet's network: a heat map of key points and their offsets to the start of the lane that they are of.

Wang et al., "A Keypoint-based Global Association Network for Lane Detection", CVPR 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lane_models.backbones.fpn import FPN
from lane_models.backbones.resnet import BLOCKS, ResNet, initialise
from lane_models.backbones.self_attention import AttentionStack
from lane_models.deform_conv import DeformConv2d
from lane_models.road_crop import RoadCrop
from selective_focus import Heads

STRIDE = 8
"""Pixels of the input for a cell of the maps."""

RARE = 2.19
"""Initial logit, but for the sign, of networks that are to be trained: a probability of 0.1."""

SAMPLES = (7, 5, 3)
"""Points that an aggregator reads on each level; the last two levels' never run."""


@dataclass(frozen=True)
class GANetConfig:
    """Everything in which variants differ.

    depth: of the ResNet. width: channels of its first stage. channels, wide: of the pyramid, of the aggregator.
    crop: None: the rows below the sky, as published. threshold: what a key point's score must exceed.
    radius: key points whose starts are so near, in cells, are of one lane. least: a lane has more points than that.
    """

    depth: int = 18
    width: int = 64
    channels: int = 64
    wide: int = 256
    input_size: tuple[int, int] = (320, 800)
    crop: RoadCrop | None = None
    threshold: float = 0.4
    radius: float = 3.0
    least: int = 10

    @property
    def map_size(self) -> tuple[int, int]:
        """(h, w) of all heads."""
        return self.input_size[0] // STRIDE, self.input_size[1] // STRIDE


class ConvReLU(nn.Module):
    """3x3 convolution with bias, ReLU: [N, in_channels, h, w] -> [N, channels, h, w]."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv(x))


class LaneAggregator(nn.Module):
    """Each cell reads the features at points that it predicts to lie on its lane: [N, C, h, w] -> the same.

    The deformable convolution has a row of taps; the predicted points replace them, in cells from the cell itself.
    """

    def __init__(self, channels: int, wide: int, points: int) -> None:
        super().__init__()
        self.cls_convs, self.reg_convs = (
            nn.Sequential(ConvReLU(channels, wide), *(ConvReLU(wide, wide) for _ in range(2)))
            for _ in range(2)
        )
        self.reppoints_cls_conv = DeformConv2d(wide, channels, (1, points), bias=False)
        self.reppoints_pts_init_conv = nn.Conv2d(wide, channels, 3, padding=1)
        self.points_relu = nn.ReLU()
        self.reppoints_pts_init_out = nn.Conv2d(channels, 2 * points, 1)
        # Released checkpoints hold these two; nothing calls them.
        self.reppoints_pts_refine_conv = DeformConv2d(wide, channels, (1, points), bias=False)
        self.reppoints_pts_refine_out = nn.Conv2d(channels, 2 * points, 1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        points = self.reppoints_pts_init_out(
            self.points_relu(self.reppoints_pts_init_conv(self.reg_convs(x)))
        )
        return self.relu(self.reppoints_cls_conv(self.cls_convs(x), points - self._taps(points)))

    def _taps(self, points: Tensor) -> Tensor:
        """Where the taps are without offsets, [2 K, 1, 1]: dy, dx of each."""
        count = points.shape[1] // 2
        across = torch.arange(count, dtype=points.dtype, device=points.device) - count // 2
        return torch.stack((torch.zeros_like(across), across), dim=1).reshape(-1, 1, 1)


class Neck(FPN):
    """Stages at strides 8, 16, 32 -> two maps at stride 8: before and after aggregation along the lanes.

    The aggregators and output convolutions of the coarser levels are part of released checkpoints; their results
    are used nowhere, so they do not run.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, wide: int) -> None:
        super().__init__((*in_channels[:-1], channels), channels)
        self.trans_head = AttentionStack(in_channels[-1], channels)
        self.def_convs = nn.ModuleList(LaneAggregator(channels, wide, points) for points in SAMPLES)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        finest = self.merged((*features[:-1], self.trans_head(features[-1])))[0]
        return [finest, self.fpn_convs[0](self.def_convs[0](finest))]


class HeatMap(nn.Module):
    """Two convolutions under the official name: [N, C, h, w] -> logits [N, 1, h, w]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.hm = _two_convolutions(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.hm(x)


class OffsetMap(nn.Module):
    """The same for offsets: [N, C, h, w] -> [N, 2, h, w], dx then dy in cells."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.offset_map = _two_convolutions(channels, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.offset_map(x)


class Head(nn.Module):
    """Maps before and after aggregation -> heads (see ``GANet``)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.centerpts_head, self.keypts_head = HeatMap(channels), HeatMap(channels)
        self.offset_head, self.reg_head = OffsetMap(channels), OffsetMap(channels)

    def forward(self, levels: Sequence[Tensor]) -> Heads:
        plain, aggregated = levels
        return {
            "keypoint_map": self.keypts_head(aggregated),
            "root_map": self.centerpts_head(aggregated),
            "root_offsets": self.offset_head(plain),
            "cell_offsets": self.reg_head(plain),
        }


class GANet(nn.Module):
    """[N, 3, H, W] -> heads, for N images and cells h x w at stride 8.

    | head | shape | meaning |
    | --- | --- | --- |
    | keypoint_map | [N, 1, h, w] | logit: is there a point of a lane in this cell |
    | root_map | [N, 1, h, w] | logit: does a lane start here; decoding for CULane does not read it |
    | root_offsets | [N, 2, h, w] | dx, dy in cells from a key point to the start of its lane |
    | cell_offsets | [N, 2, h, w] | dx, dy in cells from the cell to the key point itself |
    """

    def __init__(self, config: GANetConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = ResNet(BLOCKS[config.depth], config.width)
        self.neck = Neck(self.backbone.channels[1:], config.channels, config.wide)
        self.bbox_head = Head(config.channels)
        initialise(self)
        # At first hardly any cell holds a point (Lin et al. 2017, section 4.1), and points are in their cells' middles.
        head = self.bbox_head
        heat_maps = (head.centerpts_head.hm, head.keypts_head.hm)
        for branch in (*heat_maps, head.offset_head.offset_map, head.reg_head.offset_map):
            nn.init.normal_(branch[-1].weight, std=0.001)
        for branch in heat_maps:
            branch[-1].bias.data.fill_(-RARE)
        head.reg_head.offset_map[-1].bias.data.fill_(0.5)
        nn.init.normal_(self.neck.def_convs[0].reppoints_pts_init_out.weight, std=0.001)

    def forward(self, x: Tensor) -> Heads:
        heads: Heads = self.bbox_head(self.neck(self.backbone(x)[1:]))
        return heads


def _two_convolutions(channels: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, outputs, 1)
    )
