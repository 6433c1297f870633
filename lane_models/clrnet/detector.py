"""CLRNet as a ``LaneDetector``."""

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
from lane_models.backbones.bottleneck import Bottleneck
from lane_models.backbones.dla import DLABlock
from lane_models.backbones.resnet import BasicBlock
from lane_models.clrnet.decode import decode, in_frame, lane_xs
from lane_models.clrnet.model import CLRNet, CLRNetConfig
from lane_models.road_crop import FRAME, RoadCrop
from selective_focus import Lane, LaneDetector

VARIANTS: Mapping[str, CLRNetConfig] = {
    "r18": CLRNetConfig(),
    "r34": CLRNetConfig(backbone="r34"),
    "r101": CLRNetConfig(backbone="r101"),
    "dla34": CLRNetConfig(backbone="dla34"),
    "synthetic": CLRNetConfig(
        width=16,
        channels=32,
        mid_channels=24,
        priors=96,
        samples=18,
        classes=2,
        input_size=(128, 384),
        crop=RoadCrop(),
        nms_threshold=20.0,
    ),
}
"""The published networks for CULane; "synthetic" is small, of our own making, and reads the road alone."""


class CLRNetDetector(LaneDetector):
    """CLRNet: 192 (small variant: 96) lane priors refined on three maps. Heads: see ``CLRNet``.

    Paper: Zheng et al., "CLRNet: Cross Layer Refinement Network for Lane Detection", CVPR 2022.
    """

    name = "clrnet"
    confidence_heads = frozenset({"classification"})
    class_axes: Mapping[str, int | None] = {"classification": -1}
    output_layers = ("heads.cls_layers", "heads.reg_layers")

    def __init__(self, variant: str = "r18") -> None:
        self.variant = variant
        self.config = VARIANTS[variant]
        self.crop = self.config.crop
        self.input_size = self.config.input_size
        self.model: CLRNet = CLRNet(self.config).eval()
        kinds = BasicBlock | Bottleneck | DLABlock
        self.reconstruction_blocks = (
            *(name for name, module in self.model.named_modules() if isinstance(module, kinds)),
            "heads",
        )

    def transform(self, image_bgr: npt.NDArray[np.uint8]) -> Tensor:
        """Published variants: the rows below the sky, bicubic, BGR divided by 255. Small: see ``RoadCrop``."""
        if self.crop is not None:
            return self.crop.normalise(self.crop.cut(image_bgr))
        top = round(self.config.cut_height * image_bgr.shape[0] / FRAME[0])
        image = cv2.resize(image_bgr[top:], self.input_size[::-1], interpolation=cv2.INTER_CUBIC)
        return torch.from_numpy(image).permute(2, 0, 1).float() / 255

    def decode(
        self, heads: Mapping[str, Tensor], image_size: tuple[int, int] | None = None
    ) -> list[list[Lane]]:
        """Lanes of each image, best first (see ``lane_models.clrnet.decode``)."""
        return decode(heads, self.model, image_size or self.image_size)

    def foreground(self, heads: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The lane score of every prior, [N, P, 1], for all five heads."""
        score = heads["classification"].detach().softmax(dim=-1)[..., 1:]
        return dict.fromkeys(("classification", "start", "angle", "length", "offsets"), score)

    def geometry(self, heads: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Where the lanes run, differentiably: x in pixels of ``image_size`` at R rows, and weights [N, P, R].

        The weight, without gradient, is the prior's lane score on rows between the lane's start and end
        where it is inside the image, and 0 elsewhere.
        """
        xs = lane_xs(heads, self.model)
        row = torch.arange(self.config.rows, device=xs.device) / (self.config.rows - 1)
        start, length = heads["start"][..., :1].detach(), heads["length"].detach()
        inside = (row >= start) & (row < start + length) & (xs >= 0) & (xs <= 1)
        left, right = in_frame(np.array([[0.0, 0.0], [1.0, 1.0]]), self.config, self.image_size)[:, 0]
        x = left + xs * (right - left)
        return x, (self.foreground(heads)["offsets"] * inside).detach()

    def load_official(self, source: Mapping[str, Any] | str | Path) -> None:
        """Load released weights (a path or a state dict) of this variant, strictly."""
        others = {name: lambda config=config: CLRNet(config) for name, config in VARIANTS.items()}
        checkpoint.load_official(self, source, variants=others)
