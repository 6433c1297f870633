"""CLRNet's network (Zheng et al., CVPR 2022): 192 lane priors, refined three times from coarse to fine maps.

State-dict keys and buffers are those of the official code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lane_models.backbones.bottleneck import BottleneckResNet
from lane_models.backbones.conv_norm_relu import ConvNormReLU
from lane_models.backbones.dla import DLA
from lane_models.backbones.fpn import FPN
from lane_models.backbones.resnet import BLOCKS, ResNet, initialise
from lane_models.clrnet.priors import initial_priors, line_xs, sample
from lane_models.road_crop import RoadCrop
from lane_models.state_keys import use_official_keys
from selective_focus import Heads, MatMul

STAGES = 3
"""Refinements, on the maps of strides 32, 16 and 8."""


RARE = 1.5
"""Initial logits of a network that is to be trained: a lane score of 0.05."""


@dataclass(frozen=True)
class CLRNetConfig:
    """Everything in which CLRNet variants differ.

    backbone: r18, r34, r101 or dla34. width: channels of the first stage (of r18 and r34).
    channels: of the pyramid and the head. mid_channels: of the convolutions along a prior.
    priors: how many lanes are proposed. samples: places along a prior where features are read.
    classes: of the segmentation that accompanies training.
    cut_height: rows of a 590-row frame that are cut off the top. crop: replaces it in the small variant.
    score_threshold: least score of a lane. nms_threshold in network pixels.
    """

    backbone: str = "r18"
    width: int = 64
    channels: int = 64
    mid_channels: int = 48
    priors: int = 192
    samples: int = 36
    rows: int = 72
    classes: int = 5
    input_size: tuple[int, int] = (320, 800)
    cut_height: int = 270
    crop: RoadCrop | None = None
    score_threshold: float = 0.4
    nms_threshold: float = 50.0
    max_lanes: int = 4


class ScalePerPrior(nn.Conv1d):
    """[N, P, C] -> the same, each prior times a weight of its own plus a bias.

    In released weights a 1x1 convolution in P groups, which PyTorch runs group by group.
    """

    def __init__(self, priors: int) -> None:
        super().__init__(priors, priors, 1, groups=priors)

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        return x * self.weight[:, :, 0] + self.bias[:, None]


class ROIGather(nn.Module):
    """Features along the priors, of all stages so far, and what the whole map adds to them.

    ``forward(along, features)``: ``along`` lists the stages' features after ``convs``, [N, mid, K, P] each,
    features [N, C, H, W] is this stage's map; gives [N, P, C].
    """

    def __init__(self, config: CLRNetConfig) -> None:
        super().__init__()
        channels, mid, priors = config.channels, config.mid_channels, config.priors
        # Attention reads the map at the size of the coarsest one.
        self.size = (config.input_size[0] // 32, config.input_size[1] // 32)
        self.f_key = ConvNormReLU(channels, channels, (1, 1))
        self.f_query = nn.Sequential(ScalePerPrior(priors), nn.ReLU())
        self.f_value = nn.Conv2d(channels, channels, 1)
        self.W = ScalePerPrior(priors)
        self.convs = nn.ModuleList(ConvNormReLU(channels, mid, (9, 1)) for _ in range(STAGES))
        self.catconv = nn.ModuleList(ConvNormReLU(mid * (i + 1), channels, (9, 1)) for i in range(STAGES))
        self.fc = nn.Linear(config.samples * channels, channels)
        self.fc_norm = nn.LayerNorm(channels)
        self.relu = nn.ReLU()
        self.compare = MatMul()
        self.softmax = nn.Softmax(dim=-1)
        self.attend = MatMul()
        self.dropout = nn.Dropout(0.1)
        nn.init.zeros_(self.W.weight)
        nn.init.zeros_(self.W.bias)  # type: ignore[arg-type]

    def forward(self, along: Sequence[Tensor], features: Tensor) -> Tensor:
        joined = self.catconv[len(along) - 1](torch.cat(list(along), dim=1))
        own = self.relu(self.fc_norm(self.fc(joined.flatten(1, 2).transpose(1, 2))))
        key, value = (
            F.interpolate(x, self.size, mode="nearest").flatten(2)
            for x in (self.f_key(features), self.f_value(features))
        )
        likeness = self.compare(self.f_query(own), key) * own.shape[-1] ** -0.5
        context = self.attend(self.softmax(likeness), value.transpose(1, 2))
        return own + self.dropout(self.W(context))


class SegmentationHead(nn.Module):
    """Class logits [N, classes, H, W] at stride 8 from all maps together. For training only."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(0.1)
        self.conv = nn.Conv2d(channels, classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        size = features[-1].shape[-2:]
        resized = [F.interpolate(x, size, mode="bilinear", align_corners=False) for x in features]
        return self.conv(self.dropout(torch.cat(resized, dim=1)))


class CLRHead(nn.Module):
    """Maps of strides 8, 16, 32 -> heads (see ``CLRNet``).

    Its layers run once a stage with the same weights, so for quantizers the head is one block.
    In eval mode the priors are read from buffers: released weights hold them as they were one optimizer step
    before the embedding, and give their published result with those only.
    """

    sample_x_indexs: Tensor
    prior_feat_ys: Tensor
    prior_ys: Tensor
    priors: Tensor
    priors_on_featmap: Tensor

    def __init__(self, config: CLRNetConfig) -> None:
        super().__init__()
        self.config = config
        channels, strips = config.channels, config.rows - 1
        index = (torch.linspace(0, 1, config.samples) * strips).long()
        self.register_buffer("sample_x_indexs", index)
        self.register_buffer("prior_feat_ys", (1 - index.float() / strips).flip(0))
        self.register_buffer("prior_ys", torch.linspace(1, 0, config.rows))
        self.register_buffer("priors", torch.zeros(config.priors, 6 + config.rows))
        self.register_buffer("priors_on_featmap", torch.zeros(config.priors, config.samples))
        self.prior_embeddings = nn.Embedding(config.priors, 3)
        self.prior_embeddings.weight.data.copy_(initial_priors(config.priors))
        self.seg_decoder = SegmentationHead(STAGES * channels, config.classes)
        self.reg_modules, self.cls_modules = (_tower(channels) for _ in range(2))
        self.roi_gather = ROIGather(config)
        self.reg_layers = nn.Linear(channels, config.rows + 4)
        self.cls_layers = nn.Linear(channels, 2)
        # Held for its ``weight``, part of released weights; ``loss.py`` reads that.
        self.criterion = nn.NLLLoss(weight=torch.tensor([0.4] + [1.0] * (config.classes - 1)))
        self.learned_priors()

    def learned_priors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Start [P, 2], angle [P, 1] and xs at the sampled rows [P, K] of the embedding, kept in the buffers."""
        start, angle = self.prior_embeddings.weight.split((2, 1), dim=1)
        xs = line_xs(start, angle, self.prior_ys, self.config.input_size)
        with torch.no_grad():
            self.priors[:, 2:5].copy_(self.prior_embeddings.weight)
            self.priors[:, 6:].copy_(xs)
            self.priors_on_featmap.copy_(xs[:, self.sample_x_indexs])
        return start, angle, xs[:, self.sample_x_indexs]

    def stored_priors(self) -> tuple[Tensor, Tensor, Tensor]:
        """The same three from the buffers."""
        return self.priors[:, 2:4], self.priors[:, 4:5], self.priors_on_featmap

    def forward(self, features: Sequence[Tensor]) -> Heads:
        priors = self.learned_priors() if self.training else self.stored_priors()
        start, angle, xs = (part.expand(len(features[0]), -1, -1) for part in priors)
        along: list[Tensor] = []
        stages: list[Heads] = []
        for conv, level in zip(self.roi_gather.convs, reversed(features), strict=True):
            along.append(conv(sample(level, xs.flip(-1), self.prior_feat_ys)))
            stages.append(self._refine(self.roi_gather(along, level), start, angle))
            start, angle = stages[-1]["start"], stages[-1]["angle"]
            if (
                self.training
            ):  # published training; in eval mode whoever asks for gradients gets the whole ones
                start, angle = start.detach(), angle.detach()
            xs = self.lines(start, angle)[..., self.sample_x_indexs]
        if not self.training:
            return stages[-1]
        every = torch.stack([torch.cat(list(stage.values()), dim=-1) for stage in stages], dim=1)
        maps = list(reversed(features))
        return {**stages[-1], "stages": every, "segmentation": self.seg_decoder(maps)}

    def _refine(self, x: Tensor, start: Tensor, angle: Tensor) -> Heads:
        logits = self.cls_layers(self.cls_modules(x))
        regression = self.reg_layers(self.reg_modules(x))
        return {
            "classification": logits,
            "start": start + regression[..., :2],
            "angle": angle + regression[..., 2:3],
            "length": regression[..., 3:4],
            "offsets": regression[..., 4:],
        }

    def lines(self, start: Tensor, angle: Tensor) -> Tensor:
        """The straight lines' x at every row, [..., R], bottom row first, in parts of (width - 1)."""
        ys = self.prior_ys.to(start)
        return line_xs(start, angle, ys, self.config.input_size)


class CLRNet(nn.Module):
    """[N, 3, H, W] -> heads, for N images, P priors and R = 72 rows.

    | head | shape | meaning |
    | --- | --- | --- |
    | classification | [N, P, 2] | logits: background, lane |
    | start | [N, P, 2] | y (0 bottom edge .. 1 top edge) and x (0 left .. 1 right) of the lane's lower end |
    | angle | [N, P, 1] | of the straight line from there, in parts of pi: 0.5 is upright, less leans right |
    | length | [N, P, 1] | in parts of the R - 1 strips between rows |
    | offsets | [N, P, R] | from the line, in parts of (width - 1); row 0 at the bottom |
    | stages | [N, 3, P, 6 + R] | in training mode only: the five above of all stages, side by side |
    | segmentation | [N, classes, H/8, W/8] | in training mode only: logits |
    """

    def __init__(self, config: CLRNetConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = _backbone(config)
        self.neck = FPN(self.backbone.channels[1:], config.channels)
        self.heads = CLRHead(config)
        initialise(self.backbone)
        for conv in (layer for layer in self.neck.modules() if isinstance(layer, nn.Conv2d)):
            nn.init.xavier_uniform_(conv.weight)
        for layer in (self.heads.cls_layers, self.heads.reg_layers):
            nn.init.normal_(layer.weight, std=0.001)
            nn.init.zeros_(layer.bias)
        # Ours: at first hardly any prior is a lane (Lin et al. 2017, section 4.1).
        self.heads.cls_layers.bias.data.copy_(torch.tensor([RARE, -RARE]))
        use_official_keys(self, {"backbone.": "backbone.model."})

    def forward(self, x: Tensor) -> Heads:
        heads: Heads = self.heads(self.neck(self.backbone(x)[1:]))
        return heads


def _tower(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU())


def _backbone(config: CLRNetConfig) -> ResNet | BottleneckResNet | DLA:
    if config.backbone == "dla34":
        return DLA()
    if config.backbone == "r101":
        return BottleneckResNet()
    return ResNet(BLOCKS[int(config.backbone.removeprefix("r"))], config.width)
