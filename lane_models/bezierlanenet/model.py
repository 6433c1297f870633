"""BézierLaneNet's network: ResNet to stride 16, features fused with their mirror image, one query a column.

Feng et al., "Rethinking Efficient Lane Detection via Curve Modeling", CVPR 2022.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lane_models.backbones.conv_norm_relu import ConvNormReLU
from lane_models.backbones.resnet import BLOCKS, ResNet, initialise
from lane_models.deform_conv import DeformConv2d
from lane_models.road_crop import RoadCrop
from lane_models.state_keys import use_official_keys
from selective_focus.detector import Heads

CONTROL_POINTS = 4
"""Of a cubic Bézier curve."""


@dataclass(frozen=True)
class BezierLaneNetConfig:
    """Everything in which variants differ.

    depth: of the ResNet. width: channels of its first stage; the third, which is read, has four times as
        many. crop: None: the whole frame, as published.
    window: queries (columns of 16 px) of which only the best can be a lane. threshold: confidence that a lane
        must exceed. max_lanes: in one image.
    """

    depth: int = 18
    width: int = 64
    input_size: tuple[int, int] = (288, 800)
    crop: RoadCrop | None = None
    window: int = 9
    threshold: float = 0.95
    max_lanes: int = 4


class DilatedBlock(nn.Module):
    """A dilated bottleneck, added to its input without a ReLU after the sum: [N, C, H, W] -> the same."""

    def __init__(self, channels: int, mid_channels: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = _conv_norm_relu(nn.Conv2d(channels, mid_channels, 1))
        self.conv2 = _conv_norm_relu(nn.Conv2d(mid_channels, mid_channels, 3, 1, dilation, dilation))
        self.conv3 = _conv_norm_relu(nn.Conv2d(mid_channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv3(self.conv2(self.conv1(x)))


def _conv_norm_relu(conv: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU())


class FeatureFlipFusion(nn.Module):
    """Adds to each place what lies at the mirrored place, aligned by a deformable convolution.

    Lanes come in pairs about the camera's axis, nearly so: the offsets, predicted from both sides, correct
    the rest. [N, C, H, W] -> the same. Runs in float32 also under autocast: offsets are pixels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj1 = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))
        self.conv_offset = nn.Conv2d(2 * channels, 27, 3, padding=1)
        self.sigmoid = nn.Sigmoid()
        self.proj2_conv = DeformConv2d(channels, channels)
        self.proj2_norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        use_official_keys(self, {"conv_offset.": "proj2_conv.conv_offset."})

    def forward(self, x: Tensor) -> Tensor:
        # Without memory (the device "meta") nothing is computed, and autocast is unknown.
        mixed = not x.is_meta and torch.is_autocast_enabled(x.device.type)
        with torch.autocast(x.device.type, enabled=False) if mixed else nullcontext():
            x = x.float() if mixed else x
            mirrored = x.flip(3)
            own = self.proj1(x)
            moves = self.conv_offset(torch.cat((mirrored, own), dim=1))
            other = self.proj2_conv(mirrored, moves[:, :18], self.sigmoid(moves[:, 18:]))
            return self.relu(own + self.proj2_norm(other))


class ColumnHead(nn.Module):
    """Two convolutions along the columns: [N, C, W] -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.hidden_layers = nn.ModuleList(nn.Conv1d(channels, channels, 3, padding=1) for _ in range(2))
        self.hidden_norms = nn.ModuleList(nn.BatchNorm1d(channels) for _ in range(2))
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm, relu in zip(self.hidden_layers, self.hidden_norms, self.relus, strict=True):
            x = relu(norm(conv(x)))
        return x


class SegmentationHead(nn.Module):
    """Lane or not, per pixel of the feature map: [N, C, H, W] -> logits [N, 1, H, W]. For training only."""

    def __init__(self, channels: int, mid_channels: int) -> None:
        super().__init__()
        self.conv = ConvNormReLU(channels, mid_channels, (3, 3))
        self.conv_out = nn.Conv2d(mid_channels, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.conv(x))


class BezierLaneNet(nn.Module):
    """[N, 3, H, W] -> heads, for N images and Q = W / 16 queries (columns).

    | head | shape | meaning |
    | --- | --- | --- |
    | existence | [N, Q, 1] | logit: is there a lane for this query |
    | control_points | [N, Q, 4, 2] | of a cubic Bézier curve, x and y in parts of the network's image |
    | segmentation | [N, 1, H/16, W/16] | in training mode only: logit of each pixel to be lane |
    """

    def __init__(self, config: BezierLaneNetConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = ResNet(BLOCKS[config.depth][:3], config.width)
        channels = self.backbone.channels[-1]
        self.dilated_blocks = nn.Sequential(*(DilatedBlock(channels, config.width, d) for d in (4, 8)))
        self.simple_flip_2d = FeatureFlipFusion(channels)
        self.regression_head = ColumnHead(channels)
        self.proj_classification = nn.Conv1d(channels, 1, 1)
        self.proj_regression = nn.Conv1d(channels, 2 * CONTROL_POINTS, 1)
        self.segmentation_head = SegmentationHead(channels, config.width)
        initialise(self)
        # As published, the deformable convolution starts as an ordinary one with halved taps. Our choice:
        # curves start as a vertical line in the middle.
        nn.init.zeros_(self.simple_flip_2d.conv_offset.weight)
        line = torch.stack((torch.full((CONTROL_POINTS,), 0.5), torch.linspace(1, 0, CONTROL_POINTS)), dim=1)
        self.proj_regression.bias.data.copy_(line.flatten())

    def forward(self, x: Tensor) -> Heads:
        features = self.backbone(x)[-1]
        fused = self.simple_flip_2d(self.dilated_blocks(features))
        columns = self.regression_head(fused.mean(dim=2))
        heads = {
            "existence": self.proj_classification(columns).transpose(1, 2),
            "control_points": self.proj_regression(columns).transpose(1, 2).unflatten(2, (CONTROL_POINTS, 2)),
        }
        if self.training:
            heads["segmentation"] = self.segmentation_head(features)
        return heads
