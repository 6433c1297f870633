"""The Lane Distortion Score (LDS): how far, in pixels, one set of lanes lies from another.

The paper names the measure; the definition here is our reading of it, written out in docs/method.md. A lane
is its x(y) on fixed rows. Lanes are matched one to one with least total cost, and

    LDS(A, B) = total cost / max(1, (lane, row) points in A or B),    0 <= LDS <= delta, in pixels.

Every overlapping row of a matched pair costs min(|dx|, delta), every row that only one side has costs delta.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from scipy.optimize import linear_sum_assignment

from selective_focus.detector import FloatArray, Lane

Norm = Literal["l1", "l2"]
Reduction = Literal["mean", "sum"]

ROW_STEP = 10.0
"""Pixels between rows at REFERENCE_SIZE; CULane annotates on these rows."""
DELTA = 30.0
"""Pixels that a lost point costs at REFERENCE_SIZE; the width of a lane in CULane's metric."""
REFERENCE_SIZE = (590, 1640)

_EDGE = 1e-3  # px: a lane that ends this close to a row reaches it (float32 decodes give 589.99997)
_FAR = 1e9  # px: farther points are moved here, so that differences stay finite
_TIE = 1e-9  # of a lost point's cost: between equally cheap matchings, the one that overlaps on fewer rows


class LaneDistortion(NamedTuple):
    """LDS of one image (or its mean over images) and its parts, in pixels; the parts sum to the score."""

    score: float
    displacement: float
    """Points that both sides have, moved."""
    missing: float
    """Points that only the reference has."""
    extra: float
    """Points that only the other side has."""


@dataclass(frozen=True, eq=False)
class RowLanes:
    """The L lanes of one image on R fixed rows, made by ``sample_rows``: what LDS compares.

    x: [L, R] pixels, 0 where not covered.  covered: [L, R], 1 where the lane has the row, else 0.
    """

    x: FloatArray
    covered: FloatArray
    image_size: tuple[int, int]
    row_step: float


Lanes = RowLanes | Sequence[Lane | FloatArray]
"""The lanes of one image: detected lanes or [P, 2] arrays (x, y in pixels), or either sampled on rows."""


def sample_rows(
    lanes: Sequence[Lane | FloatArray],
    image_size: tuple[int, int] = REFERENCE_SIZE,
    row_step: float | None = None,
) -> RowLanes:
    """Samples lanes on the rows y = H - row_step * k, k = 0, 1, ..., while y >= 0.

    lanes: of one image, in pixels of a frame of ``image_size`` (H, W).
    row_step: pixels between rows; None is 10 px at 590 rows, scaled with H.

    A lane covers the rows between its lowest and highest y and is linear between its points, in whatever
    order they come; points at one y are averaged. A lane that lies between two rows (one point, or
    horizontal) counts as one point on the row nearest to it, so that no lane in the frame goes unseen.
    Points that are not finite are left out: rows lost that way count as missing. Rows outside the frame do
    not exist; x may lie outside it.
    Raises ValueError on lanes that are not [P, 2] or a size or step that is not positive.
    """
    height, width = image_size
    if height <= 0 or width <= 0:
        raise ValueError(f"image_size must be a positive (height, width), not {image_size}")
    step = ROW_STEP * height / REFERENCE_SIZE[0] if row_step is None else float(row_step)
    if not step > 0:
        raise ValueError(f"row_step must be a positive number of pixels, not {row_step}")
    rows = height - step * np.arange(math.floor(height / step + 1e-9) + 1, dtype=np.float64)
    x: FloatArray = np.zeros((len(lanes), len(rows)))
    covered = np.zeros_like(x)
    for lane, lane_x, lane_covered in zip(lanes, x, covered, strict=True):
        _sample_lane(lane, rows, step, lane_x, lane_covered)
    return RowLanes(x, covered, (height, width), step)


def _sample_lane(
    lane: Lane | FloatArray, rows: FloatArray, step: float, x: FloatArray, covered: FloatArray
) -> None:
    """Writes one lane into its row of ``x`` and ``covered``, both [R]."""
    lane_x, lane_y = _function_of_y(
        lane.points if isinstance(lane, Lane) else np.asarray(lane, dtype=np.float64)
    )
    if not len(lane_y):
        return
    height = float(rows[0])
    first = math.ceil((height - lane_y[-1] - _EDGE) / step)
    last = math.floor((height - lane_y[0] + _EDGE) / step)
    if first > last:  # between two rows
        middle = (lane_y[0] + lane_y[-1]) / 2
        nearest = math.floor((height - middle) / step + 0.5)
        if 0 <= nearest < len(rows):
            x[nearest], covered[nearest] = np.interp(middle, lane_y, lane_x), 1.0
        return
    first, last = max(first, 0), min(last, len(rows) - 1)
    if first > last:  # outside the frame
        return
    here = slice(first, last + 1)
    x[here], covered[here] = np.interp(rows[here], lane_y, lane_x), 1.0


def _function_of_y(points: FloatArray) -> tuple[FloatArray, FloatArray]:
    """[P, 2] -> x and strictly increasing y of the finite points, those at one y averaged."""
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"a lane's points must have shape [P, 2], not {list(points.shape)}")
    if not len(points):
        return points[:, 0], points[:, 1]
    if not np.abs(points).max() < _FAR:
        points = np.clip(points[np.isfinite(points).all(axis=1)], -_FAR, _FAR)
    x, y = points[:, 0], points[:, 1]
    if (y[1:] > y[:-1]).all():
        return x, y
    if (y[1:] < y[:-1]).all():
        return x[::-1], y[::-1]
    unique_y, at = np.unique(y, return_inverse=True)
    return np.bincount(at, weights=x) / np.bincount(at), unique_y


