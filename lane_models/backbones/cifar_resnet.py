"""The ResNet for small images (He et al. 2016, section 4.2) that LaneATT uses at depth 122: stride 4, 64
channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class CifarBlock(nn.Module):
    """Two 3x3 convolutions; where the size changes, the shortcut skips pixels and pads channels with
    zeros.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.stride = stride
        self.padding = (channels - in_channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.stride != 1 or self.padding:
            shortcut = F.pad(
                x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding)
            )
        x = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(x)) + shortcut)


class CifarResNet(nn.Module):
    """[N, 3, H, W] -> [N, 64, H/4, W/4]; depth = 6 blocks + 2 (20 blocks a stage give ResNet-122)."""

    def __init__(self, blocks: int = 20) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(
                CifarBlock(in_channels, channels, stride),
                *(CifarBlock(channels, channels, 1) for _ in range(blocks - 1)),
            )
            for in_channels, channels, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x)))
