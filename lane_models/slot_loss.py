"""The training loss of SCNN and RESA: classes of pixels, and which slots hold a lane (Pan et al., AAAI 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lane_models.lane_slots import SLOTS, class_logits
from lane_models.road_crop import FRAME

Polyline = npt.NDArray[np.float64]

STROKE = 16
"""Width of a lane in CULane's segmentation labels, in pixels of the camera's frame."""


class SlotLoss(nn.Module):
    """Heads, label polylines and their slots -> terms to be summed (see ``bench.train``).

    Cross entropy of pixels at the size of the network's image, binary cross entropy of slots.
    existence: weight of the latter. background: weight of a background pixel beside a lane's.
    aligned: how pixels get to that size, the same as in decoding (see ``lane_slots.SlotRules``).
    """

    needs_slots = True
    class_weight: Tensor

    def __init__(
        self,
        input_size: tuple[int, int],
        existence: float = 0.1,
        background: float = 0.4,
        aligned: bool = True,
    ) -> None:
        super().__init__()
        self.input_size, self.existence, self.aligned = input_size, existence, aligned
        self.register_buffer("class_weight", torch.tensor([background] + [1.0] * SLOTS))

    def forward(
        self,
        heads: Mapping[str, Tensor],
        lanes: Sequence[Sequence[Polyline]],
        slots: Sequence[Sequence[int]],
    ) -> dict[str, Tensor]:
        """lanes: polylines [P, 2] in network pixels of each image; slots: 1..4 of each, else not learned."""
        size = self.input_size
        drawn = np.stack([slot_map(*one, size) for one in zip(lanes, slots, strict=True)])
        logits = class_logits(heads, size, self.aligned)
        classes = torch.from_numpy(drawn).to(logits.device).long()
        present = torch.tensor([[k + 1 in image for k in range(SLOTS)] for image in slots])
        exists = heads["existence"][..., 0]
        return {
            "pixel_classes": F.cross_entropy(logits, classes, self.class_weight.to(logits)),
            "existence": self.existence * F.binary_cross_entropy_with_logits(exists, present.to(exists)),
        }


def slot_map(lanes: Sequence[Polyline], slots: Sequence[int], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """[H, W]: 0 background, k where the lane of slot k is drawn; lanes [P, 2] in pixels of that image."""
    canvas = np.zeros(size, dtype=np.uint8)
    thickness = max(1, round(STROKE * size[1] / FRAME[1]))
    limit = 10 * max(size)
    for lane, slot in zip(lanes, slots, strict=True):
        if 1 <= slot <= SLOTS:
            points = np.clip(np.round(lane), -limit, limit).astype(np.int32)
            cv2.polylines(canvas, [points.reshape(-1, 1, 2)], False, int(slot), thickness)
    return canvas
