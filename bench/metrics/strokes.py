"""What a lane covers when the CULane evaluator draws it, as runs of pixels in rows instead of a picture.

The stroke of a path is the union of OpenCV's 8-connected lines of some thickness between successive pixels.
Where
the path keeps to short steps and to one vertical direction, that is one run of pixels in each row: the
strokes of two neighbouring steps share the disc on their common pixel, which reaches over all the rows that
they share. Such stretches are computed ("walked"), the others are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from bench.metrics.spline import PixelPaths
from bench.metrics.step_strokes import LONGEST_STEP, UNKNOWN, StepStrokes, step_strokes

Path = npt.NDArray[np.int32]
"""[2, M], x and y."""

RunArray = npt.NDArray[np.int16]

WIDEST = 8192
"""Pixels of image width up to which 16-bit sums cannot overflow."""

NOWHERE = -(2**14)
"""How far a run reaches in a row without one: further out than any image is wide."""

MOST_TURNS = 8
"""Turns between up and down beyond which drawing a path is cheaper than joining the runs of its pieces."""


class Stretch(NamedTuple):
    """Part of a lane's path, from one pixel of all paths to another."""

    lane: int
    first: int
    last: int


@dataclass(frozen=True, eq=False)
class Strokes:
    """The strokes of the lanes of one image, as layers of at most one run a row, disjoint within a lane.

    runs: [L, 2, R], start and end (exclusive) in pixels, in the rows from ``top`` on; an empty run has start = end.
    lane: [L], ascending, the lane that each layer belongs to.
    areas: [count], pixels of each lane.
    curveless: [count], true for a lane of fewer than two points, which has no curve to draw.
    """

    runs: RunArray
    lane: npt.NDArray[np.int64]
    areas: npt.NDArray[np.int64]
    curveless: npt.NDArray[np.bool_]
    top: int = 0

    def intersections(self, other: Strokes) -> npt.NDArray[np.int64]:
        """Pixels that lane i of self and lane j of other share: [count, other count]."""
        own, others = self.common_rows(other)
        shared = np.minimum(own[:, None, 1], others[:, 1])
        shared -= np.maximum(own[:, None, 0], others[:, 0])
        by_layer = np.maximum(shared, 0, out=shared).sum(axis=2, dtype=np.int64)
        result = np.zeros((len(self.areas), len(other.areas)), dtype=np.int64)
        np.add.at(result, (self.lane[:, None], other.lane), by_layer)
        return result

    def common_rows(self, other: Strokes) -> tuple[RunArray, RunArray]:
        """The runs of both sides in the rows that both have."""
        top = max(self.top, other.top)
        end = max(top, min(self.top + self.runs.shape[2], other.top + other.runs.shape[2]))
        return (
            self.runs[:, :, top - self.top : end - self.top],
            other.runs[:, :, top - other.top : end - other.top],
        )

    def of_lanes(self, first: int, last: int) -> Strokes:
        """The strokes of lanes first..last - 1, numbered from 0, as a copy of the rows that they reach."""
        begin, end = np.searchsorted(self.lane, [first, last])
        runs = self.runs[begin:end]
        reached = np.flatnonzero((runs[:, 0] != runs[:, 1]).any(axis=0))
        rows = slice(reached[0], reached[-1] + 1) if len(reached) else slice(0)
        return Strokes(
            runs[:, :, rows].copy(),
            self.lane[begin:end] - first,
            self.areas[first:last],
            self.curveless[first:last],
            self.top + int(rows.start or 0),
        )


def draw(paths: PixelPaths, image_size: tuple[int, int], thickness: int) -> Strokes:
    """Strokes of paths (x, y; no pixel twice in a row) on an image of size (H, W)."""
    strokes = step_strokes(thickness) if image_size[1] <= WIDEST else None
    if strokes is None or min(image_size) <= 4 * strokes.clear:
        pieces: list[Stretch] = []
        forms = np.empty(0, dtype=np.int32)
        drawn = [(lane, paths[lane]) for lane in range(len(paths))]
    else:
        forms = _forms(paths, image_size, strokes)
        pieces, drawn = _split(paths, forms)
    layers: list[RunArray] = []
    lanes = [piece.lane for piece in pieces]
    if strokes is not None and pieces:
        layers.append(_walked_runs(paths, pieces, forms, image_size, strokes))
    for lane, path in drawn:
        if path.shape[1]:
            layers.append(drawn_runs(path, image_size, thickness))
            lanes += [lane] * len(layers[-1])
    runs = np.concatenate([np.zeros((0, 2, image_size[0]), dtype=np.int16), *layers])
    lane_of = np.array(lanes, dtype=np.int64)
    runs, lane_of = in_order(runs, lane_of)
    layer_counts = np.bincount(lane_of, minlength=len(paths))
    for lane in {piece.lane for piece in pieces if layer_counts[piece.lane] > 1}:
        make_disjoint(runs, np.flatnonzero(lane_of == lane))
    return Strokes(runs, lane_of, areas_of(runs, lane_of, len(paths)), np.diff(paths.bounds) == 0)


