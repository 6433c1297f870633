"""VGG-16 with batch norm (Simonyan & Zisserman 2015) as SCNN uses it: stride 8, last stage dilated."""

from __future__ import annotations

from torch import nn

STAGES = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
"""Convolutions and channels of each stage."""

STRIDE_8 = 3
"""Stages that end in pooling; the classifier's network pools after all five."""


class VGG16(nn.Sequential):
    """[N, 3, H, W] -> [N, 512, H/8, W/8].

    Layers are numbered as in torchvision, with holes where pooling is left out: released weights keep them.
    """

    channels = 512

    def __init__(self) -> None:
        super().__init__()
        index, in_channels = 0, 3
        for stage, (count, channels) in enumerate(STAGES):
            dilation = 2 if stage == len(STAGES) - 1 else 1
            for _ in range(count):
                conv = nn.Conv2d(in_channels, channels, 3, 1, dilation, dilation)
                for layer in (conv, nn.BatchNorm2d(channels), nn.ReLU()):
                    self.add_module(str(index), layer)
                    index += 1
                in_channels = channels
            if stage < STRIDE_8:
                self.add_module(str(index), nn.MaxPool2d(2, 2))
            index += 1
