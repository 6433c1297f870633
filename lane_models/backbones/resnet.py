"""ResNet of basic blocks (He et al. 2016) with torchvision's module names, so that released state dicts fit.

Activations are modules of their own and never in place: quantizers hook them, and cached activations must not change
under a later layer.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
"""Basic blocks in each of the four stages, by depth."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: [N, C, H, W] -> [N, channels, H/stride, W/stride].

    With a dilation both convolutions are dilated (as in semantic segmentation backbones).
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(x)) + shortcut)


def stage(in_channels: int, channels: int, blocks: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """A row of basic blocks; only the first changes size and channels."""
    first = BasicBlock(in_channels, channels, stride, dilation)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1, dilation) for _ in range(blocks - 1)))


class ResNet(nn.Module):
    """[N, 3, H, W] -> the four stages' outputs, by default at strides 4, 8, 16, 32 with width x 1, 2, 4, 8 channels.

    blocks: basic blocks a stage (see ``BLOCKS``). width: channels of the stem and first stage (64 in the paper).
    strides, dilations: of each stage; segmentation models use strides (1, 2, 1, 1) with dilations (1, 1, 2, 4).
    """

    def __init__(
        self,
        blocks: Sequence[int] = BLOCKS[18],
        width: int = 64,
        strides: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
    ) -> None:
        super().__init__()
        self.channels = tuple(width * 2**i for i in range(4))
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = (width, *self.channels[:3])
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            stage(*shape) for shape in zip(inputs, self.channels, blocks, strides, dilations, strict=True)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        c2 = self.layer1(x)
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        return c2, c3, c4, self.layer4(c4)


def initialise(model: nn.Module) -> None:
    """He initialisation of every convolution (fan out) and unit batch norms, for training from scratch."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def residual_blocks(model: nn.Module) -> tuple[str, ...]:
    """The names of the basic blocks inside a model, in the order in which they run."""
    return tuple(name for name, module in model.named_modules() if isinstance(module, BasicBlock))
