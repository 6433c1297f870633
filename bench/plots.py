"""The figures of a run, always drawn from its records. PNG, one style, one colour a method."""

from __future__ import annotations

import contextlib
import io
import math
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from bench import examples
from bench.colours import colour_of, label_of, marker_of
from bench.overlays import overlay_figure
from bench.record_plots import category_heat_map, head_sensitivity, subject_words
from bench.store import Record, RunFolder
from bench.table import Row, Section, Spread, current, method_rank, sections
from bench.whole_file import write_whole

DPI = 150
MOST_COLUMNS = 4
"""Detectors side by side; more of them get a line each."""
MIN_WIDTH = 4.2
LETTERS_PER_INCH = 11.5
"""Of a title."""
OVERLAY_METHODS = ("fp32", "minmax", "qdrop", "selective-focus")
OVERLAY_FRAMES = 4


@dataclass(frozen=True)
class Panel:
    """What one axis shows: a detector at a bit setting, and its full precision."""

    title: str
    rows: Sequence[Row]

    @property
    def full(self) -> float | None:
        """F1 in full precision."""
        return next((row.f1.mean for row in self.rows if row.method == "fp32" and row.f1), None)


def draw_all(folder: RunFolder) -> list[Path]:
    """Draws every figure that the records of a run allow into ``plots/``; gives the paths written."""
    records, _ = current(folder.records())
    done = [record for record in records if record.status == "done" and record.result is not None]
    target = folder.path / "plots"
    target.mkdir(exist_ok=True)
    written = []
    for name, figure in _figures(folder, done):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI)
        plt.close(figure)
        write_whole(target / f"{name}.png", buffer.getvalue())
        written.append(target / f"{name}.png")
    return written


def _figures(folder: RunFolder, records: Sequence[Record]) -> Iterator[tuple[str, Figure]]:
    with _style():
        parts = [part for part in sections(records) if any(row.f1 for row in part.rows)]
        for index, part in enumerate(parts):
            end = f"-{index + 1}" if len(parts) > 1 else ""
            yield f"f1{end}", f1_bars(part)
            if _quantized(part):
                yield f"lds-f1{end}", lds_against_f1(part)
                yield f"time-f1{end}", time_against_f1(part)
        for key, group in _by_subject(records).items():
            if any(record.result is not None and record.result.categories for record in group):
                yield f"categories-{key}", category_heat_map(group)
        for record in _first_seeds(records):
            if record.log.get("sensitivity"):
                yield f"sensitivity-{_file_words(record)}", head_sensitivity(record)
        for key, group in _by_subject(records, with_bits=True).items():
            shown = examples.load(folder, _for_overlay(group))
            if shown:
                yield f"overlay-{key}", overlay_figure(_spread(shown), subject_words(group[0]))


@contextlib.contextmanager
def _style() -> Iterator[None]:
    with (
        sns.axes_style("whitegrid"),
        sns.plotting_context("notebook", font_scale=0.85),
        plt.rc_context(
            {"figure.constrained_layout.use": True, "axes.spines.top": False, "axes.spines.right": False}
        ),
    ):
        yield


def f1_bars(part: Section) -> Figure:
    """F1 by method, a panel for each detector and bit setting; the dashed line is full precision."""
    methods = sorted({row.method for row in _quantized(part)} or {"fp32"}, key=method_rank)
    panels = _panels(part)
    figure, pairs = _grid(panels, width=max(2.4, 0.37 * len(methods) + 0.6), height=2.7)
    for axis, panel in pairs:
        for row in panel.rows:
            if row.f1 is not None and row.method in methods:
                _bar(axis, methods.index(row.method), row.method, row.f1)
        if panel.full is not None and methods != ["fp32"]:
            axis.axhline(100 * panel.full, color=colour_of("fp32"), linestyle="--", linewidth=1)
            axis.set_title(f"{panel.title} (FP32: {100 * panel.full:.1f})", fontsize=9.5)
        below = _is_last_line(axis, panels)
        names = [label_of(method) if below else "" for method in methods]
        axis.set_xticks(range(len(methods)), names, rotation=45, ha="right", rotation_mode="anchor")
        axis.set(xlim=(-0.6, len(methods) - 0.4), ylim=(0, 108))
        axis.set_ylabel("F1 (%)" if axis.get_subplotspec().is_first_col() else "")
        axis.grid(axis="x", visible=False)
    headline(figure, part.title)
    return figure


