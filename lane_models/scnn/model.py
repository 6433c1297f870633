"""SCNN's network: features at stride 8, four sequential passes over rows and columns, classes of pixels.

Pan et al., "Spatial As Deep: Spatial CNN for Traffic Scene Understanding", AAAI 2018.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lane_models.backbones.fpn import Pyramid
from lane_models.backbones.resnet import BLOCKS, LastStage, ResNet, initialise
from lane_models.backbones.vgg import VGG16
from lane_models.lane_slots import SLOTS, STRIDE, Existence, Reducer
from lane_models.road_crop import RoadCrop
from lane_models.state_keys import use_official_keys
from selective_focus import Heads

RESNET_KEYS = {
    "backbone.backbone.": "backbone.resnet.",  # of the small variant's pyramid
    "reducer.": "channel_reducer.",
    "message_passing.": "scnn_layer.",
    "classifier.": "classifier.0.conv.",
    "existence.": "lane_classifier.",
}
VGG_KEYS = {
    "backbone.": "encoder.net.",
    "reducer.": "fc67.",
    "message_passing.": "scnn.",
    "classifier.": "fc8.1.",
    "existence.": "lane_classifier.",
}
HARRYHAN618_KEYS = {
    "reducer.": "layer1.",
    "message_passing.conv_d.": "message_passing.up_down.",
    "message_passing.conv_u.": "message_passing.down_up.",
    "message_passing.conv_r.": "message_passing.left_right.",
    "message_passing.conv_l.": "message_passing.right_left.",
    "classifier.": "layer2.1.",
    "existence.linear1.": "fc.0.",
    "existence.linear2.": "fc.2.",
}


@dataclass(frozen=True)
class SCNNConfig:
    """Everything in which SCNN variants differ.

    backbone: r18, r34 (last two stages dilated), vgg16, or pyramid (an r18 of ``width`` with a feature
        pyramid down to stride 8).
    channels: of the message passing.
    keys: official beginnings of state-dict keys, by own ones.
    bias: whether messages have one. last_updated: whether the passes upwards and to the left also update the
        last row and column they come to; pytorch-auto-drive leaves it out, and its weights are used to that.
    cubic: images are resized by OpenCV's bicubic filter (harryhan618), not by Pillow's bilinear one.
    crop: None: the whole frame, as published.
    refine: columns on either side of the most probable one that are averaged; 0: none, as published.
    """

    backbone: str = "r18"
    width: int = 64
    channels: int = 128
    keys: Mapping[str, str] = field(default_factory=lambda: RESNET_KEYS)
    bias: bool = True
    last_updated: bool = False
    cubic: bool = False
    input_size: tuple[int, int] = (288, 800)
    crop: RoadCrop | None = None
    refine: int = 0

    @property
    def map_size(self) -> tuple[int, int]:
        """(h, w) of the features and of the class logits."""
        return self.input_size[0] // STRIDE, self.input_size[1] // STRIDE


class MessagePassing(nn.Module):
    """Each row adds what a convolution says of the row before it; then upwards, right, left: [N, C, h, w].

    Strictly sequential: a row's message depends on the messages it got. Each convolution runs once a row, so
    for quantizers the four passes are one block.
    """

    def __init__(self, channels: int, bias: bool = True, last_updated: bool = False, kernel: int = 9) -> None:
        super().__init__()
        along_rows, along_columns = (1, kernel), (kernel, 1)
        half = kernel // 2
        self.conv_d, self.conv_u = (
            nn.Conv2d(channels, channels, along_rows, padding=(0, half), bias=bias) for _ in range(2)
        )
        self.conv_r, self.conv_l = (
            nn.Conv2d(channels, channels, along_columns, padding=(half, 0), bias=bias) for _ in range(2)
        )
        self.relu = nn.ReLU()
        self.last_updated = last_updated

    def forward(self, x: Tensor) -> Tensor:
        for dim, onward, back in ((2, self.conv_d, self.conv_u), (3, self.conv_r, self.conv_l)):
            slices = list(x.split(1, dim))
            for i in range(1, len(slices)):
                slices[i] = slices[i] + self.relu(onward(slices[i - 1]))
            for i in range(len(slices) - 2, -1 if self.last_updated else 0, -1):
                slices[i] = slices[i] + self.relu(back(slices[i + 1]))
            x = torch.cat(slices, dim)
        return x


class SCNN(nn.Module):
    """[N, 3, H, W] -> heads, for N images and four slots (places of a lane, left to right).

    | head | shape | meaning |
    | --- | --- | --- |
    | pixel_classes | [N, 5, H/8, W/8] | logits: background, then the slots |
    | existence | [N, 4, 1] | logit of each slot to hold a lane; reads the softmax of ``pixel_classes`` |
    """

    def __init__(self, config: SCNNConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.backbone, self.reducer = _features(config)
        self.message_passing = MessagePassing(channels, config.bias, config.last_updated)
        vgg = config.backbone == "vgg16"
        self.dropout = nn.Dropout2d(0.1) if vgg else nn.Identity()
        self.classifier = nn.Conv2d(channels, SLOTS + 1, 1 if vgg else 3, padding=0 if vgg else 1)
        self.softmax = nn.Softmax(dim=1)
        self.existence = Existence(config.map_size)
        for part in (self.backbone, self.reducer):
            initialise(part)
        # The passes add up to hundreds of messages: they start small, or features grow by orders of magnitude.
        for conv in (getattr(self.message_passing, f"conv_{direction}") for direction in "durl"):
            nn.init.normal_(conv.weight, std=(1 / (5 * 9 * channels)) ** 0.5)
        use_official_keys(self, config.keys)

    def forward(self, x: Tensor) -> Heads:
        features = self.message_passing(self.reducer(self.backbone(x)))
        logits = self.classifier(self.dropout(features))
        return {"pixel_classes": logits, "existence": self.existence(self.softmax(logits))}


def _features(config: SCNNConfig) -> tuple[nn.Module, nn.Module]:
    """The network down to stride 8, and what reduces its channels."""
    if config.backbone == "vgg16":
        wide = 1024
        reducer = nn.Sequential(
            nn.Conv2d(VGG16.channels, wide, 3, padding=4, dilation=4, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(),
            nn.Conv2d(wide, config.channels, 1, bias=False),
            nn.BatchNorm2d(config.channels),
            nn.ReLU(),
        )
        return VGG16(), reducer
    if config.backbone == "pyramid":
        pyramid = Pyramid(ResNet(BLOCKS[18], config.width), config.channels)
        return pyramid, Reducer(config.channels, config.channels)
    # The last two stages are dilated: the map stays at stride 8.
    blocks = BLOCKS[int(config.backbone.removeprefix("r"))]
    resnet = LastStage(blocks, dilated=(False, False, True, True))
    return resnet, Reducer(resnet.channels[-1], config.channels)
