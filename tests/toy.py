"""A lane detector in 30 lines, not ours: what an engineer would bring."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from selective_focus import Lane, LaneDetector


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + x)


class ToyNet(nn.Module):
    """Four lane slots; each says whether it exists and where it crosses 8 rows."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn, self.relu = nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        self.blocks = nn.Sequential(Block(8), Block(8))
        self.exists, self.columns = nn.Linear(8 * 4 * 8, 4), nn.Linear(8 * 4 * 8, 32)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.blocks(self.relu(self.bn(self.stem(x)))).flatten(1)
        return {
            "existence": self.exists(features)[..., None],
            "columns": self.columns(features).view(-1, 4, 8).sigmoid(),
        }


class ToyDetector(LaneDetector):
    name, variant, input_size = "toy", "tiny", (16, 32)
    confidence_heads = frozenset({"existence"})
    output_layers = ("exists", "columns")
    reconstruction_blocks = ("blocks.0", "blocks.1")

    def __init__(self, seed: int = 0) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = ToyNet().eval()

    def transform(self, image_bgr: np.ndarray) -> Tensor:
        small = cv2.resize(image_bgr, self.input_size[::-1], interpolation=cv2.INTER_AREA)
        return torch.from_numpy(small).permute(2, 0, 1).float() / 255

    def decode(
        self, heads: Mapping[str, Tensor], image_size: tuple[int, int] | None = None
    ) -> list[list[Lane]]:
        height, width = image_size or self.image_size
        rows = np.linspace(height * 0.4, height, 8)
        scores = heads["existence"].detach().sigmoid()[..., 0].tolist()
        columns = heads["columns"].detach().double().numpy() * width
        return [
            [Lane(np.stack([x, rows], 1), s) for x, s in zip(each, score, strict=True) if s > 0.5]
            for each, score in zip(columns, scores, strict=True)
        ]

    def foreground(self, heads: Mapping[str, Tensor]) -> dict[str, Tensor]:
        confidence = heads["existence"].detach().sigmoid()
        return {"existence": confidence, "columns": confidence}
