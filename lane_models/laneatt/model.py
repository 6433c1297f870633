"""LaneATT's network (Tabelini et al., CVPR 2021): features pooled along anchors, attention between
anchors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lane_models.backbones.cifar_resnet import CifarResNet
from lane_models.backbones.fpn import Pyramid
from lane_models.backbones.resnet import BLOCKS, Chain, ResNet, initialise
from lane_models.laneatt.anchors import Anchors, anchor_xs, feature_columns
from lane_models.road_crop import RoadCrop
from selective_focus import Heads, MatMul


@dataclass(frozen=True)
class LaneATTConfig:
    """Everything in which LaneATT variants differ.

    depth: of the ResNet, 18 or 34 (stride 32), or 122 (the one for small images, stride 4).
    width: channels of the ResNet's first stage.
    neck: channels of a feature pyramid down to stride 8; None: the last stage's map is read, as published.
    crop: None: the whole frame is resized, as published.
    keep_anchors: anchors are part of the state dict; the published layout leaves them out.
    score_threshold: a lane's score must be above it. nms_threshold in network pixels.
    """

    anchors: Callable[[], Anchors]
    depth: int = 18
    width: int = 64
    neck: int | None = None
    channels: int = 64
    rows: int = 72
    input_size: tuple[int, int] = (360, 640)
    crop: RoadCrop | None = None
    keep_anchors: bool = False
    score_threshold: float = 0.5
    nms_threshold: float = 50.0
    max_lanes: int = 4

    @property
    def stride(self) -> int:
        """Pixels of the input for one pixel of the feature map."""
        if self.neck is not None:
            return 8
        return 4 if self.depth == 122 else 32


class LaneATT(nn.Module):
    """[N, 3, H, W] -> heads ``classification`` [N, A, 2] (background, lane), ``length`` [N, A, 1] in rows and
    ``offsets`` [N, A, rows] in network pixels from the anchor, row 0 at the bottom.

    State-dict keys are those of the official code.
    """

    anchor_xs: Tensor
    anchors: Tensor
    _cells: Tensor
    _readable: Tensor

    def __init__(self, config: LaneATTConfig) -> None:
        super().__init__()
        self.config = config
        anchors = np.asarray(config.anchors(), dtype=np.float64)
        count, feature_rows = len(anchors), config.input_size[0] // config.stride
        pooled = config.channels * feature_rows
        self.feature_extractor, channels = _backbone(config)
        self.conv1 = nn.Conv2d(channels, config.channels, 1)
        self.cls_layer = nn.Linear(2 * pooled, 2)
        self.reg_layer = nn.Linear(2 * pooled, config.rows + 1)
        self.attention_layer = nn.Linear(pooled, count - 1)
        self.softmax = nn.Softmax(dim=-1)
        self.attend = MatMul()
        initialise(self)
        for layer in (self.conv1, self.cls_layer, self.reg_layer, self.attention_layer):
            nn.init.normal_(layer.weight, std=0.001)
            nn.init.zeros_(layer.bias)
        self.register_buffer("anchors", torch.from_numpy(anchors), persistent=config.keep_anchors)
        self.register_buffer("anchor_xs", torch.empty(count, config.rows), persistent=False)
        self.register_buffer("_cells", torch.empty(count * feature_rows, dtype=torch.long), persistent=False)
        self.register_buffer("_readable", torch.empty(count, feature_rows), persistent=False)
        self.place_anchors(anchors)
        self.register_load_state_dict_post_hook(lambda model, _: model.place_anchors())

    @torch.no_grad()
    def place_anchors(self, anchors: Anchors | None = None) -> None:
        """Take these anchors (as many as now; default: the buffer's) and work out where they read the map."""
        if self.anchor_xs.is_meta:
            return
        if anchors is not None:
            self.anchors.copy_(torch.from_numpy(anchors))
        values = self.anchors.cpu().double().numpy()
        size, stride = self.config.input_size, self.config.stride
        columns, readable = feature_columns(values, size, stride)
        cells = columns + np.arange(columns.shape[1]) * -(-size[1] // stride)
        self.anchor_xs.copy_(torch.from_numpy(anchor_xs(values, self.config.rows, size[1])))
        self._cells.copy_(torch.from_numpy(cells.reshape(-1)))
        self._readable.copy_(torch.from_numpy(readable))

    def forward(self, x: Tensor) -> Heads:
        features = self._attended(self._pool(self.conv1(self.feature_extractor(x))))
        regression = self.reg_layer(features)
        return {
            "classification": self.cls_layer(features),
            "length": regression[..., :1],
            "offsets": regression[..., 1:],
        }

    def _attended(self, pooled: Tensor) -> Tensor:
        """[N, A, F] -> [N, A, 2 F]: beside every anchor's features those of all others, as it attends to them.

        Apart from ``forward`` so that the attention of all pairs is given back before the heads run.
        """
        attention = _insert_diagonal(self.softmax(self.attention_layer(pooled)))
        return torch.cat([self.attend(attention, pooled), pooled], dim=2)

    def _pool(self, features: Tensor) -> Tensor:
        """[N, C, h, w] -> [N, A, C * R]: the map's values along every anchor, from the top, channel by
        channel.
        """
        along = features.flatten(2).index_select(2, self._cells).unflatten(2, self._readable.shape)
        return (along * self._readable).transpose(1, 2).flatten(2)


def _insert_diagonal(attention: Tensor) -> Tensor:
    """[N, A, A - 1], each anchor's attention to the others, -> [N, A, A] with zeros on the diagonal."""
    count = attention.shape[1]
    # Without its first entry, a flat A x A matrix is A - 1 rows of A values followed by one of the diagonal.
    rows = F.pad(attention.flatten(1).unflatten(1, (count - 1, count)), (0, 1))
    return F.pad(rows.flatten(1), (1, 0)).unflatten(1, (count, count))


def _backbone(config: LaneATTConfig) -> tuple[nn.Module, int]:
    """The feature extractor and its number of output channels."""
    if config.depth == 122:
        return CifarResNet(), 64
    resnet = ResNet(BLOCKS[config.depth], config.width)
    if config.neck is not None:
        return Pyramid(resnet, config.neck), config.neck
    return Chain(*resnet.children()), resnet.channels[-1]
