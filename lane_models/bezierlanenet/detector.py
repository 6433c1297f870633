"""BézierLaneNet as a ``LaneDetector``."""

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
from lane_models.bezierlanenet.decode import confidence, curve_points, decode, in_frame
from lane_models.bezierlanenet.model import BezierLaneNet, BezierLaneNetConfig
from lane_models.pytorch_auto_drive import imagenet_input
from lane_models.road_crop import RoadCrop
from selective_focus.detector import Lane, LaneDetector

VARIANTS: Mapping[str, BezierLaneNetConfig] = {
    "r18": BezierLaneNetConfig(),
    "r34": BezierLaneNetConfig(depth=34),
    "synthetic": BezierLaneNetConfig(
        width=16, input_size=(128, 384), crop=RoadCrop(), window=5, threshold=0.5
    ),
}
"""The published networks for CULane; "synthetic" is small, of our own making, and reads the road alone."""


class BezierLaneNetDetector(LaneDetector):
    """BézierLaneNet: each column of the stride-16 map proposes a cubic curve. Heads: see ``BezierLaneNet``.

    Paper: Feng et al., "Rethinking Efficient Lane Detection via Curve Modeling", CVPR 2022.
    """

    name = "bezierlanenet"
    confidence_heads = frozenset({"existence"})
    class_axes: Mapping[str, int | None] = {"existence": None}
    output_layers = ("proj_classification", "proj_regression")

    def __init__(self, variant: str = "r18") -> None:
        self.variant = variant
        self.config = VARIANTS[variant]
        self.crop = self.config.crop
        self.input_size = self.config.input_size
        self.model: BezierLaneNet = BezierLaneNet(self.config).eval()
        self.reconstruction_blocks = (
            *(name for name, module in self.model.named_modules() if isinstance(module, BasicBlock)),
            *(f"dilated_blocks.{i}" for i in range(2)),
            "simple_flip_2d",
            "regression_head",
        )

    def transform(self, image_bgr: npt.NDArray[np.uint8]) -> Tensor:
        """Published variants: the whole frame, see ``imagenet_input``. Small variant: see ``RoadCrop``."""
        if self.crop is not None:
            return self.crop.normalise(self.crop.cut(image_bgr))
        return imagenet_input(image_bgr, self.input_size)

    def decode(
        self, heads: Mapping[str, Tensor], image_size: tuple[int, int] | None = None
    ) -> list[list[Lane]]:
        """Lanes of each image in query order, 50 points each (see ``lane_models.bezierlanenet.decode``)."""
        return decode(heads, self.config, image_size or self.image_size)

    def foreground(self, heads: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The lane probability of every query: [N, Q, 1], for the control points [N, Q, 1, 1]."""
        weight = confidence(heads).detach()
        return {"existence": weight, "control_points": weight.unsqueeze(-1)}

    def geometry(self, heads: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Where the curves run, differentiably: coordinates (pixels of ``image_size``), weights [N, Q, R].

        A curve has no fixed rows: the R = 2 x 50 coordinates are x and y of its points in turn. The weight,
        without gradient, is the query's lane probability.
        """
        corners = in_frame(np.array([[0.0, 0.0], [1.0, 1.0]]), self.config, self.image_size)
        first, last = torch.from_numpy(corners).to(heads["control_points"])
        coordinates = (first + curve_points(heads["control_points"]) * (last - first)).flatten(-2)
        return coordinates, confidence(heads).detach().expand_as(coordinates)

    def load_official(self, source: Mapping[str, Any] | str | Path) -> None:
        """Load released weights (a path or a state dict) of this variant, strictly."""
        others = {name: lambda config=config: BezierLaneNet(config) for name, config in VARIANTS.items()}
        checkpoint.load_official(self, source, variants=others)
