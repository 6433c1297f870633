"""ResNet of basic blocks (He et al. 2016) with torchvision's module names, so that released state dicts fit.

Activations are modules of their own and never in place: quantizers hook them, and cached activations must not
change under a later layer.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
"""Basic blocks in each of the four stages, by depth."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: [N, C, H, W] -> [N, channels, H/stride, W/stride].

    dilation: of the first convolution only (pytorch-auto-drive's reading of a dilated basic block), or of both
    (``dilate_both``; that of the original RESA).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        dilation: int = 1,
        dilate_both: bool = False,
    ) -> None:
        super().__init__()
        second = dilation if dilate_both else 1
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, second, second, bias=False)
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


class Chain(nn.Sequential):
    """A Sequential that runs the Sequentials in it block by block.

    Whoever calls a Sequential holds its input until it has ended: a block would have its stage's input beside its own.
    """

    def forward(self, x: Tensor) -> Tensor:
        for stage in self:
            for block in stage if isinstance(stage, nn.Sequential) else (stage,):
                x = block(x)
        return x


class ResNet(nn.Module):
    """[N, 3, H, W] -> the outputs of the stages, by default at strides 4, 8, 16, 32.

    blocks: basic blocks of each stage (see ``BLOCKS``); three numbers give a network without the last stage.
    width: channels of the stem and the first stage (64 in the paper); each further stage doubles them.
    dilated: of each stage, whether its stride becomes a dilation. As in torchvision the first block of such a
        stage keeps the dilation from before it. dilate_both: see ``BasicBlock``.
    """

    def __init__(
        self,
        blocks: Sequence[int] = BLOCKS[18],
        width: int = 64,
        dilated: Sequence[bool] = (False, False, False, False),
        dilate_both: bool = False,
    ) -> None:
        super().__init__()
        self.channels = tuple(width * 2**i for i in range(len(blocks)))
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.stages = [f"layer{i + 1}" for i in range(len(blocks))]
        in_channels, dilation = width, 1
        for i, (name, channels) in enumerate(zip(self.stages, self.channels, strict=True)):
            before, stride = dilation, 1 if i == 0 or dilated[i] else 2
            dilation *= 2 if dilated[i] else 1
            first = BasicBlock(in_channels, channels, stride, before, dilate_both)
            others = (BasicBlock(channels, channels, 1, dilation, dilate_both) for _ in range(blocks[i] - 1))
            self.add_module(name, nn.Sequential(first, *others))
            in_channels = channels

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        outputs = []
        for name in self.stages:
            x = self.get_submodule(name)(x)
            outputs.append(x)
        return tuple(outputs)


class LastStage(ResNet):
    """A ResNet that gives the last stage's map alone, [N, channels, h, w]."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)[-1]


def initialise(model: nn.Module) -> None:
    """He initialisation of every convolution (fan out) and unit batch norms, for training from scratch."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
