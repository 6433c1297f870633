"""SCNN as a ``LaneDetector``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lane_models import checkpoint, lane_slots
from lane_models.backbones.resnet import BasicBlock
from lane_models.lane_slots import STRIDE
from lane_models.pytorch_auto_drive import MEAN, STD, imagenet_input, new_names
from lane_models.road_crop import RoadCrop
from lane_models.scnn.decode import decode, slot_rules
from lane_models.scnn.model import HARRYHAN618_KEYS, SCNN, VGG_KEYS, SCNNConfig
from selective_focus import Lane, LaneDetector

VARIANTS: Mapping[str, SCNNConfig] = {
    "r18": SCNNConfig(),
    "r34": SCNNConfig(backbone="r34"),
    "vgg16": SCNNConfig(backbone="vgg16", keys=VGG_KEYS),
    "vgg16-harryhan618": SCNNConfig(
        backbone="vgg16", keys=HARRYHAN618_KEYS, bias=False, last_updated=True, cubic=True
    ),
    "synthetic": SCNNConfig(
        backbone="pyramid", width=16, channels=32, input_size=(128, 384), crop=RoadCrop(), refine=STRIDE
    ),
}
"""The published networks for CULane; "synthetic" is small, of our own making, and reads the road alone."""


class SCNNDetector(LaneDetector):
    """SCNN: classes of pixels, and whether each of four slots holds a lane. Heads: see ``SCNN``.

    Paper: Pan et al., "Spatial As Deep: Spatial CNN for Traffic Scene Understanding", AAAI 2018.
    """

    name = "scnn"
    confidence_heads = frozenset({"pixel_classes", "existence"})
    class_axes: Mapping[str, int | None] = {"pixel_classes": 1, "existence": None}
    output_layers = ("classifier", "existence.linear2")

    def __init__(self, variant: str = "r18") -> None:
        self.variant = variant
        self.config = VARIANTS[variant]
        self.crop = self.config.crop
        self.input_size = self.config.input_size
        self.model: SCNN = SCNN(self.config).eval()
        self.reconstruction_blocks = (
            *(name for name, module in self.model.named_modules() if isinstance(module, BasicBlock)),
            "message_passing",
        )

    def transform(self, image_bgr: npt.NDArray[np.uint8]) -> Tensor:
        """Published variants: the whole frame in RGB, ImageNet statistics. Small variant: see ``RoadCrop``."""
        if self.crop is not None:
            return self.crop.normalise(self.crop.cut(image_bgr))
        if not self.config.cubic:
            return imagenet_input(image_bgr, self.input_size)
        image = cv2.resize(image_bgr, self.input_size[::-1], interpolation=cv2.INTER_CUBIC)
        rgb = torch.from_numpy(np.ascontiguousarray(image[..., ::-1])).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        return ((rgb - mean) / std).contiguous()

    def decode(
        self, heads: Mapping[str, Tensor], image_size: tuple[int, int] | None = None
    ) -> list[list[Lane]]:
        """Lanes of each image from left to right (see ``lane_models.lane_slots``)."""
        return decode(heads, self.config, image_size or self.image_size)

    def foreground(self, heads: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every pixel's probability to be lane; 1 for the slots' logits (see ``lane_slots.foreground``)."""
        return lane_slots.foreground(heads)

    def geometry(self, heads: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Where the lanes are, differentiably: x in pixels of ``image_size`` at R rows, weights [N, 4, R]."""
        return lane_slots.geometry(heads, slot_rules(self.config))

    def load_official(self, source: Mapping[str, Any] | str | Path) -> None:
        """Load released weights (a path or a state dict) of this variant, strictly."""
        others = {name: lambda config=config: SCNN(config) for name, config in VARIANTS.items()}
        checkpoint.load_official(self, new_names(source), variants=others)
