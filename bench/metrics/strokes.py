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

import cv2
import numpy as np
import numpy.typing as npt

from bench.metrics.spline import PixelArray
from bench.metrics.step_strokes import LONGEST_STEP, StepStrokes, step_strokes

RunArray = npt.NDArray[np.int16]

WIDEST = 8192
"""Pixels of image width up to which 16-bit sums cannot overflow."""

NOWHERE = -(2**14)
"""How far a run reaches in a row without one: further out than any image is wide."""

MOST_TURNS = 8
"""Turns between up and down beyond which drawing a path is cheaper than joining the runs of its pieces."""


@dataclass(frozen=True, eq=False)
class Strokes:
    """The strokes of the lanes of one image, as layers of at most one run a row, disjoint within a lane.

    runs: [L, 2, H], start and end (exclusive) in pixels; an empty run has start = end.
    lane: [L], the lane that each layer belongs to.
    areas: [count], pixels of each lane.
    curveless: [count], true for a lane of fewer than two points, which has no curve to draw.
    """

    runs: RunArray
    lane: npt.NDArray[np.int64]
    areas: npt.NDArray[np.int64]
    curveless: npt.NDArray[np.bool_]

    def intersections(self, other: Strokes) -> npt.NDArray[np.int64]:
        """Pixels that lane i of self and lane j of other share: [count, other count]."""
        shared = np.minimum(self.runs[:, None, 1], other.runs[:, 1])
        shared -= np.maximum(self.runs[:, None, 0], other.runs[:, 0])
        by_layer = np.maximum(shared, 0, out=shared).sum(axis=2, dtype=np.int64)
        result = np.zeros((len(self.areas), len(other.areas)), dtype=np.int64)
        np.add.at(result, (self.lane[:, None], other.lane), by_layer)
        return result


def draw(paths: Sequence[PixelArray], image_size: tuple[int, int], thickness: int) -> Strokes:
    """Strokes of paths [M, 2] (x, y; no pixel equal to the one before it) on an image of size (H, W)."""
    strokes = step_strokes(thickness) if image_size[1] <= WIDEST else None
    pieces: list[PixelArray] = []
    lane_of_piece: list[int] = []
    layers: list[RunArray] = []
    lanes: list[int] = []
    for lane, path in enumerate(paths):
        walked, drawn = _split(path, image_size, strokes)
        pieces += walked
        lane_of_piece += [lane] * len(walked)
        if len(drawn):
            layers.append(_drawn_runs(drawn, image_size, thickness))
            lanes += [lane] * len(layers[-1])
    if strokes is not None and pieces:
        layers.append(_walked_runs(pieces, image_size, strokes))
        lanes += lane_of_piece
    runs = np.concatenate([np.zeros((0, 2, image_size[0]), dtype=np.int16), *layers])
    lane_of = np.array(lanes, dtype=np.int64)
    for lane in set(lane_of_piece):
        own = np.flatnonzero(lane_of == lane)
        if len(own) > 1:
            _make_disjoint(runs, own)
    areas = np.zeros(len(paths), dtype=np.int64)
    np.add.at(areas, lane_of, (runs[:, 1] - runs[:, 0]).sum(axis=1, dtype=np.int64))
    return Strokes(runs, lane_of, areas, np.array([len(path) == 0 for path in paths], dtype=bool))


def _split(
    path: PixelArray, image_size: tuple[int, int], strokes: StepStrokes | None
) -> tuple[list[PixelArray], PixelArray]:
    """A path as pieces to walk, each of one vertical direction, and one stretch to draw (maybe empty)."""
    if len(path) == 0 or strokes is None or min(image_size) <= 4 * strokes.clear:
        return [], path
    if len(path) == 1:
        path = np.repeat(path, 2, axis=0)  # a step that goes nowhere: a disc
    pixels = path.astype(np.int64)  # differences of 32-bit pixels may need more
    steps = np.diff(pixels, axis=0)
    unknown = np.flatnonzero(_unknown(pixels[:-1], steps, image_size, strokes))
    vertical = np.flatnonzero(steps[:, 1])
    falls = steps[vertical, 1] > 0
    turns = vertical[1:][falls[1:] != falls[:-1]].tolist()
    if len(turns) > MOST_TURNS:
        return [], path
    drawn = path[:0]
    stretches = [(0, len(steps))]
    if len(unknown):
        first, last = int(unknown[0]), int(unknown[-1]) + 1
        drawn = path[first : last + 1]
        stretches = [(0, first), (last, len(steps))]
    pieces = []
    for begin, end in stretches:
        bounds = [begin, *(turn for turn in turns if begin < turn < end), end]
        pieces += [path[a : b + 1] for a, b in pairwise(bounds) if b > a]
    return pieces, drawn


