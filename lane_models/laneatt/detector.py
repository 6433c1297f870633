"""LaneATT as a ``LaneDetector``."""

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
from lane_models.backbones.cifar_resnet import CifarBlock
from lane_models.backbones.resnet import BasicBlock
from lane_models.laneatt.anchors import culane_anchors, line_anchors
from lane_models.laneatt.decode import decode, in_frame, lane_xs
from lane_models.laneatt.model import LaneATT, LaneATTConfig
from lane_models.road_crop import RoadCrop
from selective_focus import Heads, Lane, LaneDetector


def _official(depth: int) -> dict[str, LaneATTConfig]:
    return {
        f"r{depth}": LaneATTConfig(culane_anchors, depth=depth),
        f"r{depth}-quicksort": LaneATTConfig(lambda: culane_anchors("quicksort"), depth=depth),
    }


def placeholder_anchors() -> npt.NDArray[np.float64]:
    """192 anchors of the generated ones; training replaces them by anchors that fit its labels."""
    anchors = line_anchors()
    return anchors[:: len(anchors) // 192][:192]


VARIANTS: Mapping[str, LaneATTConfig] = {
    **_official(18),
    **_official(34),
    **_official(122),
    "synthetic": LaneATTConfig(
        placeholder_anchors,
        width=16,
        neck=32,
        channels=32,
        input_size=(128, 384),
        crop=RoadCrop(),
        keep_anchors=True,
        nms_threshold=20.0,
    ),
}
"""The published networks for CULane; "-quicksort" has the other anchor order (see ``culane_anchors``).
"synthetic" is small, of our own making, and reads the road alone at stride 8."""


class LaneATTDetector(LaneDetector):
    """LaneATT: anchor-based, 1000 (small variant: 192) line anchors that attend to each other.

    Paper: Tabelini et al., "Keep your Eyes on the Lane: Real-time Attention-guided Lane Detection", CVPR
        2021.
    """

    name = "laneatt"
    confidence_heads = frozenset({"classification"})
    class_axes: Mapping[str, int | None] = {"classification": -1}
    output_layers = ("cls_layer", "reg_layer")

    def __init__(self, variant: str = "r18") -> None:
        self.variant = variant
        self.config = VARIANTS[variant]
        self.crop = self.config.crop
        self.input_size = self.config.input_size
        self.model: LaneATT = LaneATT(self.config).eval()
        self.reconstruction_blocks = tuple(
            name for name, module in self.model.named_modules() if isinstance(module, BasicBlock | CifarBlock)
        )

    def transform(self, image_bgr: npt.NDArray[np.uint8]) -> Tensor:
        """Published variants: the whole frame, bicubic, divided by 255. Small variant: see ``RoadCrop``."""
        if self.crop is not None:
            return self.crop.normalise(self.crop.cut(image_bgr))
        image = cv2.resize(image_bgr, self.input_size[::-1], interpolation=cv2.INTER_CUBIC)
        return torch.from_numpy(image).permute(2, 0, 1).float() / 255

    def decode(
        self, heads: Mapping[str, Tensor], image_size: tuple[int, int] | None = None
    ) -> list[list[Lane]]:
        """Lanes of each image, best first (see ``lane_models.laneatt.decode``)."""
        return decode(heads, self.model, image_size or self.image_size)

    def foreground(self, heads: Mapping[str, Tensor]) -> Heads:
        """The lane score of every anchor, [N, A, 1], for all three heads."""
        score = heads["classification"].detach().softmax(dim=-1)[..., 1:]
        return dict.fromkeys(("classification", "length", "offsets"), score)

    def geometry(self, heads: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Where the lanes run, differentiably: x in pixels of ``image_size`` at R rows, and weights [N, A, R].

        The weight, without gradient, is the anchor's lane score on rows between the lane's start and end where
        it is inside the image, and 0 elsewhere.
        """
        xs, width = lane_xs(heads, self.model), self.config.input_size[1]
        row = torch.arange(self.config.rows, device=xs.device)
        start = ((1 - self.model.anchors[:, 1:2]).to(xs) * (self.config.rows - 1)).round()
        inside = (row >= start) & (row < start + heads["length"].round()) & (xs >= 0) & (xs <= width)
        left, right = in_frame(np.array([[0.0, 0.0], [1.0, 1.0]]), self.model, self.image_size)[:, 0]
        x = left + xs / width * (right - left)
        return x, (self.foreground(heads)["offsets"] * inside).detach()

    def load_official(self, source: Mapping[str, Any] | str | Path) -> None:
        """Load a LaneATT checkpoint of this variant (``model_NNNN.pt`` of the official code, or a state
        dict).
        """
        others = {name: lambda config=config: LaneATT(config) for name, config in VARIANTS.items()}
        checkpoint.load_official(self, source, variants=others)
