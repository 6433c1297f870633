"""Schedules of the reconstruction loop: the regulariser's exponent and the learning rate of scales."""

from __future__ import annotations

import math
from typing import Literal


def regulariser_active(step: int, total: int, warmup: float = 0.2) -> bool:
    """Whether the rounding regulariser counts at ``step``: it is exactly zero while step < warmup * total.

    BRECQ counts steps from 1. warmup >= 1 switches it off for good.
    """
    return warmup < 1 and step >= warmup * total


def beta_schedule(
    step: int,
    total: int,
    warmup: float = 0.2,
    start: float = 20.0,
    end: float = 2.0,
    kind: Literal["linear", "cosine"] = "linear",
) -> float:
    """Exponent beta of the rounding regulariser: ``start`` in the warm-up, then down to ``end`` at ``total``.

    linear: AdaRound in BRECQ, QDrop and MQBench (step counted from 1); cosine: AIMET (step counted from 0).
    """
    first = warmup * total
    if step < first or warmup >= 1:
        return float(start)
    progress = min((step - first) / (total - first), 1.0)
    if kind == "cosine":
        return end + 0.5 * (start - end) * (1 + math.cos(math.pi * progress))
    return end + (start - end) * (1 - progress)


def cosine_lr(step: int, total: int, base: float, floor: float = 0.0) -> float:
    """Learning rate that falls from ``base`` at step 0 to ``floor`` at ``total`` along half a cosine."""
    progress = min(step / total, 1.0) if total > 0 else 1.0
    return floor + 0.5 * (base - floor) * (1 + math.cos(math.pi * progress))