def in_order(runs: RunArray, lane: npt.NDArray[np.int64]) -> tuple[RunArray, npt.NDArray[np.int64]]:
    """Layers and their lanes, those of the first lane first."""
    order = np.argsort(lane, kind="stable")
    return runs[order], lane[order]


def areas_of(runs: RunArray, lane: npt.NDArray[np.int64], lanes: int) -> npt.NDArray[np.int64]:
    """[lanes], pixels of disjoint layers."""
    areas = np.zeros(lanes, dtype=np.int64)
    np.add.at(areas, lane, (runs[:, 1] - runs[:, 0]).sum(axis=1, dtype=np.int64))
    return areas


def _split(paths: PixelPaths, forms: npt.NDArray[np.int32]) -> tuple[list[Stretch], list[tuple[int, Path]]]:
    """Stretches to walk, each of one vertical direction, and paths to draw, each with its lane."""
    steps = np.diff(paths.pixels[1])
    unknown = np.flatnonzero(forms == UNKNOWN)
    vertical = np.flatnonzero(steps)
    falls = steps[vertical] > 0
    turned = falls[1:] != falls[:-1]
    turns, before_turns = vertical[1:][turned], vertical[:-1][turned]
    walked: list[Stretch] = []
    drawn: list[tuple[int, Path]] = []
    # A step belongs to the lane of its first pixel; the one from a lane to the next belongs to nobody.
    begins, ends = paths.bounds[:-1], paths.bounds[1:] - 1
    unknown_range = zip(np.searchsorted(unknown, begins), np.searchsorted(unknown, ends), strict=True)
    turn_range = zip(np.searchsorted(before_turns, begins), np.searchsorted(turns, ends), strict=True)
    for lane, (own_unknown, own_turns) in enumerate(zip(unknown_range, turn_range, strict=True)):
        begin, end = int(begins[lane]), int(ends[lane])
        bends = turns[slice(*own_turns)].tolist()
        if end <= begin or len(bends) > MOST_TURNS:
            drawn.append((lane, paths[lane]))
            continue
        stretches = [(begin, end)]
        if own_unknown[0] < own_unknown[1]:
            first, last = int(unknown[own_unknown[0]]), int(unknown[own_unknown[1] - 1]) + 1
            drawn.append((lane, paths.pixels[:, first : last + 1]))
            stretches = [(begin, first), (last, end)]
        for start, stop in stretches:
            cuts = [start, *(bend for bend in bends if start < bend < stop), stop]
            walked += [Stretch(lane, a, b) for a, b in pairwise(cuts) if b > a]
    return walked, drawn


def _forms(paths: PixelPaths, image_size: tuple[int, int], strokes: StepStrokes) -> npt.NDArray[np.int32]:
    """[pixels - 1], the form of the stroke from each pixel to the next; UNKNOWN where it has to be drawn."""
    steps = np.diff(paths.pixels, axis=1)
    long = (steps > LONGEST_STEP) | (steps < -LONGEST_STEP)
    number = strokes.number(*np.clip(steps, -LONGEST_STEP, LONGEST_STEP))
    forms: npt.NDArray[np.int32] = strokes.form[number]
    height, width = image_size
    clear = strokes.clear
    (x, y), near = paths.pixels[:, :-1], np.zeros(steps.shape, dtype=bool)
    borders = [(0, x), (0, width - 1 - x), (1, y), (1, height - 1 - y)]
    for border, (axis, inside) in enumerate(borders):
        close = np.flatnonzero((inside >= -clear) & (inside <= clear))
        if len(close):
            forms[close] = strokes.form_at[border, inside[close] + clear, number[close]]
            near[axis, close] = True
    forms[near.all(axis=0)] = UNKNOWN  # in a corner two borders work together
    forms[np.logical_or(long[0], long[1])] = UNKNOWN
    return forms


