"""CULane's F1, equal to the C++ evaluator published with SCNN: same pixels, same assignment, same counts.

Equal similarities need the drawing of OpenCV 4.6 to 4.10. Of later versions (4.14, 5.0), lanes that are not a number or
lie thousands of pixels outside of the image get slightly other strokes; all other lanes get the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from bench.metrics.errors import MetricError
from bench.metrics.matching import match
from bench.metrics.routes import intersections, strokes_of
from bench.metrics.strokes import Strokes

__all__ = [
    "MF1_THRESHOLDS",
    "AnnotatedImage",
    "Counts",
    "count_matches",
    "count_matches_at",
    "match",
    "mean_f1",
    "prepare",
    "prepare_all",
    "similarities",
]

IMAGE_SIZE = (590, 1640)
WIDTH = 30
MF1_THRESHOLDS = tuple(hundredths / 100 for hundredths in range(50, 100, 5))
"""0.50, 0.55 ... 0.95, each the double nearest to its decimal, so that 0.5 and 0.75 are exact."""


class HasPoints(Protocol):
    """Anything with points [P, 2] in pixels, such as ``selective_focus.detector.Lane``."""

    @property
    def points(self) -> npt.NDArray[np.float64]: ...


LaneLike: TypeAlias = "HasPoints | npt.ArrayLike"


@dataclass(frozen=True, slots=True)
class Counts:
    """True and false positives and false negatives. Add them over images; never average F1 over images."""

    tp: int = 0
    fp: int = 0
    fn: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def precision(self) -> float | None:
        """TP / (TP + FP); None (undefined) without predictions."""
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else None

    @property
    def recall(self) -> float | None:
        """TP / (TP + FN); None (undefined) without annotations, as in CULane's category ``cross``."""
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else None

    @property
    def f1(self) -> float | None:
        """2PR / (P + R); None (undefined) without annotations.

        0 if nothing was found, also where there are no predictions at all; the reference prints not-a-number.
        """
        recall = self.recall
        if recall is None:
            return None
        if self.tp == 0:
            return 0.0
        precision = self.tp / (self.tp + self.fp)
        return 2 * precision * recall / (precision + recall)


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """Lanes of one image, drawn once. Annotations scored for many methods are worth keeping like this."""

    strokes: Strokes
    image_size: tuple[int, int]
    width: int

    def __len__(self) -> int:
        return len(self.strokes.areas)


def prepare(
    lanes: Iterable[LaneLike], image_size: tuple[int, int] = IMAGE_SIZE, width: int = WIDTH
) -> AnnotatedImage:
    """Draw lanes ([P, 2] points or ``Lane``) on an image of size (H, W), ``width`` pixels wide.

    Raises MetricError for points that are not finite [P, 2] numbers, and for a size or width out of range.
    """
    return prepare_all([lanes], image_size, width)[0]


def prepare_all(
    images: Iterable[Iterable[LaneLike]], image_size: tuple[int, int] = IMAGE_SIZE, width: int = WIDTH
) -> list[AnnotatedImage]:
    """As ``prepare``, for several images of one size: a dozen at a time take less time than one by one."""
    _check_canvas(image_size, width)
    lanes = [[_points(lane) for lane in image] for image in images]
    strokes = strokes_of(list(chain.from_iterable(lanes)), image_size, width)
    bounds = [0, *accumulate(len(image) for image in lanes)]
    size = (image_size[0], image_size[1])
    return [AnnotatedImage(strokes.of_lanes(*pair), size, width) for pair in pairwise(bounds)]


def similarities(
    predicted: Iterable[LaneLike] | AnnotatedImage,
    annotated: Iterable[LaneLike] | AnnotatedImage,
    image_size: tuple[int, int] = IMAGE_SIZE,
    width: int = WIDTH,
) -> npt.NDArray[np.float64]:
    """Intersection over union of the drawn lanes: [annotated, predicted].

    Not-a-number where neither lane touches the image, 0 for a lane of fewer than two points.
    """
    predicted = _prepared(predicted, image_size, width)
    annotated = _prepared(annotated, image_size, width)
    shared = intersections(annotated.strokes, predicted.strokes)
    union = annotated.strokes.areas[:, None] + predicted.strokes.areas - shared
    with np.errstate(invalid="ignore"):
        iou = shared / union
    iou[annotated.strokes.curveless, :] = 0
    iou[:, predicted.strokes.curveless] = 0
    return iou


