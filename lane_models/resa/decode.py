"""From RESA's heads to lanes: in each existing slot, the most probable column of every twentieth row."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from lane_models import lane_slots
from lane_models.lane_slots import GAP, POINTS, SlotRules, crop_rules, whole_frame_rules
from lane_models.resa.model import RESAConfig
from lane_models.road_crop import FRAME
from selective_focus import Lane

CUT_HEIGHT = 240
"""Rows of a 590-row frame that the original takes off the top."""


def slot_rules(config: RESAConfig) -> SlotRules:
    """How a variant is decoded.

    pytorch-auto-drive: as its SCNN. Original: columns are counted from 1 and positions are rounded (halves to
    even), so that no column is lost to "no point".
    """
    if config.crop is not None:
        return crop_rules(config.crop, config.refine)
    if not config.original:
        return whole_frame_rules(config.input_size)
    height, width = config.input_size
    rows = [round(height - i * GAP / (FRAME[0] - CUT_HEIGHT) * height) - 1 for i in range(POINTS)]
    ys = FRAME[0] - GAP * np.arange(POINTS) - 1.0
    xs = np.round(np.arange(1, width + 1) * FRAME[1] / width - 1)
    return SlotRules(config.input_size, rows, ys, xs, aligned=False)


def decode(
    heads: Mapping[str, Tensor], config: RESAConfig, image_size: tuple[int, int] = FRAME
) -> list[list[Lane]]:
    """Heads of N images -> their lanes in pixels of a frame of ``image_size`` (see ``lane_slots.decode``)."""
    return lane_slots.decode(heads, slot_rules(config), image_size)
