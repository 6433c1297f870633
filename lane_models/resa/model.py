"""RESA's network: features at stride 8, recurrent shifts along rows and columns, classes of pixels.

Zheng et al., "RESA: Recurrent Feature-Shift Aggregator for Lane Detection", AAAI 2021.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from lane_models.backbones.bottleneck import BLOCKS as BOTTLENECKS
from lane_models.backbones.bottleneck import BottleneckResNet
from lane_models.backbones.fpn import Pyramid
from lane_models.backbones.resnet import BLOCKS, LastStage, ResNet, initialise
from lane_models.lane_slots import SLOTS, STRIDE, Existence, Reducer
from lane_models.road_crop import RoadCrop
from lane_models.state_keys import use_official_keys
from selective_focus import Heads

ALPHA = 2.0
"""Weight of what a shift adds."""
EPS = 1e-3
"""Of the batch norms after the shifts in pytorch-auto-drive."""


@dataclass(frozen=True)
class RESAConfig:
    """Everything in which RESA variants differ.

    depth: of the ResNet. original: the authors' repository, else pytorch-auto-drive.
    channels: of the features that are shifted.
    crop: None: as published; else a small variant: an r18 of ``width`` with a feature pyramid down to stride 8.
    refine: columns on either side of the most probable one that are averaged; 0: none, as published.

    | | pytorch-auto-drive | original |
    | --- | --- | --- |
    | backbone | up to the third stage, dilated | all four, the last two dilated, in both convolutions |
    | shifts each way | 5 | 4 |
    | decoder | learned upsampling to the input's size | a 1x1 convolution, resized afterwards |
    | input | the whole frame | rows 240 to 589 |
    """

    depth: int = 18
    original: bool = False
    width: int = 64
    channels: int = 128
    input_size: tuple[int, int] = (288, 800)
    crop: RoadCrop | None = None
    refine: int = 0

    @property
    def map_size(self) -> tuple[int, int]:
        """(h, w) of the features."""
        return self.input_size[0] // STRIDE, self.input_size[1] // STRIDE


class ShiftAggregator(nn.Module):
    """Every row adds what a convolution says of the row some steps on, in ever larger steps: [N, C, h, w].

    Down, up, right, left, each ``shifts`` times; shift k goes size / 2^(shifts - k) cells, around the edge.
    All rows at once: unlike SCNN's passes a shift is one convolution of the whole map.
    """

    def __init__(self, channels: int, shifts: int, kernel: int = 9) -> None:
        super().__init__()
        half = kernel // 2
        rows, columns = ((1, kernel), (0, half)), ((kernel, 1), (half, 0))
        self.conv_d, self.conv_u, self.conv_r, self.conv_l = (
            nn.ModuleList(
                nn.Conv2d(channels, channels, size, padding=padding, bias=False) for _ in range(shifts)
            )
            for size, padding in (rows, rows, columns, columns)
        )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        ways = ((self.conv_d, 2, -1), (self.conv_u, 2, 1), (self.conv_r, 3, -1), (self.conv_l, 3, 1))
        for convs, dim, sign in ways:
            for k, conv in enumerate(convs):
                step = x.shape[dim] // 2 ** (len(convs) - k)
                x = x + ALPHA * self.relu(conv(x.roll(sign * step, dim)))
        return x


class FactorisedBlock(nn.Module):
    """Two pairs of 3x1 and 1x3 convolutions and a shortcut: [N, C, h, w] -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv3x1_1 = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
        self.relu1 = nn.ReLU()
        self.conv1x3_1 = nn.Conv2d(channels, channels, (1, 3), padding=(0, 1))
        self.bn1 = nn.BatchNorm2d(channels, eps=EPS)
        self.relu2 = nn.ReLU()
        self.conv3x1_2 = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
        self.relu3 = nn.ReLU()
        self.conv1x3_2 = nn.Conv2d(channels, channels, (1, 3), padding=(0, 1))
        self.bn2 = nn.BatchNorm2d(channels, eps=EPS)
        self.relu4 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu2(self.bn1(self.conv1x3_1(self.relu1(self.conv3x1_1(x)))))
        y = self.bn2(self.conv1x3_2(self.relu3(self.conv3x1_2(y))))
        return self.relu4(x + y)


