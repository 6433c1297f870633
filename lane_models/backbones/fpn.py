"""Feature pyramid (Lin et al. 2017) as lane detectors use it: biases, no batch norm, no activation."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from lane_models.backbones.resnet import ResNet


class _Conv(nn.Module):
    """A bare convolution under the name ``conv``: the layout that released checkpoints have."""

    def __init__(self, in_channels: int, channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class FPN(nn.Module):
    """Maps of several strides, finest first -> as many maps of ``channels`` channels, finest first.

    1x1 lateral convolutions, top-down sums with nearest upsampling to the finer map's size, 3x3 output
    convolutions.
    outputs: how many of the finest levels to have output convolutions for; default all. used: how many of those
    to give; default all. (Released checkpoints hold convolutions whose results nothing reads.)
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        outputs: int | None = None,
        used: int | None = None,
    ) -> None:
        super().__init__()
        count = len(in_channels) if outputs is None else outputs
        self.used = count if used is None else used
        self.lateral_convs = nn.ModuleList(_Conv(c, channels, 1) for c in in_channels)
        self.fpn_convs = nn.ModuleList(_Conv(channels, channels, 3) for _ in range(count))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        levels = self.merged(features)[: self.used]
        return [conv(x) for conv, x in zip(self.fpn_convs, levels, strict=False)]

    def merged(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The top-down sums, before the output convolutions."""
        merged = [lateral(x) for lateral, x in zip(self.lateral_convs, features, strict=True)]
        for i in range(len(merged) - 1, 0, -1):
            size = merged[i - 1].shape[-2:]
            merged[i - 1] = merged[i - 1] + F.interpolate(merged[i], size=size, mode="nearest")
        return merged


class Pyramid(nn.Module):
    """A ResNet with a feature pyramid on its last three stages; gives the finest map (stride 8)."""

    def __init__(self, resnet: ResNet, channels: int) -> None:
        super().__init__()
        self.backbone = resnet
        self.neck = FPN(resnet.channels[1:], channels, outputs=1)

    def forward(self, x: Tensor) -> Tensor:
        finest: Tensor = self.neck(self.backbone(x)[1:])[0]
        return finest
