"""GANet's training loss: heat maps of key points and roots, and the offsets of the key points.

Wang et al., CVPR 2022, section 3.5: focal losses and L1. Ours: labels are polylines, of which every row of cells is a
key point and the lowest one the root.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lane_models.ganet.model import STRIDE, GANet
from lane_models.key_points import Polyline, focal, heat_map, row_columns

BLUR = 0.7
"""Standard deviation, in cells, of the slope about a point."""


class TrainingLoss(nn.Module):
    """Heads and label polylines -> terms to be summed (see ``bench.train``)."""

    def __init__(
        self,
        model: GANet,
        keypoints: float = 1.0,
        roots: float = 1.0,
        root_offsets: float = 0.5,
        cell_offsets: float = 1.0,
    ) -> None:
        super().__init__()
        self.map_size = model.config.map_size
        self.weights = {
            "keypoints": keypoints,
            "roots": roots,
            "root_offsets": root_offsets,
            "cell_offsets": cell_offsets,
        }

    def forward(self, heads: Mapping[str, Tensor], lanes: Sequence[Sequence[Polyline]]) -> dict[str, Tensor]:
        """lanes: polylines [P, 2] of each image, in network pixels."""
        logits = heads["keypoint_map"][:, 0]
        image, points, roots = (part.to(logits.device) for part in labels_of(lanes, self.map_size))
        cells = points.long()  # rounded down: offsets are in 0..1, as published
        column, row = cells.unbind(1)
        shape = (len(logits), *self.map_size)
        errors = {
            name: (heads[name][image, :, row, column] - (wanted - cells)).abs().sum() / max(1, len(cells))
            for name, wanted in (("root_offsets", roots), ("cell_offsets", points))
        }
        terms = {
            "keypoints": focal(logits, heat_map(image, cells, shape, BLUR)),
            "roots": focal(heads["root_map"][:, 0], heat_map(image, roots.long(), shape, BLUR)),
            **errors,
        }
        return {name: self.weights[name] * term for name, term in terms.items()}


def labels_of(
    lanes: Sequence[Sequence[Polyline]], map_size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """The K key points of a batch: the image of each [K], its (x, y) in cells and that of its root, [K, 2].

    lanes: polylines [P, 2] in network pixels; those with less than two rows in the image are left out.
    """
    images, points, roots = [], [], []
    for i, one in enumerate(lanes):
        for lane in one:
            xs = row_columns(lane, map_size, STRIDE)
            rows = np.flatnonzero(np.isfinite(xs))
            if len(rows) < 2:
                continue
            own = np.stack((xs[rows], rows), axis=1)
            images.append(np.full(len(rows), i))
            points.append(own)
            roots.append(np.broadcast_to(own[-1], own.shape))
    image = np.concatenate([np.zeros(0, dtype=np.int64), *images])
    place, root = (np.concatenate([np.zeros((0, 2)), *part]).astype(np.float32) for part in (points, roots))
    return torch.from_numpy(image), torch.from_numpy(place), torch.from_numpy(root)
