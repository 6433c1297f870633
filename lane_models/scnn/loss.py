"""SCNN's training loss: classes of pixels, and which slots hold a lane (Pan et al., AAAI 2018)."""

from __future__ import annotations

from lane_models.scnn.model import SCNN
from lane_models.slot_loss import SlotLoss


class TrainingLoss(SlotLoss):
    """See ``SlotLoss``."""

    def __init__(self, model: SCNN, existence: float = 0.1, background: float = 0.4) -> None:
        super().__init__(model.config.input_size, existence, background)
