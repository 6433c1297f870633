"""From SCNN's heads to lanes: in each existing slot, the most probable column of every twentieth row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from torch import Tensor

from lane_models import lane_slots
from lane_models.lane_slots import GAP, FloatArray, SlotRules, whole_frame_rules
from lane_models.road_crop import FRAME
from lane_models.scnn.model import SCNNConfig
from selective_focus import Lane


def slot_rules(config: SCNNConfig) -> SlotRules:
    """How a variant is decoded."""
    rows, ys = sampled_rows(config)
    return replace(whole_frame_rules(config.input_size), rows=rows, ys=ys, refine=config.refine)


def sampled_rows(config: SCNNConfig) -> tuple[list[int], FloatArray]:
    """Rows of the network's image where lanes have points, bottom first, and their y in a 590-row frame."""
    if config.crop is None:
        rules = whole_frame_rules(config.input_size)
        return list(rules.rows), rules.ys
    height = config.input_size[0]
    top, bottom = config.crop.rows
    step = GAP * height / (bottom - top)
    rows = [round(height - 1 - i * step) for i in range(int((height - 1) / step) + 1)]
    return rows, config.crop.to_frame(np.stack((np.zeros(len(rows)), rows), axis=1))[:, 1]


def decode(
    heads: Mapping[str, Tensor], config: SCNNConfig, image_size: tuple[int, int] = FRAME
) -> list[list[Lane]]:
    """Heads of N images -> their lanes in pixels of a frame of ``image_size`` (see ``lane_slots.decode``)."""
    return lane_slots.decode(heads, slot_rules(config), image_size)
