"""The fixed code of places that attention reads (Vaswani et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor


def sine_code(places: Tensor, channels: int) -> Tensor:
    """places [S] -> [S, channels]: sine and cosine in turn, at frequencies 10000^(-2 i / channels)."""
    exponent = 2 * (torch.arange(channels, device=places.device) // 2) / channels
    angle = places[:, None] / 10000.0**exponent
    return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1)