def _bar(axis: Axes, place: int, method: str, f1: Spread) -> None:
    """A bar with its value above, and the interval over seeds if there are several."""
    reach = None if f1.half_width is None else 100 * f1.half_width
    axis.bar(place, 100 * f1.mean, color=colour_of(method), yerr=reach, capsize=2.5, width=0.78)
    axis.annotate(
        f"{100 * f1.mean:.1f}",
        (place, 100 * f1.mean + (reach or 0)),
        (0, 3),
        textcoords="offset points",
        ha="center",
        fontsize=7,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
    )


def lds_against_f1(part: Section) -> Figure:
    """Lane distortion against F1: does the label-free measure predict accuracy?"""
    return _scatter(part, lambda row: row.lds, "Lane Distortion Score (px)", log=False)


def time_against_f1(part: Section) -> Figure:
    """Seconds of ranges and reconstruction against F1; upper left is best."""
    return _scatter(
        part,
        lambda row: None if row.reconstruction_s is None else Spread(row.reconstruction_s, None),
        "ranges and reconstruction (s)",
        log=True,
    )


def _scatter(part: Section, x_of: Callable[[Row], Spread | None], x_label: str, log: bool) -> Figure:
    """A point a method; bars are the intervals over seeds."""
    panels = _panels(part)
    figure, pairs = _grid(panels, width=2.9, height=2.6)
    for axis, panel in pairs:
        for row in panel.rows:
            x = x_of(row)
            if row.f1 is not None and x is not None and row.method != "fp32":
                _point(axis, row.method, x, row.f1)
        if panel.full is not None:
            axis.axhline(100 * panel.full, color=colour_of("fp32"), linestyle="--", linewidth=1)
        axis.margins(0.12)
        if log:
            _log_axis(axis)
        axis.set_xlabel(x_label if _is_last_line(axis, panels) else "", fontsize=9)
        axis.set_ylabel("F1 (%)" if axis.get_subplotspec().is_first_col() else "")
    _legend(figure, sorted({row.method for row in _quantized(part)}, key=method_rank))
    headline(figure, part.title)
    return figure


def _point(axis: Axes, method: str, x: Spread, f1: Spread) -> None:
    reach = [None if one.half_width is None else scale * one.half_width for one, scale in ((x, 1), (f1, 100))]
    axis.errorbar(
        x.mean, 100 * f1.mean, xerr=reach[0], yerr=reach[1], color="#666666", linewidth=0.8, zorder=2
    )
    axis.scatter(
        x.mean,
        100 * f1.mean,
        color=colour_of(method),
        marker=marker_of(method),
        s=55,
        edgecolor="black",
        linewidth=0.5,
        zorder=3,
    )


def _log_axis(axis: Axes) -> None:
    """A logarithmic x axis whose few ticks are plain numbers."""
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(log_ticks(*axis.get_xlim())))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_locator(NullLocator())


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two positive ones: as many as a small logarithmic axis has room for."""
    if high / low < 5:
        return [float(tick) for tick in MaxNLocator(4).tick_values(low, high) if low <= tick <= high]
    steps = (1, 2, 5) if high / low < 80 else (1, 3) if high / low < 1000 else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10.0**k for k in decades for step in steps if low <= step * 10.0**k <= high]


def _is_last_line(axis: Axes, panels: list[list[Panel | None]]) -> bool:
    """Whether nothing is drawn below this axis."""
    place = axis.get_subplotspec()
    below = [line[place.colspan.start] for line in panels[place.rowspan.stop :]]
    return not any(below)


def _panels(part: Section) -> list[list[Panel | None]]:
    """The panels of a figure by line and column: a line a detector, or up to four detectors side by side.

    Full precision belongs to each panel of its detector; None where a detector has no such bit setting.
    """
    detectors = list(dict.fromkeys(_detector_words(row) for row in part.rows))
    bits = list(dict.fromkeys(row.bits for row in _quantized(part))) or ["FP32"]

    def panel(detector: str, setting: str) -> Panel | None:
        own = [row for row in part.rows if _detector_words(row) == detector]
        rows = [row for row in own if row.bits in (setting, "FP32")]
        measured = any(row.bits == setting for row in rows)
        return Panel(f"{detector} {setting}", rows) if measured else None

    lines = [[panel(detector, setting) for setting in bits] for detector in detectors]
    side_by_side = 1 < len(detectors) <= MOST_COLUMNS
    return [list(line) for line in zip(*lines, strict=True)] if side_by_side else lines


def _detector_words(row: Row) -> str:
    return row.detector if row.variant == "synthetic" else f"{row.detector} {row.variant}"


def _grid(
    panels: list[list[Panel | None]], width: float, height: float
) -> tuple[Figure, list[tuple[Axes, Panel]]]:
    """A figure with an axis a panel; only the outer ones of the grid are labelled by the caller's labels."""
    lines, columns = len(panels), len(panels[0])
    size = (max(MIN_WIDTH, width * columns), height * lines + 0.7)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False)
    pairs = []
    for axis, panel in zip(axes.flat, (panel for line in panels for panel in line), strict=True):
        axis.set_visible(panel is not None)
        if panel is not None:
            axis.set_title(panel.title, fontsize=10)
            pairs.append((axis, panel))
    return figure, pairs


