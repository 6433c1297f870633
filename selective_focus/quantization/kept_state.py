"""Which state of a unit is kept when its reconstruction ends: one rule for every method."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from selective_focus.quantization.config import ConfigurationError, KeptState
from selective_focus.quantization.learnable import Learnable

Measure = Callable[[], float]
"""Something measured on the present state, hard weights in place; smaller is better."""

_SCORE = {"best-loss": "hard_loss", "best-lds": "lds"}


@dataclass
class StateKeeper:
    """Looks at the learned state now and then, and goes back to the best look at the end.

    hard_loss: the loss of all calibration images with hard weights and nothing dropped.
    lds: the lanes' distortion on held-back images, in pixels; needed by the rule "best-lds" alone.
    """

    rule: KeptState
    learnable: Learnable
    hard_loss: Measure
    lds: Measure | None = None
    looks: list[dict[str, Any]] = field(default_factory=list)
    """What every look found, in order: {"step", "hard_loss"} and with "best-lds" {"lds"}."""
    seconds: float = 0.0
    """Spent on looking, which is measuring and not reconstruction."""
    _best: int = -1
    _values: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.rule == "best-lds" and self.lds is None:
            raise ConfigurationError(
                "kept_state='best-lds': this method does not measure held-back images; "
                "expected 'last' or 'best-loss'"
            )

    def look(self, step: int) -> float:
        """Measure the state after ``step`` steps, keep it if it is the best so far; give its hard loss.

        Of equally good states the later one is kept.
        """
        started = time.perf_counter()
        self.learnable.use_hard_weights()
        found: dict[str, Any] = {"step": step, "hard_loss": self.hard_loss()}
        if self.rule == "best-lds" and self.lds is not None:
            found["lds"] = self.lds()
        self.looks.append(found)
        if self.rule == "last":
            self._best = len(self.looks) - 1
        else:
            score = _SCORE[self.rule]
            if self._best < 0 or found[score] <= self.looks[self._best][score]:
                self._best, self._values = len(self.looks) - 1, self.learnable.snapshot()
        self.seconds += time.perf_counter() - started
        loss: float = found["hard_loss"]
        return loss

    def restore(self) -> dict[str, Any]:
        """Go back to the kept state; give what its look found."""
        if self.rule != "last":
            self.learnable.restore(self._values)
            self.learnable.use_hard_weights()
        return self.looks[self._best]