class Upsampler(nn.Module):
    """Twice the size, by a learned path and a resized one, summed: [N, C, h, w] -> [N, channels, 2h, 2w]."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(in_channels, channels, 3, 2, 1, output_padding=1)
        self.bn = nn.BatchNorm2d(channels, eps=EPS)
        self.relu = nn.ReLU()
        self.follows = nn.Sequential(FactorisedBlock(channels), FactorisedBlock(channels))
        self.interpolate_conv = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.interpolate_bn = nn.BatchNorm2d(channels, eps=EPS)
        self.interpolate_relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        fine = self.follows(self.relu(self.bn(self.conv(x))))
        coarse = self.interpolate_relu(self.interpolate_bn(self.interpolate_conv(x)))
        return fine + F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=True)


class UpsamplingDecoder(nn.Module):
    """Features at stride 8 -> class logits at the input's size, [N, 5, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(Upsampler(channels // 2**i, channels // 2 ** (i + 1)) for i in range(3))
        )
        self.output_proj = nn.Conv2d(channels // 8, SLOTS + 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.output_proj(self.layers(x))


class RESA(nn.Module):
    """[N, 3, H, W] -> heads, for N images and four slots (places of a lane, left to right).

    | head | shape | meaning |
    | --- | --- | --- |
    | pixel_classes | [N, 5, H, W], original [N, 5, H/8, W/8] | logits: background, then the slots |
    | existence | [N, 4, 1] | logit of each slot to hold a lane; a branch of its own beside ``pixel_classes`` |
    """

    def __init__(self, config: RESAConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.backbone, wide = _backbone(config)
        self.reducer: nn.Module
        self.decoder: nn.Module
        if config.original:
            self.reducer = nn.Conv2d(wide, channels, 1, bias=False)
            self.decoder = nn.Conv2d(channels, SLOTS + 1, 1)
            self.slot_classes = nn.Sequential(nn.Conv2d(channels, SLOTS + 1, 1))
        else:
            self.reducer = Reducer(wide, channels)
            self.decoder = UpsamplingDecoder(channels)
            self.slot_classes = nn.Sequential(
                nn.Conv2d(channels, 32, 3, padding=4, dilation=4, bias=False),
                nn.BatchNorm2d(32, eps=EPS),
                nn.ReLU(),
                nn.Dropout2d(0.1),
                nn.Conv2d(32, SLOTS + 1, 1),
            )
        self.aggregator = ShiftAggregator(channels, 4 if config.original else 5)
        self.softmax = nn.Softmax(dim=1)
        self.existence = Existence(config.map_size)
        initialise(self)
        # What shifts add, twenty times over, starts small, or features grow by orders of magnitude.
        for conv in (m for m in self.aggregator.modules() if isinstance(m, nn.Conv2d)):
            nn.init.normal_(conv.weight, std=(1 / (5 * 9 * channels)) ** 0.5)
        # At first all classes are about as likely: what reads their probabilities starts calm.
        classes = self.decoder if config.original else self.decoder.output_proj
        for conv in (classes, self.slot_classes[-1]):
            nn.init.normal_(conv.weight, std=0.01)
        # Most slots hold a lane.
        nn.init.constant_(self.existence.linear2.bias, 0.6)
        use_official_keys(self, _original_keys() if config.original else PYTORCH_AUTO_DRIVE_KEYS)

    def forward(self, x: Tensor) -> Heads:
        features = self.aggregator(self.reducer(self.backbone(x)))
        probabilities = self.softmax(self.slot_classes(features))
        return {"pixel_classes": self.decoder(features), "existence": self.existence(probabilities)}


PYTORCH_AUTO_DRIVE_KEYS = {
    "backbone.backbone.": "backbone.resnet.",  # of the small variant's pyramid
    "reducer.": "channel_reducer.",
    "aggregator.": "spatial_conv.",
    "slot_classes.4.": "lane_classifier.layers_final.1.",
    "slot_classes.": "lane_classifier.layers.",
    "existence.": "lane_classifier.",
}


def _original_keys() -> dict[str, str]:
    """Official beginnings of state-dict keys in the authors' repository, by own ones."""
    shifts = {f"aggregator.conv_{way}.{k}.": f"resa.conv_{way}{k}." for way in "durl" for k in range(4)}
    return shifts | {
        "backbone.": "backbone.model.",
        "reducer.": "backbone.out.",
        "decoder.": "decoder.conv8.",
        "slot_classes.0.": "heads.conv8.",
        "existence.linear1.": "heads.fc9.",
        "existence.linear2.": "heads.fc10.",
    }


class _LastBottlenecks(BottleneckResNet):
    """Gives the last stage's map alone."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)[-1]


def _backbone(config: RESAConfig) -> tuple[nn.Module, int]:
    """A network down to stride 8, and its channels."""
    if config.crop is not None:
        return Pyramid(ResNet(BLOCKS[config.depth], config.width), config.channels), config.channels
    if config.depth in BOTTLENECKS:
        deep = _LastBottlenecks(BOTTLENECKS[config.depth], (False, False, True, True))
        return deep, deep.channels[-1]
    if config.original:
        resnet = LastStage(BLOCKS[config.depth], dilated=(False, False, True, True), dilate_both=True)
    else:
        resnet = LastStage(BLOCKS[config.depth][:3], dilated=(False, False, True))
    return resnet, resnet.channels[-1]
