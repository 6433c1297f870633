"""RESA as a ``LaneDetector``."""

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
from lane_models.backbones.bottleneck import Bottleneck
from lane_models.backbones.resnet import BasicBlock
from lane_models.lane_slots import STRIDE
from lane_models.pytorch_auto_drive import imagenet_input, new_names
from lane_models.resa.decode import CUT_HEIGHT, decode, slot_rules
from lane_models.resa.model import RESA, RESAConfig, Upsampler
from lane_models.road_crop import FRAME, RoadCrop
from selective_focus import Lane, LaneDetector

MEAN_BGR = (103.939, 116.779, 123.68)
"""Of the original, in 0..255; it divides by nothing."""

VARIANTS: Mapping[str, RESAConfig] = {
    "r18": RESAConfig(),
    "r34": RESAConfig(depth=34),
    "zju_r34": RESAConfig(depth=34, original=True),
    "zju_r50": RESAConfig(depth=50, original=True),
    "synthetic": RESAConfig(width=16, channels=32, input_size=(128, 384), crop=RoadCrop(), refine=STRIDE),
}
"""The published networks for CULane: pytorch-auto-drive's, and those of the authors' repository.
"synthetic" is small, of our own making, and reads the road alone."""


class RESADetector(LaneDetector):
    """RESA: classes of pixels, and whether each of four slots holds a lane. Heads: see ``RESA``.

    Paper: Zheng et al., "RESA: Recurrent Feature-Shift Aggregator for Lane Detection", AAAI 2021.

    Reconstruction blocks: those of the ResNet, the aggregator, and each doubling of the decoder.
    """

    name = "resa"
    confidence_heads = frozenset({"pixel_classes", "existence"})
    class_axes: Mapping[str, int | None] = {"pixel_classes": 1, "existence": None}

    def __init__(self, variant: str = "r18") -> None:
        self.variant = variant
        self.config = VARIANTS[variant]
        self.crop = self.config.crop
        self.input_size = self.config.input_size
        self.model: RESA = RESA(self.config).eval()
        classes = "decoder" if self.config.original else "decoder.output_proj"
        self.output_layers = (classes, "existence.linear2")
        kinds = BasicBlock | Bottleneck | Upsampler
        self.reconstruction_blocks = (
            *(name for name, module in self.model.named_modules() if isinstance(module, kinds)),
            "aggregator",
        )

    def transform(self, image_bgr: npt.NDArray[np.uint8]) -> Tensor:
        """pytorch-auto-drive: see ``imagenet_input``. Original: the rows below the sky, bicubic, BGR, less the mean."""
        if self.crop is not None:
            return self.crop.normalise(self.crop.cut(image_bgr))
        if not self.config.original:
            return imagenet_input(image_bgr, self.input_size)
        top = round(CUT_HEIGHT * image_bgr.shape[0] / FRAME[0])
        road = image_bgr[top:].astype(np.float32)
        image = cv2.resize(road, self.input_size[::-1], interpolation=cv2.INTER_CUBIC)
        return torch.from_numpy(image - np.float32(MEAN_BGR)).permute(2, 0, 1).contiguous()

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
        others = {name: lambda config=config: RESA(config) for name, config in VARIANTS.items()}
        checkpoint.load_official(self, new_names(source), variants=others)
