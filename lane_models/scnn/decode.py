"""From SCNN's heads to lanes: in each existing slot, the most probable column of every twentieth row."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lane_models import lane_slots
from lane_models.lane_slots import SlotRules, crop_rules, whole_frame_rules
from lane_models.road_crop import FRAME
from lane_models.scnn.model import SCNNConfig
from selective_focus import Lane


def slot_rules(config: SCNNConfig) -> SlotRules:
    """How a variant is decoded."""
    if config.crop is None:
        return whole_frame_rules(config.input_size)
    return crop_rules(config.crop, config.refine)


def decode(
    heads: Mapping[str, Tensor], config: SCNNConfig, image_size: tuple[int, int] = FRAME
) -> list[list[Lane]]:
    """Heads of N images -> their lanes in pixels of a frame of ``image_size`` (see ``lane_slots.decode``)."""
    return lane_slots.decode(heads, slot_rules(config), image_size)
