"""What the released models of pytorch-auto-drive (BézierLaneNet, SCNN, RESA, LSTR-2x) share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from lane_models import checkpoint

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet statistics, in RGB order, of values in 0..1."""


def imagenet_input(image_bgr: npt.NDArray[np.uint8], size: tuple[int, int], cut_height: int = 0) -> Tensor:
    """A frame [h, w, 3] uint8 BGR -> [3, H, W] float32, RGB, normalised by the ImageNet statistics.

    size: (H, W). cut_height: rows taken off the top first. Pillow's bilinear filter widens where it shrinks
    an image (antialiasing), OpenCV's does not: the released weights want the former.
    """
    rgb = np.ascontiguousarray(image_bgr[cut_height:, :, ::-1])
    resized = Image.fromarray(rgb).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    x = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return ((x - mean) / std).contiguous()


def drop_least(scores: npt.NDArray[np.floating], kept: Sequence[int], count: int) -> list[int]:
    """Of the queries ``kept``, at most ``count``, the best by scores [Q]. Equal scores go together."""
    left = list(kept)
    while len(left) > count:
        least = min(scores[q] for q in left)
        left = [q for q in left if scores[q] > least]
    return left


def new_names(source: Mapping[str, Any] | str | Path) -> Mapping[str, Any] | str | Path:
    """A checkpoint as it is, or, of very old files, its weights with today's name of the existence branch."""
    content = source if isinstance(source, Mapping) else checkpoint.read(Path(source))
    state = checkpoint.state_dict_of(content, str(source) if content is not source else "the state dict")
    if not any("aux_head" in key for key in state):
        return source
    return {key.replace("aux_head", "lane_classifier"): value for key, value in state.items()}
