"""Accuracy of a set of test frames: the per-image metrics of ``bench.metrics``, summed as their sources do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.metrics import culane, tusimple
from bench.store import CategoryResult
from datasets.tusimple import x_at_rows
from selective_focus import Lane

THRESHOLDS = (0.3, *culane.MF1_THRESHOLDS)


class CULaneScorer:
    """F1 of drawn lanes at IoU 0.5, in total and by category. Annotations are drawn once for all methods."""

    def __init__(
        self,
        annotated: Sequence[Sequence[Lane]],
        categories: Sequence[str | None],
        image_size: tuple[int, int] = culane.IMAGE_SIZE,
        width: int = culane.WIDTH,
    ) -> None:
        self._image_size = image_size
        self._width = width
        self._annotated = annotated
        self._drawn: dict[int, culane.AnnotatedImage] = {}
        self._categories = list(categories)

    def score(self, first: int, predicted: Sequence[Sequence[Lane]]) -> list[list[culane.Counts]]:
        """The counts of some frames in a row at all thresholds: [frames][thresholds]."""
        numbers = range(first, first + len(predicted))
        new = [number for number in numbers if number not in self._drawn]
        drawn = culane.prepare_all(
            [*predicted, *(self._annotated[number] for number in new)], self._image_size, self._width
        )
        self._drawn |= zip(new, drawn[len(predicted) :], strict=True)
        return [
            culane.count_matches_at(lanes, self._drawn[number], THRESHOLDS, self._image_size, self._width)
            for number, lanes in zip(numbers, drawn, strict=False)
        ]

    def total(self, scores: Sequence[Sequence[culane.Counts]]) -> dict[str, Any]:
        """Counts are summed over frames; F1 is never averaged over frames or categories."""
        sums = [sum(column, culane.Counts()) for column in zip(*scores, strict=True)]
        at = dict(zip(THRESHOLDS, sums, strict=True))
        per_frame = [image[THRESHOLDS.index(0.5)] for image in scores]
        total = at[0.5]
        return {
            "tp": total.tp,
            "fp": total.fp,
            "fn": total.fn,
            "precision": total.precision,
            "recall": total.recall,
            "f1": total.f1,
            "f1_at": {"0.3": at[0.3].f1, "0.75": at[0.75].f1, "mean": culane.mean_f1(sums[1:])},
            "categories": self._by_category(per_frame),
            "frames": {
                "tp": [image.tp for image in per_frame],
                "fp": [image.fp for image in per_frame],
                "fn": [image.fn for image in per_frame],
            },
        }

    def _by_category(self, per_frame: Sequence[culane.Counts]) -> dict[str, CategoryResult]:
        results = {}
        for name in dict.fromkeys(name for name in self._categories if name):
            images = [c for c, own in zip(per_frame, self._categories, strict=True) if own == name]
            total = sum(images, culane.Counts())
            results[name] = CategoryResult(
                images=len(images), tp=total.tp, fp=total.fp, fn=total.fn, f1=total.f1
            )
        return results


class TuSimpleScorer:
    """Mean accuracy, FP and FN over images; F1 follows from the means.

    The rule that an image slower than 200 ms counts as missed is left out: the accuracy of a method may not depend
    on the machine that measures it.
    """

    def __init__(
        self, annotated: Sequence[Sequence[Sequence[float]]], h_samples: Sequence[Sequence[float]], width: int
    ) -> None:
        self._annotated = annotated
        self._h_samples = h_samples
        self._width = width

    def score(self, first: int, predicted: Sequence[Sequence[Lane]]) -> list[tusimple.TuSimpleScore]:
        """Lanes are read off at each image's own rows."""
        frames = slice(first, first + len(predicted))
        return [
            tusimple.score_image([x_at_rows(lane, rows, self._width) for lane in lanes], truth, rows)
            for lanes, truth, rows in zip(
                predicted, self._annotated[frames], self._h_samples[frames], strict=True
            )
        ]

    def total(self, scores: Sequence[tusimple.TuSimpleScore]) -> dict[str, Any]:
        """Means over images; F1 follows from them."""
        mean = tusimple.aggregate(scores)
        return {
            "accuracy": mean.accuracy,
            "precision": mean.precision,
            "recall": mean.recall,
            "f1": mean.f1,
            "frames": {
                "accuracy": [score.accuracy for score in scores],
                "fp": [score.fp for score in scores],
                "fn": [score.fn for score in scores],
            },
        }