def count_matches(
    predicted: Iterable[LaneLike] | AnnotatedImage,
    annotated: Iterable[LaneLike] | AnnotatedImage,
    image_size: tuple[int, int] = IMAGE_SIZE,
    width: int = WIDTH,
    iou: float = 0.5,
) -> Counts:
    """Counts of one image: a matched pair is a true positive if its IoU is strictly greater than ``iou``.

    image_size is (H, W) in pixels, width the thickness of a lane in pixels. Either side may have been drawn
    before with ``prepare``. Raises MetricError as ``prepare`` does, and for an ``iou`` outside (0, 1).
    """
    return count_matches_at(predicted, annotated, (iou,), image_size, width)[0]


def count_matches_at(
    predicted: Iterable[LaneLike] | AnnotatedImage,
    annotated: Iterable[LaneLike] | AnnotatedImage,
    thresholds: Sequence[float] = MF1_THRESHOLDS,
    image_size: tuple[int, int] = IMAGE_SIZE,
    width: int = WIDTH,
) -> list[Counts]:
    """Counts of one image at several IoU thresholds, from one matching. Otherwise as ``count_matches``."""
    for threshold in thresholds:
        if not 0 < threshold < 1:
            raise MetricError(
                f"an IoU threshold must lie between 0 and 1, not {threshold}; the usual one is 0.5"
            )
    matrix = similarities(predicted, annotated, image_size, width)
    matched = [matrix[row, column] for row, column in enumerate(match(matrix)) if column >= 0]
    found = [sum(similarity > threshold for similarity in matched) for threshold in thresholds]
    return [Counts(int(tp), matrix.shape[1] - int(tp), matrix.shape[0] - int(tp)) for tp in found]


def mean_f1(counts: Sequence[Counts]) -> float | None:
    """Mean F1 over thresholds (CLRNet's mF1), given the summed counts at each of ``MF1_THRESHOLDS``."""
    scores = [count.f1 for count in counts]
    if not scores or None in scores:
        return None
    return float(np.mean([score for score in scores if score is not None]))


def _prepared(
    lanes: Iterable[LaneLike] | AnnotatedImage, image_size: tuple[int, int], width: int
) -> AnnotatedImage:
    if not isinstance(lanes, AnnotatedImage):
        return prepare(lanes, image_size, width)
    if lanes.image_size != tuple(image_size) or lanes.width != width:
        raise MetricError(
            f"lanes drawn {lanes.width} px wide on (H, W) = {lanes.image_size} cannot be compared at "
            f"{width} px on {tuple(image_size)}; prepare them with the same image_size and width"
        )
    return lanes


def _points(lane: LaneLike) -> npt.NDArray[np.float64]:
    points = np.asarray(getattr(lane, "points", lane), dtype=np.float64)
    if points.size == 0:
        return points.reshape(0, 2)
    if points.ndim != 2 or points.shape[1] != 2:
        raise MetricError(f"a lane's points must have shape [P, 2], not {list(points.shape)}")
    if not np.isfinite(points).all():
        raise MetricError("a lane's points must be finite numbers; drop the points that have no position")
    return points


def _check_canvas(image_size: tuple[int, int], width: int) -> None:
    height, breadth = image_size
    if not (1 <= height <= 32767 and 1 <= breadth <= 32767):
        raise MetricError(
            f"image_size (H, W) must be 1..32767 pixels, not {tuple(image_size)}; CULane's is (590, 1640)"
        )
    if not 1 <= width <= 255 or int(width) != width:
        raise MetricError(
            f"width must be a whole number of pixels from 1 to 255, not {width}; CULane's is 30"
        )
