"""Sensitivity Aware Selection (SAS): which heads the reconstruction works on, decided anew as it runs.

Certain of the paper: every head has one score, heads of low score are dropped, and the set changes at run
time. The rule, the interval and the prediction between measurements are our reading (docs/method.md).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Scores = dict[str, float]
Interpolation = Literal["linear", "hold"]


def predict_scores(
    measured: Sequence[tuple[int, Mapping[str, float]]],
    iteration: int,
    interpolation: Interpolation = "linear",
) -> Scores:
    """The scores (px) at an iteration, from measurements (iteration, scores) in increasing iterations.

    "hold": those of the last measurement at or before ``iteration``.
    "linear": on the line through the two measurements around ``iteration``. After the last measurement, where
    a running reconstruction always is, the line through the last two is continued and cut off at 0; a single
    measurement is held. Before the first measurement both give the first.
    Raises ValueError when nothing was measured.
    """
    if interpolation not in get_args(Interpolation):
        choices = ", ".join(get_args(Interpolation))
        raise ValueError(f"interpolation must be one of {choices}, not {interpolation!r}")
    if not measured:
        raise ValueError("no scores to predict from; measure the heads first")
    times = [time for time, _ in measured]
    after = bisect_right(times, iteration)
    if after == 0 or interpolation == "hold" or len(measured) == 1:
        return dict(measured[max(after - 1, 0)][1])
    left = min(after, len(measured) - 1) - 1
    (start, first), (end, second) = measured[left], measured[left + 1]
    fraction = (iteration - start) / (end - start)
    return {head: max(0.0, first[head] + fraction * (second[head] - first[head])) for head in first}


def select_by_share(
    scores: Mapping[str, float],
    threshold: float,
    *,
    hysteresis: float = 0.0,
    active: Collection[str] = (),
) -> list[str]:
    """Heads whose share s_k / sum(s) of the sensitivity is at least ``threshold``, in order of ``scores``.

    hysteresis: with h > 0, a head in ``active`` stays down to a share of threshold (1 - h) and another one
    enters only from threshold (1 + h), so that shares near the threshold do not flip.
    Never empty: when no head reaches the threshold the most sensitive one is kept, and when all scores are 0,
    which tells nothing, all are. Negative scores (leave-one-out) count as 0.
    """
    positive = {head: max(0.0, score) for head, score in scores.items()}
    total = sum(positive.values())
    if total == 0:
        return list(scores)
    bar = {head: threshold * (1 - hysteresis if head in active else 1 + hysteresis) for head in scores}
    chosen = [head for head, score in positive.items() if score / total >= bar[head]]
    return chosen or [max(positive, key=positive.__getitem__)]


def select_top(scores: Mapping[str, float], count: int) -> list[str]:
    """The ``count`` most sensitive heads, in the order of ``scores``; of equal ones, the first."""
    ranked = sorted(scores, key=lambda head: -scores[head])[:count]
    return [head for head in scores if head in ranked]


@dataclass
class SensitivityAwareSelection:
    """The heads' weights in the loss over the iterations of one reconstruction.

    heads: all heads of the detector.
    share: tau, the least share of the total sensitivity that keeps a head; used unless ``top_k`` is given.
    top_k: keep this many heads instead.
    interval: T, iterations between measurements; see ``is_due``.
    interpolation: "linear" or "hold", see ``predict_scores``.
    hysteresis: h of ``select_by_share``, in [0, 1); not with ``top_k``.
    dropped_weight: weight of a dropped head in the loss; 0 drops it altogether, as the paper reads.

    Use, at iteration t of the reconstruction:

        if selection.is_due(t):
            selection.measured(t, head_sensitivity(...))
        weights = selection.weights(t)

    Iterations must not decrease. All heads are active until the first measurement. ``log`` has an entry for
    each measurement and for each change of the active set between two: {"iteration", "scores" (px), "active",
    "measured" (or else predicted)}. Raises ValueError on bad options and scores.
    """

    heads: Sequence[str]
    share: float = 0.03
    top_k: int | None = None
    interval: int = 50
    interpolation: Interpolation = "linear"
    hysteresis: float = 0.0
    dropped_weight: float = 0.0
    log: list[dict[str, Any]] = field(default_factory=list, init=False)
    _measured: list[tuple[int, Scores]] = field(default_factory=list, init=False, repr=False)
    _active: list[str] = field(default_factory=list, init=False, repr=False)
    _now: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        self.heads = list(self.heads)
        if not self.heads or len(set(self.heads)) < len(self.heads):
            raise ValueError(f"selection needs one or more different heads, not {self.heads}")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must be in [0, 1], not {self.share}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, not {self.top_k}")
        if self.interval < 1:
            raise ValueError(f"interval must be at least 1 iteration, not {self.interval}")
        if self.interpolation not in get_args(Interpolation):
            choices = ", ".join(get_args(Interpolation))
            raise ValueError(f"interpolation must be one of {choices}, not {self.interpolation!r}")
        if not 0 <= self.hysteresis < 1:
            raise ValueError(f"hysteresis must be in [0, 1), not {self.hysteresis}")
        if self.hysteresis and self.top_k is not None:
            raise ValueError(
                f"hysteresis {self.hysteresis} belongs to a share threshold; leave out top_k or hysteresis"
            )
        if not 0 <= self.dropped_weight <= 1:
            raise ValueError(f"dropped_weight must be in [0, 1], not {self.dropped_weight}")
        self._active = list(self.heads)

    def is_due(self, iteration: int) -> bool:
        """Whether the heads are to be measured at this iteration: 0, T, 2 T, ..."""
        return iteration % self.interval == 0

    def measured(self, iteration: int, scores: Mapping[str, float]) -> None:
        """Takes the scores (px) of all heads, measured at this iteration."""
        if set(scores) != set(self.heads):
            raise ValueError(f"scores are for heads {sorted(scores)}, expected {sorted(self.heads)}")
        bad = {head: score for head, score in scores.items() if not math.isfinite(score)}
        if bad:
            raise ValueError(f"sensitivity of heads must be finite, not {bad} (iteration {iteration})")
        if self._measured and iteration <= self._measured[-1][0]:
            raise ValueError(f"scores of iteration {iteration} come after those of {self._measured[-1][0]}")
        self._advance(iteration)
        self._measured.append((iteration, {head: float(scores[head]) for head in self.heads}))
        self._select(iteration, measured=True)

    def active(self, iteration: int) -> list[str]:
        """The heads in the loss at this iteration, in the order of ``heads``; never none."""
        self._advance(iteration)
        if self._measured and iteration != self._measured[-1][0]:
            self._select(iteration, measured=False)
        return list(self._active)

    def weights(self, iteration: int) -> dict[str, float]:
        """Each head's weight in the loss at this iteration: 1 if active, else ``dropped_weight``."""
        active = self.active(iteration)
        return {head: 1.0 if head in active else self.dropped_weight for head in self.heads}

    def _advance(self, iteration: int) -> None:
        if iteration < self._now:
            raise ValueError(f"iteration {iteration} comes after {self._now}; iterations must not decrease")
        self._now = iteration

    def _select(self, iteration: int, *, measured: bool) -> None:
        scores = predict_scores(self._measured, iteration, self.interpolation)
        if self.top_k is not None:
            active = select_top(scores, self.top_k)
        else:
            active = select_by_share(scores, self.share, hysteresis=self.hysteresis, active=self._active)
        if measured or active != self._active:
            self.log.append(
                {"iteration": iteration, "scores": scores, "active": list(active), "measured": measured}
            )
        self._active = active
