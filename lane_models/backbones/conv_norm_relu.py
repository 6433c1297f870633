"""The layer that networks are made of: convolution, batch norm, ReLU."""

from __future__ import annotations

from torch import Tensor, nn


class ConvNormReLU(nn.Module):
    """Convolution without bias, batch norm, ReLU: [N, in_channels, H, W] -> [N, channels, H, W]."""

    def __init__(self, in_channels: int, channels: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.conv = nn.Conv2d(in_channels, channels, kernel, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))
