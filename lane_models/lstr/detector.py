"""LSTR as a ``LaneDetector``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lane_models import checkpoint
from lane_models.backbones.resnet import BLOCKS, BasicBlock
from lane_models.lstr import decode as lanes
from lane_models.lstr.model import LSTR
from lane_models.pytorch_auto_drive import imagenet_input
from selective_focus.detector import Heads, Lane, LaneDetector

MEAN_BGR = (0.40789654, 0.44719302, 0.47026115)
STD_BGR = (0.28863828, 0.27408164, 0.27809834)


@dataclass(frozen=True)
class Variant:
    """What distinguishes one set of released weights from another."""

    input_size: tuple[int, int]
    rules: lanes.Rules
    network: dict[str, Any]
    antialiased: bool = False
    """pytorch-auto-drive's input (RGB, antialiased); else the original's (BGR, OpenCV's bilinear)."""


VARIANTS = {
    "tusimple": Variant((360, 640), lanes.TUSIMPLE, {"classes": 2}),
    "culane": Variant((295, 820), lanes.CULANE, {"classes": 3}),
    "r18s2x": Variant(
        (288, 800),
        lanes.PYTORCH_AUTO_DRIVE,
        {"width": 32, "channels": 64, "prefixed": True},
        antialiased=True,
    ),
    "r34": Variant(
        (288, 800),
        lanes.PYTORCH_AUTO_DRIVE,
        {"blocks": BLOCKS[34], "width": 64, "channels": 128, "prefixed": True},
        antialiased=True,
    ),
}


class LSTRDetector(LaneDetector):
    """LSTR: seven queries, each a curve in a road model that all lanes share. Heads: see ``LSTR``.

    Paper: Liu et al., "End-to-end Lane Shape Prediction with Transformers", WACV 2021.
    """

    name = "lstr"
    confidence_heads = frozenset({"classification"})
    class_axes: Mapping[str, int | None] = {"classification": -1}
    output_layers = ("class_embed", "specific_embed.layers.2", "shared_embed.layers.2")

    def __init__(self, variant: str = "tusimple") -> None:
        config = VARIANTS[variant]
        self.variant = variant
        self.input_size = config.input_size
        self.rules = config.rules
        self.image_size = config.rules.image_size
        self.antialiased = config.antialiased
        self.model: LSTR = LSTR(**config.network).eval()
        self.reconstruction_blocks = (
            *(name for name, module in self.model.named_modules() if isinstance(module, BasicBlock)),
            *(f"transformer.encoder.layers.{i}" for i in range(2)),
            *(f"transformer.decoder.layers.{i}" for i in range(2)),
            "specific_embed",
            "shared_embed",
        )

    def load_official(self, source: Mapping[str, Any] | str | Path) -> None:
        """Load released weights (a path or a state dict) strictly; entries left by a profiler are ignored."""
        others = {name: lambda config=config: LSTR(**config.network) for name, config in VARIANTS.items()}
        checkpoint.load_official(self, source, ignore=("*total_ops", "*total_params"), variants=others)

    def transform(self, image_bgr: npt.NDArray[np.uint8]) -> Tensor:
        """The whole frame [h, w, 3] uint8 BGR, resized and normalised: network input [3, H, W] float32."""
        if self.antialiased:
            return imagenet_input(image_bgr, self.input_size)
        height, width = self.input_size
        image = cv2.resize(image_bgr, (width, height), interpolation=cv2.INTER_LINEAR) / 255.0
        normalised = ((image - MEAN_BGR) / STD_BGR).astype(np.float32)
        return torch.from_numpy(np.ascontiguousarray(normalised.transpose(2, 0, 1)))

    def decode(
        self, heads: Mapping[str, Tensor], image_size: tuple[int, int] | None = None
    ) -> list[list[Lane]]:
        """Heads -> lanes of each image; points run in the order of the official output."""
        return lanes.decode(heads, self.rules, image_size)

    def foreground(self, heads: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each query's lane probability [N, Q, 1]; for the camera terms the image's largest [N, 1, 1]."""
        weight = lanes.confidence(heads).detach().unsqueeze(-1)
        per_image = weight.amax(dim=1, keepdim=True)
        return {name: per_image if name == "camera_terms" else weight for name in heads}

    def geometry(self, heads: Heads) -> tuple[Tensor, Tensor]:
        """Where the lanes are, differentiably: x in pixels of ``image_size``, and a weight, both [N, Q, R].

        R are the rows that ``decode`` uses. The weight, without gradient, is the query's lane probability
        where the decoded lane would have a point and 0 elsewhere.
        """
        rows = torch.tensor(self.rules.rows, device=heads["endpoints"].device)
        x = lanes.lane_curves(heads, rows, self.image_size)
        points = lanes.visible(heads, x, rows, self.rules)
        return x, (points * lanes.confidence(heads).unsqueeze(-1)).detach()