def headline(figure: Figure, words: str) -> None:
    """The title above a figure, in as many lines as its width asks for."""
    letters = int(figure.get_figwidth() * LETTERS_PER_INCH)
    figure.suptitle(textwrap.fill(words, letters), fontsize=11)


def _legend(figure: Figure, methods: Sequence[str]) -> None:
    """One legend below all panels, instead of labels that could cover each other."""
    handles = [
        Line2D(
            [],
            [],
            color=colour_of(m),
            marker=marker_of(m),
            linestyle="",
            markeredgecolor="black",
            markersize=8,
        )
        for m in methods
    ]
    handles.append(Line2D([], [], color=colour_of("fp32"), linestyle="--", linewidth=1))
    names = [*(label_of(method) for method in methods), "FP32"]
    figure.legend(
        handles, names, loc="outside lower center", ncols=min(4, len(names)), fontsize=9, frameon=False
    )


def _quantized(part: Section) -> list[Row]:
    return [row for row in part.rows if row.method != "fp32" and row.f1]


def _by_subject(records: Sequence[Record], with_bits: bool = False) -> dict[str, list[Record]]:
    """Records by detector and data set (and bit setting, with full precision in each)."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if not with_bits or record.cell["method"] != "fp32":
            groups[_subject_key(record, with_bits)].append(record)
    if with_bits:
        for key in list(groups):
            groups[key] += [
                r for r in records if r.cell["method"] == "fp32" and key.startswith(_subject_key(r, False))
            ]
    return groups


def _subject_key(record: Record, with_bits: bool) -> str:
    cell = record.cell
    words = [cell["detector"], cell["variant"], cell["dataset"], f"{cell['images']}"]
    return "-".join([*words, f"w{cell['w_bits']}a{cell['a_bits']}"] if with_bits else words)


def _file_words(record: Record) -> str:
    cell = record.cell
    return f"{_subject_key(record, True)}-{cell['method']}-seed{cell['seed']}"


def _for_overlay(group: Sequence[Record]) -> list[Record]:
    """The first seed of the methods to show, in table order."""
    shown = {}
    for record in sorted(group, key=lambda r: (method_rank(r.cell["method"]), r.cell["seed"])):
        if record.cell["method"] in OVERLAY_METHODS:
            shown.setdefault(record.cell["method"], record)
    return list(shown.values()) or list(group)[:4]


def _first_seeds(records: Sequence[Record]) -> list[Record]:
    """Of the seeds of one setting the first."""
    first: dict[tuple[str, str], Record] = {}
    for record in sorted(records, key=lambda r: r.cell["seed"]):
        first.setdefault((_subject_key(record, True), record.cell["method"]), record)
    return list(first.values())


def _spread(shown: list[examples.Example]) -> list[examples.Example]:
    places = sorted({round(i) for i in np.linspace(0, len(shown) - 1, OVERLAY_FRAMES)})
    return [shown[place] for place in places]