def lane_distortion_score(
    reference: Lanes,
    other: Lanes,
    image_size: tuple[int, int] = REFERENCE_SIZE,
    *,
    norm: Norm = "l1",
    reduction: Reduction = "mean",
    delta: float | None = None,
    row_step: float | None = None,
) -> LaneDistortion:
    """LDS between two sets of lanes of one image (our reading, docs/method.md).

    reference, other: lanes in pixels of a frame of ``image_size`` (H, W).
    norm: "l1" adds distances; "l2" takes the root of the mean square (also in pixels, also at most delta).
    reduction: "mean" over (lane, row) points; "sum" leaves out the division.
    delta: pixels that a lost point costs, and the most that a moved one can cost; None is 30 px at 1640
        columns, scaled with W.
    row_step: pixels between rows; None is 10 px at 590 rows, scaled with H.

    Swapping the sides swaps ``missing`` and ``extra`` and changes nothing else. ValueError on bad input.
    """
    return lane_distortion_scores(
        [reference], [other], image_size, norm=norm, reduction=reduction, delta=delta, row_step=row_step
    )[0]


def lane_distortion_scores(
    references: Sequence[Lanes],
    others: Sequence[Lanes],
    image_size: tuple[int, int] = REFERENCE_SIZE,
    *,
    norm: Norm = "l1",
    reduction: Reduction = "mean",
    delta: float | None = None,
    row_step: float | None = None,
) -> list[LaneDistortion]:
    """LDS of each of N images; the options are those of ``lane_distortion_score``.

    A side that is used again and again (the full-precision lanes) is best given as ``RowLanes``.
    """
    if len(references) != len(others):
        raise ValueError(
            f"LDS compares images one to one, but got {len(references)} references and {len(others)} others"
        )
    if norm not in get_args(Norm):
        raise ValueError(f"norm must be one of {', '.join(get_args(Norm))}, not {norm!r}")
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction must be one of {', '.join(get_args(Reduction))}, not {reduction!r}")
    cap = DELTA * image_size[1] / REFERENCE_SIZE[1] if delta is None else float(delta)
    if not 0 < cap < math.inf:
        raise ValueError(f"delta must be a positive number of pixels, not {delta}")
    return [
        _compare(_on_rows(a, image_size, row_step), _on_rows(b, image_size, row_step), cap, norm, reduction)
        for a, b in zip(references, others, strict=True)
    ]


def _on_rows(lanes: Lanes, image_size: tuple[int, int], row_step: float | None) -> RowLanes:
    if not isinstance(lanes, RowLanes):
        return sample_rows(lanes, image_size, row_step)
    if lanes.image_size != tuple(image_size) or (row_step is not None and row_step != lanes.row_step):
        raise ValueError(
            f"lanes sampled for a frame of {lanes.image_size} every {lanes.row_step:g} px cannot be compared "
            f"in one of {tuple(image_size)}, row_step {row_step}; call sample_rows with the same values"
        )
    return lanes


def _compare(a: RowLanes, b: RowLanes, delta: float, norm: Norm, reduction: Reduction) -> LaneDistortion:
    """LDS of one image.

    A pair never costs more than leaving both lanes unmatched, because a common row costs at most delta in the
    pair and 2 delta apart. So the least total cost is the cost of matching nothing less the greatest total
    saving, and a pair that saves nothing is a pair without common rows.
    """
    if a.row_step != b.row_step:
        raise ValueError(
            f"lanes sampled every {a.row_step:g} and every {b.row_step:g} px cannot be compared; "
            "call sample_rows with the same row_step"
        )
    lost = delta if norm == "l1" else delta * delta
    displaced, overlap = 0.0, 0.0
    if len(a.x) and len(b.x):
        distance = np.minimum(np.abs(a.x[:, None] - b.x[None]), delta)
        if norm == "l2":
            distance *= distance
        pair_distance = np.einsum("abr,ar,br->ab", distance, a.covered, b.covered)
        pair_overlap = a.covered @ b.covered.T
        saving = (2 - _TIE) * lost * pair_overlap - pair_distance
        pairs = linear_sum_assignment(saving, maximize=True)
        displaced, overlap = float(pair_distance[pairs].sum()), float(pair_overlap[pairs].sum())
    missing, extra = float(a.covered.sum()) - overlap, float(b.covered.sum()) - overlap
    cost = displaced + lost * (missing + extra)
    if cost == 0:
        return LaneDistortion(0.0, 0.0, 0.0, 0.0)
    mean = cost / (overlap + missing + extra) if reduction == "mean" else cost
    score = mean if norm == "l1" else math.sqrt(mean)
    part = score / cost
    return LaneDistortion(score, displaced * part, lost * missing * part, lost * extra * part)


def mean_distortion(distortions: Iterable[LaneDistortion]) -> LaneDistortion:
    """The mean of the score and of each part over images; ValueError when there are none."""
    table = np.array(list(distortions), dtype=np.float64)
    if not len(table):
        raise ValueError("the mean LDS of no images does not exist; give at least one image")
    return LaneDistortion(*table.mean(axis=0).tolist())


def corpus_lds(
    references: Sequence[Lanes],
    others: Sequence[Lanes],
    image_size: tuple[int, int] = REFERENCE_SIZE,
    *,
    norm: Norm = "l1",
    delta: float | None = None,
    row_step: float | None = None,
) -> LaneDistortion:
    """Mean LDS over images, each counting the same: the tables' columns ``lds``, ``lds_displacement``, ...

    The options are those of ``lane_distortion_score``; ValueError when there are no images.
    """
    return mean_distortion(
        lane_distortion_scores(references, others, image_size, norm=norm, delta=delta, row_step=row_step)
    )
