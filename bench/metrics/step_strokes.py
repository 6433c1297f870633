"""What OpenCV draws for one short step of a path, learned from OpenCV itself.

The stroke of a step is the disc on its first pixel, the disc on its last, and a few pixels that the band
between them adds. It moves with the step, so knowing it once replaces drawing it. Only next to the borders of
an image it may look different (OpenCV clips an outline before it fills it in); what it looks like there is learned too.
"""

from __future__ import annotations

from collections.abc import Iterator
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


UNKNOWN = -1
"""In place of a form's number: only drawing tells what such a step covers."""


@dataclass(frozen=True, eq=False)
class StepStrokes:
    """The strokes of all steps of at most ``LONGEST_STEP`` pixels in x and y, numbered by ``number``.

    A stroke is one of several forms: each step has its own (form = number of the step), and further forms next to
    borders.

    half_widths: [2 radius + 1], pixels that the disc reaches left and right of its centre, by row from the
    top.
    clear: pixels from a border at which the border stops to matter.
    form: [steps], the step's number, or UNKNOWN for a step with a row of more than one run.
    form_at: [4, 2 clear + 1, steps], the same where the first pixel is -clear..clear pixels inside of the left, right,
    top or bottom border.
    additions: [forms], how many runs the band makes longer than the discs do.
    added_row, added_side, added_reach: [sum of additions], for each of them the row from the first pixel
    down, the side (0 left, 1 right), and the pixels from the first pixel's column to the end of the run.
    """

    half_widths: npt.NDArray[np.int16]
    clear: int
    form: npt.NDArray[np.int32]
    form_at: npt.NDArray[np.int32]
    additions: IntArray
    added_row: IntArray
    added_side: IntArray
    added_reach: npt.NDArray[np.int16]

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
    size = 2 * centre + 1
    drawn = [_draw((size, size), (centre, centre), step, thickness) for step in _STEPS]
    disc_rows = drawn[_STEPS.index((0, 0))].sum(axis=1, dtype=np.int64)
    half_widths = (disc_rows[disc_rows > 0] - 1) // 2
    clear = len(half_widths) // 2 + LONGEST_STEP + 1

    forms = [
        _additions(stroke, (centre, centre), step, half_widths)
        for stroke, step in zip(drawn, _STEPS, strict=True)
    ]
    form = np.array([UNKNOWN if own is None else number for number, own in enumerate(forms)], dtype=np.int32)
    form_at = np.broadcast_to(form, (4, 2 * clear + 1, len(_STEPS))).copy()
    for border, inside, number, start, stroke in _border_effects(drawn, centre, clear, thickness):
        own = _additions(stroke, start, _STEPS[number], half_widths)
        form_at[border, inside + clear, number] = UNKNOWN if own is None else len(forms)
        if own is not None:
            forms.append(own)
    rows, sides, reaches = (
        np.array([addition[part] for own in forms for addition in own or []]) for part in range(3)
    )
    return StepStrokes(
        half_widths=half_widths.astype(np.int16),
        clear=clear,
        form=form,
        form_at=form_at,
        additions=np.array([len(own or []) for own in forms]),
        added_row=rows.astype(np.int64),
        added_side=sides.astype(np.int64),
        added_reach=reaches.astype(np.int16),
    )


def _draw(size: tuple[int, int], start: tuple[int, int], step: tuple[int, int], thickness: int) -> Canvas:
    canvas = np.zeros(size, dtype=np.uint8)
    cv2.line(canvas, start, (start[0] + step[0], start[1] + step[1]), 1, thickness)
    return canvas


def _additions(
    stroke: Canvas, start: tuple[int, int], step: tuple[int, int], half_widths: IntArray
) -> list[tuple[int, int, int]] | None:
    """(row, side, reach) wherever a stroke goes beyond its two discs; None if runs cannot describe it so.

    stroke: what was drawn on an image, from the pixel ``start`` (x, y). Discs end at the borders of the image.
    """
    radius = len(half_widths) // 2
    most = (start[0], stroke.shape[1] - 1 - start[0])  # a run reaches no further than the image
    discs: dict[int, list[int]] = {}
    for x, y in ((0, 0), step):
        for row, half_width in enumerate(half_widths.tolist(), start=start[1] + y - radius):
            left, right = discs.get(row, [-stroke.size, -stroke.size])
            discs[row] = [max(left, half_width - x), max(right, half_width + x)]
    additions = []
    for row in range(stroke.shape[0]):
        columns = np.flatnonzero(stroke[row]) - start[0]
        within = [min(pair) for pair in zip(discs.get(row, [-stroke.size] * 2), most, strict=True)]
        if not len(columns):
            if sum(within) >= 0:
                return None
            continue
        reaches = (-int(columns[0]), int(columns[-1]))
        if row not in discs or len(columns) != sum(reaches) + 1 or any(np.less(reaches, within)):
            return None
        additions += [
            (row - start[1], side, reaches[side]) for side in (0, 1) if reaches[side] > within[side]
        ]
    return additions


def _border_effects(
    drawn: list[Canvas], centre: int, clear: int, thickness: int
) -> Iterator[tuple[int, int, int, tuple[int, int], Canvas]]:
    """(border, pixels inside of it, step, start, stroke) wherever a stroke changes with its place at a border."""
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
                there = _draw(stroke.shape, (x, y), step, thickness)
                if not np.array_equal(moved, there):
                    yield border, inside, number, (x, y), there