def _unknown(
    start: npt.NDArray[np.int64],
    steps: npt.NDArray[np.int64],
    image_size: tuple[int, int],
    strokes: StepStrokes,
) -> npt.NDArray[np.bool_]:
    """[steps], whether the stroke of a step has to be drawn to be known."""
    long = np.abs(steps).max(axis=1) > LONGEST_STEP
    number = strokes.number(*np.clip(steps, -LONGEST_STEP, LONGEST_STEP).T)
    unknown: npt.NDArray[np.bool_] = long | strokes.irregular[number]
    height, width = image_size
    clear = strokes.clear
    near_side = np.zeros((2, len(steps)), dtype=bool)
    for border, (axis, inside) in enumerate(
        ((0, start[:, 0]), (0, width - 1 - start[:, 0]), (1, start[:, 1]), (1, height - 1 - start[:, 1]))
    ):
        near = np.flatnonzero(np.abs(inside) <= clear)
        if len(near):
            unknown[near] |= strokes.at_border[border, inside[near] + clear, number[near]]
            near_side[axis, near] = True
    unknown |= near_side.all(axis=0)  # in a corner two borders work together
    return unknown


def _walked_runs(pieces: list[PixelArray], image_size: tuple[int, int], strokes: StepStrokes) -> RunArray:
    """Runs [pieces, 2, H] of pieces of paths, each of known steps in one vertical direction."""
    height, width = image_size
    clear, radius = strokes.clear, len(strokes.half_widths) // 2
    margin = 2 * clear  # rows above and below the image, so that nothing spills into the next piece
    span = height + 2 * margin
    x, y = np.concatenate(pieces).astype(np.int64).T
    dx, dy = np.diff(x), np.diff(y)
    x = np.clip(x, -clear, width - 1 + clear)  # nothing shows from further out
    row = np.clip(y, -clear, height - 1 + clear) + margin
    lengths = np.array([len(piece) for piece in pieces])
    row += np.repeat(np.arange(len(pieces)) * span, lengths)
    reach = np.stack([-x, x]).astype(np.int16)  # to the left and to the right of column 0

    # The furthest pixels of each piece in each row; those of one row follow each other.
    first = np.flatnonzero(np.diff(row, prepend=-1))
    centres = np.full((2, len(pieces) * span), NOWHERE, dtype=np.int16)
    centres[:, row[first]] = np.maximum.reduceat(reach, first, axis=1)
    # Row r of the discs on them: the furthest of the centre k rows away and the disc's half width there.
    discs = np.full_like(centres, NOWHERE)
    inner = discs[:, radius:-radius] if radius else discs
    for k, half_width in enumerate(strokes.half_widths):
        np.maximum(inner, centres[:, k : k + inner.shape[1]] + half_width, out=inner)

    within = np.ones(len(dx), dtype=bool)
    within[np.cumsum(lengths)[:-1] - 1] = False  # from one piece to the next
    step = np.flatnonzero(within)
    number = strokes.number(dx[step], dy[step])
    count = strokes.additions[number]
    of_step = np.repeat(step, count)
    offset = np.arange(len(of_step)) - np.repeat(np.cumsum(count) - count, count)
    addition = np.repeat((np.cumsum(strokes.additions) - strokes.additions)[number], count) + offset
    side = strokes.added_side[addition]
    place = side * centres.shape[1] + row[of_step] + strokes.added_row[addition]
    np.maximum.at(discs.reshape(-1), place, reach[side, of_step] + strokes.added_reach[addition])

    shown = discs.reshape(2, len(pieces), span)[:, :, margin : margin + height]
    runs = np.empty((len(pieces), 2, height), dtype=np.int16)
    np.clip(-shown[0], 0, width, out=runs[:, 0])
    np.clip(shown[1] + 1, runs[:, 0], width, out=runs[:, 1])
    return runs


def _make_disjoint(runs: RunArray, layers: npt.NDArray[np.int64]) -> None:
    """Cut the runs of some layers, in place, so that no pixel is in two of them."""
    order = np.argsort(runs[layers, 0], axis=0, kind="stable")
    sorted_runs = np.take_along_axis(runs[layers], order[:, None], axis=0)
    covered = np.maximum.accumulate(sorted_runs[:, 1], axis=0)
    np.maximum(sorted_runs[1:], covered[:-1, None], out=sorted_runs[1:])
    runs[layers] = sorted_runs


def _drawn_runs(path: PixelArray, image_size: tuple[int, int], thickness: int) -> RunArray:
    """Runs [L, 2, H] of one path of at least one pixel, read off a drawing."""
    height, width = image_size
    # A smaller canvas may only cut where nothing is drawn: OpenCV clips an outline before it fills it in, so
    # a cut through a stroke can change pixels along the cut.
    margin = thickness // 2 + 3
    left, top = np.clip(path.min(axis=0).astype(np.int64) - margin, 0, (width, height))
    right, bottom = np.clip(path.max(axis=0).astype(np.int64) + margin + 1, 0, (width, height))
    if path.min() < -(2**30):  # a curve that is not a number: integers are at their limit, so shift nothing
        left, top, right, bottom = np.int64(0), np.int64(0), np.int64(width), np.int64(height)
    if left >= right or top >= bottom:
        return np.zeros((0, 2, height), dtype=np.int16)
    canvas = np.zeros((bottom - top, right - left), dtype=np.uint8)
    if len(path) == 1:
        path = np.repeat(path, 2, axis=0)  # a line to itself is a disc; a polyline of one point is nothing
    cv2.polylines(canvas, [path - np.array([left, top], dtype=np.int32)], False, 1, thickness)
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
