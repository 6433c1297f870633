"""Figures in panels: one for each detector and bit setting of a table, at sizes that fit a paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.colours import label_of
from bench.plot_style import COLUMN, PAGE
from bench.table import Row, Section, method_rank

MOST_COLUMNS = 3
MOST_DETECTORS = 4
"""Of one figure that shows all bit settings; with more of them each bit setting gets its own figure."""


@dataclass(frozen=True)
class Panel:
    """What one axis shows: a detector at a bit setting (or at all of them), and its full precision."""

    title: str
    rows: Sequence[Row]

    @property
    def full(self) -> float | None:
        """F1 in full precision."""
        return next((row.f1.mean for row in self.rows if row.method == "fp32" and row.f1), None)

    @property
    def quantized(self) -> list[Row]:
        return [row for row in self.rows if row.method != "fp32" and row.f1]


class Cell(NamedTuple):
    """An axis and what it shows."""

    axis: Axes
    panel: Panel
    first: bool
    """In the first column."""
    lowest: bool
    """Nothing is drawn below it."""

    def label(self, x: str, y: str) -> None:
        """Labels only at the outer edges of the grid."""
        self.axis.set(xlabel=x if self.lowest else "", ylabel=y if self.first else "")


def detector_words(row: Row) -> str:
    return row.detector if row.variant == "synthetic" else f"{row.detector} {row.variant}"


def quantized(part: Section) -> list[Row]:
    return [row for row in part.rows if row.method != "fp32" and row.f1]


def methods_of(panels: Sequence[Panel]) -> list[str]:
    """The methods on some panels, in table order; full precision only where there is nothing else."""
    names = {row.method for panel in panels for row in panel.quantized} or {"fp32"}
    return sorted(names, key=lambda name: (method_rank(name), name))


def by_figure(part: Section) -> dict[str, list[Panel]]:
    """The panels of each figure of a table, by the end of its file's name."""
    detectors = list(dict.fromkeys(detector_words(row) for row in part.rows if row.f1))
    settings = list(dict.fromkeys(row.bits for row in quantized(part))) or ["FP32"]
    panels = {(d, b): _panel(part, d, b) for d in detectors for b in settings}
    groups = [settings] if len(detectors) <= MOST_DETECTORS else [[bits] for bits in settings]
    return {
        "" if len(groups) == 1 else f"-{group[0].lower()}": [
            found for d in detectors for b in group if (found := panels[d, b]) is not None
        ]
        for group in groups
    }


def _panel(part: Section, detector: str, bits: str) -> Panel | None:
    """Full precision belongs to each panel of its detector; None where a detector has no such bit setting."""
    own = [row for row in part.rows if detector_words(row) == detector]
    rows = [row for row in own if row.bits in (bits, "FP32")]
    return Panel(f"{detector} {bits}", rows) if any(row.bits == bits for row in rows) else None


def by_detector(part: Section) -> list[Panel]:
    """A panel a detector, with all its bit settings."""
    names = list(dict.fromkeys(detector_words(row) for row in part.rows if row.f1))
    return [Panel(name, [row for row in part.rows if detector_words(row) == name]) for name in names]


def grid(panels: Sequence[Panel], height: float, extra: float = 0.75) -> tuple[Figure, list[Cell]]:
    """A figure with an axis a panel: one column wide for a single panel, else a page.

    height: inches of a line; extra: of headline and legend. Two bit settings stay side by side.
    """
    settings = len({panel.title.split()[-1] for panel in panels})
    columns = min(len(panels), settings if settings in (2, MOST_COLUMNS) else MOST_COLUMNS)
    lines = -(-len(panels) // columns)
    size = (COLUMN if columns == 1 else PAGE, height * lines + extra)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    cells = [
        Cell(axis, panel, place % columns == 0, place + columns >= len(panels))
        for place, (axis, panel) in enumerate(zip(axes.flat, panels, strict=False))
    ]
    for cell in cells:
        cell.axis.set_title(cell.panel.title)
    return figure, cells


def in_words(panels: Sequence[Panel], value: Callable[[Row], str]) -> str:
    """ "laneatt W4A4: min-max 75.0, OMSE 81.0. ..." for those who cannot see the panels."""
    sentences = []
    for panel in panels:
        said = [f"{label_of(row.method)} {value(row)}" for row in panel.rows if row.f1 and value(row)]
        sentences.append(f"{panel.title}: {', '.join(said)}.")
    return " ".join(sentences)