def _walked_runs(
    paths: PixelPaths,
    pieces: Sequence[Stretch],
    forms: npt.NDArray[np.int32],
    image_size: tuple[int, int],
    strokes: StepStrokes,
) -> RunArray:
    """Runs [pieces, 2, H] of pieces of paths, each of known steps in one vertical direction."""
    height, width = image_size
    clear, radius = strokes.clear, len(strokes.half_widths) // 2
    margin = 2 * clear  # rows above and below the image, so that nothing spills into the next piece
    span = height + 2 * margin
    chosen = np.concatenate([np.arange(piece.first, piece.last + 1) for piece in pieces])
    x, y = paths.pixels[:, chosen]
    x = np.clip(x, -clear, width - 1 + clear)  # nothing shows from further out
    row = np.clip(y, -clear, height - 1 + clear) + margin
    lengths = np.array([piece.last + 1 - piece.first for piece in pieces])
    row += np.repeat(np.arange(len(pieces), dtype=np.int32) * span, lengths)
    reach = np.stack([-x, x]).astype(np.int16)  # to the left and to the right of column 0

    # The furthest pixels of each piece in each row; those of one row follow each other.
    first = np.flatnonzero(np.diff(row, prepend=-1))
    centres = np.full((2, len(pieces) * span), NOWHERE, dtype=np.int16)
    centres[:, row[first]] = np.maximum.reduceat(reach, first, axis=1)
    # Row r of the discs on them: the furthest of the centre k rows away and the disc's half width there.
    discs = np.full_like(centres, NOWHERE)
    inner = discs[:, radius:-radius] if radius else discs
    reached = np.empty_like(inner)
    for k, half_width in enumerate(strokes.half_widths):
        np.add(centres[:, k : k + inner.shape[1]], half_width, out=reached)
        np.maximum(inner, reached, out=inner)

    within = np.ones(len(chosen) - 1, dtype=bool)
    within[np.cumsum(lengths)[:-1] - 1] = False  # from one piece to the next
    step = np.flatnonzero(within)
    form = forms[chosen[step]]
    count = strokes.additions[form]
    of_step = np.repeat(step, count)
    offset = np.arange(len(of_step)) - np.repeat(np.cumsum(count) - count, count)
    addition = np.repeat((np.cumsum(strokes.additions) - strokes.additions)[form], count) + offset
    side = strokes.added_side[addition]
    place = side * centres.shape[1] + row[of_step] + strokes.added_row[addition]
    np.maximum.at(discs.reshape(-1), place, reach[side, of_step] + strokes.added_reach[addition])

    shown = discs.reshape(2, len(pieces), span)[:, :, margin : margin + height]
    runs = np.empty((len(pieces), 2, height), dtype=np.int16)
    np.clip(-shown[0], 0, width, out=runs[:, 0])
    np.clip(shown[1] + 1, runs[:, 0], width, out=runs[:, 1])
    return runs


def make_disjoint(runs: RunArray, layers: npt.NDArray[np.int64]) -> None:
    """Cut the runs of some layers, in place, so that no pixel is in two of them."""
    own = runs[layers]
    rows = np.flatnonzero(np.count_nonzero(own[:, 1] > own[:, 0], axis=0) > 1)
    shared = own[:, :, rows]
    shared = np.take_along_axis(shared, np.argsort(shared[:, :1], axis=0, kind="stable"), axis=0)
    covered = np.maximum.accumulate(shared[:, 1], axis=0)
    np.maximum(shared[1:], covered[:-1, None], out=shared[1:])
    runs[layers[:, None, None], np.arange(2)[:, None], rows] = shared


def drawn_runs(path: Path, image_size: tuple[int, int], thickness: int) -> RunArray:
    """Runs [L, 2, H] of one path [2, M >= 1], read off a drawing."""
    height, width = image_size
    # A smaller canvas may only cut where nothing is drawn: OpenCV clips an outline before it fills it in, so
    # a cut through a stroke can change pixels along the cut.
    margin = thickness // 2 + 3
    left, top = np.clip(path.min(axis=1).astype(np.int64) - margin, 0, (width, height))
    right, bottom = np.clip(path.max(axis=1).astype(np.int64) + margin + 1, 0, (width, height))
    if path.min() < -(2**30):  # a curve that is not a number: integers are at their limit, so shift nothing
        left, top, right, bottom = np.int64(0), np.int64(0), np.int64(width), np.int64(height)
    if left >= right or top >= bottom:
        return np.zeros((0, 2, height), dtype=np.int16)
    canvas = np.zeros((bottom - top, right - left), dtype=np.uint8)
    if path.shape[1] == 1:
        path = np.repeat(path, 2, axis=1)  # a line to itself is a disc; a polyline of one point is nothing
    cv2.polylines(canvas, [(path - np.array([[left], [top]], dtype=np.int32)).T], False, 1, thickness)
    return _runs(canvas, int(left), int(top), height)


def _runs(canvas: npt.NDArray[np.uint8], left: int, top: int, height: int) -> RunArray:
    """The runs of ones in a canvas with its corner at (left, top) of an image of H rows: [L, 2, H]."""
    # With a column of zeros between rows, every run has its two edges in one flat array.
    framed = np.zeros((canvas.shape[0], canvas.shape[1] + 1), dtype=bool)
    framed[:, 1:] = canvas
    flat = framed.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    if flat[-1]:
        edges = np.append(edges, len(flat) - 1)
    row, start = np.divmod(edges[::2], framed.shape[1])
    end = start + edges[1::2] - edges[::2]
    layer = np.arange(len(row)) - np.searchsorted(row, row)
    runs = np.zeros((layer.max(initial=-1) + 1, 2, height), dtype=np.int16)
    runs[layer, 0, row + top] = start + left
    runs[layer, 1, row + top] = end + left
    return runs
