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

from lane_models import checkpoint
from lane_models.backbones.resnet import BasicBlock
from lane_models.pytorch_auto_drive import MEAN, STD, imagenet_input
from lane_models.road_crop import FRAME, RoadCrop
from lane_models.scnn.decode import class_logits, decode, sampled_rows
from lane_models.scnn.model import HARRYHAN618_KEYS, SCNN, STRIDE, VGG_KEYS, SCNNConfig
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
        """Lanes of each image from left to right (see ``lane_models.scnn.decode``)."""
        return decode(heads, self.config, image_size or self.image_size)

    def foreground(self, heads: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every pixel's probability to be lane, [N, 1, h, w]; 1 for the slots' logits, which have no background."""
        return {
            "pixel_classes": 1 - heads["pixel_classes"].detach().softmax(dim=1)[:, :1],
            "existence": torch.ones_like(heads["existence"]),
        }

    def geometry(self, heads: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Where the lanes are, differentiably: x in pixels of ``image_size`` at R rows, weights [N, 4, R].

        x is the mean column of a slot's probabilities about the most probable one. The weight, without
        gradient, is the slot's probability times the row's highest.
        """
        rows, _ = sampled_rows(self.config)
        lines = class_logits(heads, self.config).softmax(dim=1)[:, 1:, rows]
        column = torch.arange(lines.shape[-1], dtype=lines.dtype, device=lines.device)
        near = (column - lines.argmax(dim=-1, keepdim=True)).abs() <= STRIDE
        share = lines * near
        mean = (share * column).sum(dim=-1) / share.sum(dim=-1).clamp(min=1e-12)
        weight = (heads["existence"].sigmoid() * lines.amax(dim=-1)).detach()
        return mean * (FRAME[1] / self.input_size[1]), weight

    def load_official(self, source: Mapping[str, Any] | str | Path) -> None:
        """Load released weights (a path or a state dict) of this variant, strictly."""
        content = source if isinstance(source, Mapping) else checkpoint.read(Path(source))
        state = checkpoint.state_dict_of(content, str(source) if content is not source else "the state dict")
        if any("aux_head" in key for key in state):
            # Very old files of pytorch-auto-drive have another name for the existence branch.
            source = {key.replace("aux_head", "lane_classifier"): value for key, value in state.items()}
        others = {name: lambda config=config: SCNN(config) for name, config in VARIANTS.items()}
        checkpoint.load_official(self, source, variants=others)
