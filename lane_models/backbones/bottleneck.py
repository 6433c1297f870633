"""ResNet of bottleneck blocks (He et al. 2016; depth 50 and more) with torchvision's module names."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Bottleneck blocks in each of the four stages, by depth."""

EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3 (with stride and dilation), 1x1 and a shortcut: [N, C, H, W] -> [N, 4 channels, H/stride, W/stride]."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(channels, EXPANSION * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(EXPANSION * channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != EXPANSION * channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, EXPANSION * channels, 1, stride, bias=False),
                nn.BatchNorm2d(EXPANSION * channels),
            )
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        return self.relu3(self.bn3(self.conv3(x)) + shortcut)


class BottleneckResNet(nn.Module):
    """[N, 3, H, W] -> the outputs of the four stages, by default at strides 4, 8, 16, 32 (256 to 2048 channels).

    dilated: of each stage, whether its stride becomes a dilation (see ``lane_models.backbones.resnet``).
    """

    def __init__(
        self,
        blocks: Sequence[int] = BLOCKS[101],
        dilated: Sequence[bool] = (False, False, False, False),
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.channels = tuple(EXPANSION * 64 * 2**i for i in range(4))
        in_channels, dilation = 64, 1
        stages = []
        for i, (channels, count) in enumerate(zip(self.channels, blocks, strict=True)):
            before, stride = dilation, 1 if i == 0 or dilated[i] else 2
            dilation *= 2 if dilated[i] else 1
            first = Bottleneck(in_channels, channels // EXPANSION, stride, before)
            others = (Bottleneck(channels, channels // EXPANSION, 1, dilation) for _ in range(count - 1))
            stages.append(nn.Sequential(first, *others))
            in_channels = channels
        self.layer1, self.layer2, self.layer3, self.layer4 = stages

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        outputs = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            outputs.append(x)
        return tuple(outputs)
