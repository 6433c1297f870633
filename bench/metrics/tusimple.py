"""TuSimple's accuracy, FP and FN, equal to ``lane.py`` of the benchmark's repository."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.metrics.errors import MetricError

PIXELS = 20.0
"""A point is right if it is nearer than this, divided by the cosine of the lane's angle, in x."""

MATCHED = 0.85
"""Share of right points from which a lane counts as found."""

SLOWEST_MS = 200.0
ABSENT = -100.0
"""Where the evaluator puts points that are not there."""

FORGIVEN_ABOVE = 4
"""With more annotated lanes than this, the worst one is left out."""


@dataclass(frozen=True)
class TuSimpleScore:
    """One image, or the means over images. FP can be negative and accuracy above 1: the evaluator clamps nothing."""

    accuracy: float
    fp: float
    fn: float

    @property
    def precision(self) -> float:
        """1 - FP, as papers derive it."""
        return 1 - self.fp

    @property
    def recall(self) -> float:
        """1 - FN."""
        return 1 - self.fn

    @property
    def f1(self) -> float:
        """2PR / (P + R), 0 if both are 0. Of the means: derive it after ``aggregate``, never average it."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def score_image(
    predicted: Sequence[Sequence[float]],
    annotated: Sequence[Sequence[float]],
    h_samples: Sequence[float],
    run_time: float | None = None,
) -> TuSimpleScore:
    """Score lanes given as one x in pixels for each row of ``h_samples``, negative where there is none.

    run_time: milliseconds; above 200 the image counts as missed. None leaves this rule out.
    Raises MetricError for a lane of another length than ``h_samples``, no rows, or values that are not
    finite.
    """
    rows = np.asarray(h_samples, dtype=np.float64)
    if rows.ndim != 1 or not len(rows) or not np.isfinite(rows).all():
        raise MetricError("h_samples must be a list of one or more finite heights in pixels")
    found = _lanes(predicted, len(rows), "predicted")
    truth = _lanes(annotated, len(rows), "annotated")
    if (run_time is not None and run_time > SLOWEST_MS) or len(found) > len(truth) + 2:
        return TuSimpleScore(0.0, 0.0, 1.0)
    best = [0.0] * len(truth)
    if len(found) and len(truth):
        distance = np.abs(np.where(found >= 0, found, ABSENT) - np.where(truth >= 0, truth, ABSENT)[:, None])
        right = np.count_nonzero(distance < _thresholds(truth, rows)[:, None, None], axis=2)
        best = (right / len(rows)).max(axis=1).tolist()
    matched = sum(share >= MATCHED for share in best)
    missed = len(best) - matched
    total = sum(best)
    if len(best) > FORGIVEN_ABOVE:
        missed = max(missed - 1, 0)
        total -= min(best)
    counted = max(min(len(best), FORGIVEN_ABOVE), 1)
    fp = (len(found) - matched) / len(found) if len(found) else 0.0
    return TuSimpleScore(total / counted, fp, missed / counted)


def aggregate(scores: Iterable[TuSimpleScore]) -> TuSimpleScore:
    """The mean of each number over images; its F1 is that of the means. Raises MetricError without images."""
    every = list(scores)
    if not every:
        raise MetricError("there are no images to average over; check the list of frames")
    sums = (
        sum(score.accuracy for score in every),
        sum(score.fp for score in every),
        sum(score.fn for score in every),
    )
    return TuSimpleScore(*(value / len(every) for value in sums))


def _lanes(lanes: Sequence[Sequence[float]], rows: int, side: str) -> npt.NDArray[np.float64]:
    """[lanes, rows]"""
    for number, lane in enumerate(lanes):
        if len(lane) != rows:
            raise MetricError(
                f"{side} lane {number} has {len(lane)} values for {rows} rows; give one x for each of h_samples, -2 "
                f"where the lane is absent"
            )
    result = np.asarray(lanes, dtype=np.float64).reshape(len(lanes), rows)
    if not np.isfinite(result).all():
        raise MetricError(f"a {side} lane has a value that is not finite; write -2 where a lane is absent")
    return result


def _thresholds(lanes: npt.NDArray[np.float64], rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """20 px across the direction of each lane: [lanes]. Least squares of x on y over the points of a lane."""
    present = lanes >= 0
    count = np.maximum(present.sum(axis=1), 1)
    y = np.where(present, rows - (present * rows).sum(axis=1, keepdims=True) / count[:, None], 0)
    x = np.where(present, lanes - np.where(present, lanes, 0).sum(axis=1, keepdims=True) / count[:, None], 0)
    spread = (y * y).sum(axis=1)
    slope = np.divide((x * y).sum(axis=1), spread, out=np.zeros(len(lanes)), where=spread > 0)
    thresholds: npt.NDArray[np.float64] = PIXELS / np.cos(np.arctan(slope))
    return thresholds
