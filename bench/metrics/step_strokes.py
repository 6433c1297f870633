"""What OpenCV draws for one short step of a path, learned from OpenCV itself.

The stroke of a step is the disc on its first pixel, the disc on its last, and a few pixels that the band
between them adds. It moves with the step, so knowing it once replaces drawing it. Only next to the borders of
an image it may look different (OpenCV clips an outline before it fills it in); the steps that do are listed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

Canvas = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int64]

LONGEST_STEP = 3
"""Pixels in x or y. Longer steps are rare, and some leave gaps in a row."""

THICKEST = 64
"""Pixels. Learning takes longer, the wider the lanes; above this they are drawn one by one."""

_REACH = range(-LONGEST_STEP, LONGEST_STEP + 1)
_STEPS = [(dx, dy) for dx in _REACH for dy in _REACH]


@dataclass(frozen=True, eq=False)
class StepStrokes:
    """The strokes of all steps of at most ``LONGEST_STEP`` pixels in x and y, numbered by ``number``.

    half_widths: [2 radius + 1], pixels that the disc reaches left and right of its centre, by row from the
    top.
    clear: pixels from a border at which the border stops to matter.
    additions: [steps], how many runs the band makes longer than the discs do.
    added_row, added_side, added_reach: [sum of additions], for each of them the row from the first pixel
    down, the side (0 left, 1 right), and the pixels from the first pixel's column to the end of the run.
    irregular: [steps], true for a step with a row of more than one run.
    at_border: [4, 2 clear + 1, steps], true for a step that looks different because its first pixel is
    -clear..clear pixels inside of the left, right, top or bottom border.
    """

    half_widths: npt.NDArray[np.int16]
    clear: int
    additions: IntArray
    added_row: IntArray
    added_side: IntArray
    added_reach: npt.NDArray[np.int16]
    irregular: npt.NDArray[np.bool_]
    at_border: npt.NDArray[np.bool_]

    @staticmethod
    def number(dx: npt.NDArray[np.int32], dy: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """The numbers of steps."""
        return (dx + LONGEST_STEP) * (2 * LONGEST_STEP + 1) + dy + LONGEST_STEP


@lru_cache(maxsize=8)
def step_strokes(thickness: int) -> StepStrokes | None:
    """The strokes of a thickness in pixels, or None above ``THICKEST``."""
    if thickness > THICKEST:
        return None
    centre = thickness + LONGEST_STEP + 2  # clear of all borders, with any rounding
    drawn = [_draw((2 * centre + 1, 2 * centre + 1), (centre, centre), step, thickness) for step in _STEPS]
    disc_rows = drawn[_STEPS.index((0, 0))].sum(axis=1, dtype=np.int64)
    half_widths = (disc_rows[disc_rows > 0] - 1) // 2
    clear = len(half_widths) // 2 + LONGEST_STEP + 1

    additions = [
        _additions(stroke, centre, step, half_widths) for stroke, step in zip(drawn, _STEPS, strict=True)
    ]
    rows, sides, reaches = (
        np.array([addition[part] for of_step in additions for addition in of_step or []]) for part in range(3)
    )
    return StepStrokes(
        half_widths=half_widths.astype(np.int16),
        clear=clear,
        additions=np.array([len(of_step or []) for of_step in additions]),
        added_row=rows.astype(np.int64),
        added_side=sides.astype(np.int64),
        added_reach=reaches.astype(np.int16),
        irregular=np.array([of_step is None for of_step in additions]),
        at_border=_border_effects(drawn, centre, clear, thickness),
    )


def _draw(size: tuple[int, int], start: tuple[int, int], step: tuple[int, int], thickness: int) -> Canvas:
    canvas = np.zeros(size, dtype=np.uint8)
    cv2.line(canvas, start, (start[0] + step[0], start[1] + step[1]), 1, thickness)
    return canvas


def _additions(
    stroke: Canvas, centre: int, step: tuple[int, int], half_widths: IntArray
) -> list[tuple[int, int, int]] | None:
    """(row, side, reach) wherever a stroke goes beyond its two discs; None if runs cannot describe it so."""
    radius = len(half_widths) // 2
    discs: dict[int, list[int]] = {}
    for x, y in ((0, 0), step):
        for row, half_width in enumerate(half_widths.tolist(), start=y - radius):
            left, right = discs.get(row, [-centre, -centre])
            discs[row] = [max(left, half_width - x), max(right, half_width + x)]
    additions = []
    for row in np.flatnonzero(stroke.any(axis=1)).tolist():
        columns = np.flatnonzero(stroke[row]) - centre
        reaches = (-int(columns[0]), int(columns[-1]))
        within = discs.get(row - centre)
        if within is None or len(columns) != sum(reaches) + 1 or any(np.less(reaches, within)):
            return None
        additions += [(row - centre, side, reaches[side]) for side in (0, 1) if reaches[side] > within[side]]
    return additions


def _border_effects(drawn: list[Canvas], centre: int, clear: int, thickness: int) -> npt.NDArray[np.bool_]:
    """[4, 2 clear + 1, steps]: whether a step's stroke changes with its place at a border."""
    effects = np.zeros((4, 2 * clear + 1, len(_STEPS)), dtype=bool)
    size = 2 * centre + 1
    for inside in range(-clear, clear + 1):
        places = (
            (inside, centre),
            (size - 1 - inside, centre),
            (centre, inside),
            (centre, size - 1 - inside),
        )
        for border, (x, y) in enumerate(places):
            for number, (stroke, step) in enumerate(zip(drawn, _STEPS, strict=True)):
                moved = np.zeros_like(stroke)
                right, down = x - centre, y - centre
                moved[max(down, 0) : size + min(down, 0), max(right, 0) : size + min(right, 0)] = stroke[
                    max(-down, 0) : size + min(-down, 0), max(-right, 0) : size + min(-right, 0)
                ]
                effects[border, inside + clear, number] = not np.array_equal(
                    moved, _draw(stroke.shape, (x, y), step, thickness)
                )
    return effects
