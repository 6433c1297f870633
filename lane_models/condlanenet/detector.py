"""CondLaneNet as a ``LaneDetector``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lane_models import checkpoint
from lane_models.backbones.resnet import BasicBlock
from lane_models.backbones.self_attention import SelfAttention
from lane_models.below_sky import in_frame, network_input
from lane_models.condlanenet.decode import decode, dense_lanes, lane_map
from lane_models.condlanenet.model import STRIDE, CondLaneNet, CondLaneNetConfig
from lane_models.key_points import scores
from lane_models.road_crop import RoadCrop
from selective_focus import Lane, LaneDetector

VARIANTS: Mapping[str, CondLaneNetConfig] = {
    "s_r18": CondLaneNetConfig(),
    "m_r34": CondLaneNetConfig(depth=34),
    "synthetic": CondLaneNetConfig(
        width=16, channels=32, input_size=(128, 384), crop=RoadCrop(), grouping=2.0
    ),
}
"""The published networks for CULane; "synthetic" is small, of our own making, and reads the road alone."""


class CondLaneNetDetector(LaneDetector):
    """CondLaneNet: a lane's start gives the kernels that draw it. Heads: see ``CondLaneNet``.

    Paper: Liu et al., "CondLaneNet: a Top-to-down Lane Detection Framework Based on Conditional Convolution",
    ICCV 2021. The official code calls location "mask", offset "reg" and row range "mlp".

    Which lanes there are depends on peaks of the heat map. Heads hold every cell, so those of two networks line up
    whatever peaks each has. In a reconstruction ``foreground`` and the weights of ``geometry`` come from the
    full-precision network: its peaks count for both. In detection each network's own peaks count.

    Reconstruction blocks: those of the ResNet, both layers of attention, the features that kernels are applied
    to, and the row range with the kernels that it applies.
    """

    name = "condlanenet"
    confidence_heads = frozenset({"heat_map"})
    class_axes: Mapping[str, int | None] = {"heat_map": None, "row_range": 1}
    output_layers = ("bbox_head.ctnet_head.hm.2", "bbox_head.ctnet_head.params.2", "bbox_head.mlp.layers.1")

    def __init__(self, variant: str = "s_r18") -> None:
        self.variant = variant
        self.config = VARIANTS[variant]
        self.crop = self.config.crop
        self.input_size = self.config.input_size
        self.model: CondLaneNet = CondLaneNet(self.config).eval()
        kinds = BasicBlock | SelfAttention
        self.reconstruction_blocks = (
            *(name for name, module in self.model.named_modules() if isinstance(module, kinds)),
            "bbox_head.mask_branch",
            "bbox_head.mlp",
        )

    def transform(self, image_bgr: npt.NDArray[np.uint8]) -> Tensor:
        """The rows below the sky in OpenCV's colour order (see ``below_sky``); small variant: see ``RoadCrop``."""
        return network_input(image_bgr, self.input_size, self.crop)

    def decode(
        self, heads: Mapping[str, Tensor], image_size: tuple[int, int] | None = None
    ) -> list[list[Lane]]:
        """Lanes of each image, in the order of their starts (see ``lane_models.condlanenet.decode``)."""
        return decode(heads, self.config, image_size or self.image_size)

    def foreground(self, heads: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A start's probability, [N, 1, h, w] (row range [N, 1, 1, h, w]); for the features see ``lane_map``."""
        start = scores(heads["heat_map"]).detach()
        cells = dict.fromkeys(("heat_map", "location_kernels", "offset_kernels"), start)
        return {**cells, "features": lane_map(heads).detach(), "row_range": start.unsqueeze(2)}

    def geometry(self, heads: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Where the lanes run, differentiably: x in pixels of ``image_size`` at R rows, weights [N, h w, R].

        All cells' lanes, so that those of two networks line up; with the full-precision weights its peaks count.
        """
        columns, weight = dense_lanes(heads)
        corners = np.array([[0.0, 0.0], [STRIDE, STRIDE]])
        first, second = in_frame(corners, self.input_size, self.image_size, self.crop)[:, 0]
        return first + columns * (second - first), weight

    def load_official(self, source: Mapping[str, Any] | str | Path) -> None:
        """Load released weights (a path or a state dict) of this variant, strictly."""
        others = {name: lambda config=config: CondLaneNet(config) for name, config in VARIANTS.items()}
        checkpoint.load_official(self, source, variants=others)
