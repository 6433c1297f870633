"""GANet as a ``LaneDetector``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lane_models import checkpoint
from lane_models.backbones.resnet import BasicBlock
from lane_models.backbones.self_attention import SelfAttention
from lane_models.below_sky import in_frame, network_input
from lane_models.ganet.decode import at_points, decode, key_points
from lane_models.ganet.model import STRIDE, GANet, GANetConfig
from lane_models.key_points import scores
from lane_models.road_crop import RoadCrop
from selective_focus import Lane, LaneDetector

VARIANTS: Mapping[str, GANetConfig] = {
    "s_r18": GANetConfig(),
    "m_r34": GANetConfig(depth=34),
    "synthetic": GANetConfig(
        width=16, channels=32, wide=64, input_size=(128, 384), crop=RoadCrop(), radius=2.0, least=2
    ),
}
"""The published networks for CULane; "synthetic" is small, of our own making, and reads the road alone."""


class GANetDetector(LaneDetector):
    """GANet: key points of lanes, each with the start of its lane. Heads: see ``GANet``.

    Paper: Wang et al., "A Keypoint-based Global Association Network for Lane Detection", CVPR 2022.

    Which points there are depends on peaks of the heat map. Heads hold every cell, so those of two networks line up
    whatever peaks each has. In a reconstruction ``foreground`` and the weights of ``geometry`` come from the
    full-precision network: its peaks count for both. In detection each network's own peaks count.

    Reconstruction blocks: those of the ResNet, both layers of attention, and the aggregator.
    """

    name = "ganet"
    confidence_heads = frozenset({"keypoint_map", "root_map"})
    class_axes: Mapping[str, int | None] = {"keypoint_map": None, "root_map": None}
    output_layers = (
        "bbox_head.keypts_head.hm.2",
        "bbox_head.centerpts_head.hm.2",
        "bbox_head.offset_head.offset_map.2",
        "bbox_head.reg_head.offset_map.2",
    )

    def __init__(self, variant: str = "s_r18") -> None:
        self.variant = variant
        self.config = VARIANTS[variant]
        self.crop = self.config.crop
        self.input_size = self.config.input_size
        self.model: GANet = GANet(self.config).eval()
        kinds = BasicBlock | SelfAttention
        self.reconstruction_blocks = (
            *(name for name, module in self.model.named_modules() if isinstance(module, kinds)),
            "neck.def_convs.0",
        )

    def transform(self, image_bgr: npt.NDArray[np.uint8]) -> Tensor:
        """The rows below the sky in OpenCV's colour order (see ``below_sky``); small variant: see ``RoadCrop``."""
        return network_input(image_bgr, self.input_size, self.crop)

    def decode(
        self, heads: Mapping[str, Tensor], image_size: tuple[int, int] | None = None
    ) -> list[list[Lane]]:
        """Lanes of each image, in the order of their topmost points (see ``lane_models.ganet.decode``)."""
        return decode(heads, self.config, image_size or self.image_size)

    def foreground(self, heads: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The probability of a key point in every cell, [N, 1, h, w]; of a root for the roots' heat map."""
        point = scores(heads["keypoint_map"]).detach()
        weights = dict.fromkeys(("keypoint_map", "root_offsets", "cell_offsets"), point)
        return {**weights, "root_map": scores(heads["root_map"]).detach()}

    def geometry(self, heads: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Where key points are, differentiably: x and y in pixels of ``image_size``, and weights, [N, h w, 2].

        All cells' points, so that those of two networks line up. The weight, without gradient, is the cell's score
        where it is a peak: with the full-precision weights its peaks count.
        """
        corners = in_frame(
            np.array([[0.0, 0.0], [STRIDE, STRIDE]]), self.input_size, self.image_size, self.crop
        )
        first, second = torch.from_numpy(corners).to(heads["cell_offsets"])
        points = at_points(heads, "cell_offsets").flatten(2).transpose(1, 2)
        coordinates = first + points * (second - first)
        weight = key_points(heads).flatten(2).transpose(1, 2)
        return coordinates, weight.detach().expand_as(coordinates)

    def load_official(self, source: Mapping[str, Any] | str | Path) -> None:
        """Load released weights (a path or a state dict) of this variant, strictly."""
        others = {name: lambda config=config: GANet(config) for name, config in VARIANTS.items()}
        checkpoint.load_official(self, source, variants=others)
