"""RESA's training loss: classes of pixels, and which slots hold a lane, as SCNN's (Zheng et al., AAAI 2021)."""

from __future__ import annotations

from lane_models.resa.model import RESA
from lane_models.slot_loss import SlotLoss


class TrainingLoss(SlotLoss):
    """See ``SlotLoss``."""

    def __init__(self, model: RESA, existence: float = 0.1, background: float = 0.4) -> None:
        super().__init__(model.config.input_size, existence, background, aligned=not model.config.original)
