"""DLA-34, deep layer aggregation (Yu et al., CVPR 2018), with the module names of released checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class DLABlock(nn.Module):
    """Two 3x3 convolutions; what is added to their result is the caller's affair."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(x)) + residual)


class Root(nn.Module):
    """Several maps of one size -> one: concatenation, 1x1 convolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def forward(self, *children: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(torch.cat(children, dim=1))))


class Tree(nn.Module):
    """Two blocks joined by a root: [N, C, H, W] -> [N, channels, H/stride, W/stride].

    keep_input: the root also sees the pooled input. extra: channels of further maps that the root is given.
    """

    def __init__(
        self, in_channels: int, channels: int, stride: int, extra: int = 0, keep_input: bool = False
    ) -> None:
        super().__init__()
        self.keep_input = keep_input
        self.tree1 = DLABlock(in_channels, channels, stride)
        self.tree2 = DLABlock(channels, channels)
        self.root = Root(2 * channels + extra + in_channels * keep_input, channels)
        self.downsample = nn.MaxPool2d(stride, stride) if stride > 1 else nn.Identity()
        self.project = _project(in_channels, channels) if in_channels != channels else nn.Identity()

    def forward(self, x: Tensor, *children: Tensor) -> Tensor:
        pooled = self.downsample(x)
        first = self.tree1(x, self.project(pooled))
        second = self.tree2(first, first)
        return self.root(second, first, *((pooled,) if self.keep_input else ()), *children)


class DeepLevel(nn.Module):
    """Two trees; the second one's root also sees the pooled input and the first: halves the size."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.tree1 = Tree(in_channels, channels, 2)
        self.tree2 = Tree(channels, channels, 1, extra=in_channels + channels)
        self.downsample = nn.MaxPool2d(2, 2)
        # Released checkpoints hold it; the official code computes it and uses the result nowhere.
        self.project = _project(in_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        first = self.tree1(x)
        second: Tensor = self.tree2(first, self.downsample(x), first)
        return second


class DLA(nn.Module):
    """DLA-34: [N, 3, H, W] -> the outputs of levels 2 to 5, at strides 4, 8, 16, 32."""

    def __init__(self, channels: Sequence[int] = (16, 32, 64, 128, 256, 512)) -> None:
        super().__init__()
        self.channels = tuple(channels[2:])
        self.base_layer = _conv_norm_relu(3, channels[0], 7, 1)
        self.level0 = _conv_norm_relu(channels[0], channels[0], 3, 1)
        self.level1 = _conv_norm_relu(channels[0], channels[1], 3, 2)
        self.level2 = Tree(channels[1], channels[2], 2)
        self.level3 = DeepLevel(channels[2], channels[3])
        self.level4 = DeepLevel(channels[3], channels[4])
        self.level5 = Tree(channels[4], channels[5], 2, keep_input=True)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.level1(self.level0(self.base_layer(x)))
        outputs = []
        for level in (self.level2, self.level3, self.level4, self.level5):
            x = level(x)
            outputs.append(x)
        return tuple(outputs)


def _project(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels))


def _conv_norm_relu(in_channels: int, channels: int, kernel: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())
