"""The figures of a run, always drawn from its records: one look, one colour and marker a method."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from bench.colours import colour_of, label_of, marker_of
from bench.panels import Panel, by_detector, by_figure, grid, in_words, methods_of, quantized
from bench.plot_style import INK, Plot, full_precision_handle, headline, legend_below, method_legend, save
from bench.record_plots import plots_of_records
from bench.store import RunFolder
from bench.table import Row, Section, Spread, current, sections

NARROW = 0.2
"""Inches of a bar below which its value stands upright."""


def draw_all(folder: RunFolder, formats: Sequence[str] = ("png",)) -> list[Path]:
    """Draws every figure that the records of a run allow into ``plots/``; gives the paths written."""
    return save(plots_of(folder), folder.path / "plots", formats)


def plots_of(folder: RunFolder) -> list[Plot]:
    """Every figure that the records of a run allow."""
    records, _ = current(folder.records())
    done = [record for record in records if record.status == "done" and record.result is not None]
    parts = [part for part in sections(done) if any(row.f1 for row in part.rows)]
    found: list[Plot] = []
    for index, part in enumerate(parts):
        found += _plots_of_section(part, f"-{index + 1}" if len(parts) > 1 else "")
    return [*found, *plots_of_records(folder, done)]


def _plots_of_section(part: Section, end: str) -> Iterator[Plot]:
    detectors = by_detector(part)
    for bits, panels in by_figure(part).items():
        title = part.title + (f", {bits[1:].upper()}" if bits else "")
        yield Plot(f"f1{end}{bits}", "f1", in_words(panels, _f1_words), partial(f1_bars, panels, title))
        if quantized(part):
            words = in_words(panels, lambda row: f"{_lds_words(row)} {_f1_words(row)}")
            yield Plot(f"lds-f1{end}{bits}", "lds-f1", words, partial(lds_against_f1, panels, title))
            words = in_words(panels, lambda row: f"{_seconds_words(row)} {_f1_words(row)}")
            yield Plot(f"time-f1{end}{bits}", "time-f1", words, partial(time_against_f1, panels, title))
    if len({row.bits for row in quantized(part)}) > 1:
        words = in_words(detectors, lambda row: f"{row.bits} {_f1_words(row)}")
        yield Plot(f"bits-f1{end}", "bits-f1", words, partial(f1_against_bits, detectors, part.title))


def f1_bars(panels: Sequence[Panel], title: str) -> Figure:
    """F1 by method, a panel for each detector and bit setting; the dashed line is full precision."""
    methods = methods_of(panels)
    figure, cells = grid(panels, height=1.75, extra=0.95)
    columns = len({cell.axis.get_subplotspec().colspan.start for cell in cells})
    room = figure.get_figwidth() / columns - 0.5
    ragged = len(panels) % columns > 0  # names below some columns would tear the lines of panels apart
    for cell in cells:
        for row in cell.panel.rows:
            if row.f1 is not None and row.method in methods:
                _bar(cell.axis, methods.index(row.method), row, room / len(methods) < NARROW / 0.78)
        _full_precision_line(cell.axis, cell.panel)
        if cell.panel.full is not None:
            cell.axis.set_title(f"{cell.panel.title} (FP32: {100 * cell.panel.full:.1f})")
        named = cell.lowest and not ragged
        names = [label_of(method) if named else "" for method in methods]
        cell.axis.set_xticks(range(len(methods)), names, rotation=40, ha="right", rotation_mode="anchor")
        cell.axis.set(xlim=(-0.6, len(methods) - 0.4), ylim=(0, 100))
        cell.label("", "F1 (%)")
        cell.axis.grid(axis="x", visible=False)
    if ragged:
        bars = [Patch(color=colour_of(method), label=label_of(method)) for method in methods]
        legend_below(figure, [*bars, full_precision_handle()])
    headline(figure, title)
    return figure


def _bar(axis: Axes, place: int, row: Row, upright: bool) -> None:
    """A bar with its interval, and its value inside, or above where the bar is too short."""
    assert row.f1 is not None
    height = 100 * row.f1.mean
    low, high = _ends(row)
    axis.bar(place, height, color=colour_of(row.method), width=0.78)
    axis.errorbar(
        place, height, yerr=[[height - low], [high - height]], color=INK, linewidth=0.9, capsize=2, zorder=4
    )
    inside = height > (30 if upright else 14)
    dark = sum(w * c for w, c in zip((0.3, 0.59, 0.11), to_rgb(colour_of(row.method)), strict=True)) < 0.5
    axis.annotate(
        f"{height:.1f}",
        (place, low if inside else high),
        (0, -2 if inside else 2),
        textcoords="offset points",
        ha="center",
        va="top" if inside else "bottom",
        rotation=90 if upright else 0,
        fontsize=6.5,
        color="#ffffff" if dark and inside else "#111111" if inside else INK,
    )


def lds_against_f1(panels: Sequence[Panel], title: str) -> Figure:
    """Lane distortion against F1: does the label-free measure predict accuracy?"""
    return _scatter(panels, title, lambda row: row.lds, "Lane Distortion Score (px)", trade=False)


def time_against_f1(panels: Sequence[Panel], title: str) -> Figure:
    """Seconds of ranges and reconstruction against F1, with the methods that no other one beats in both."""
    return _scatter(panels, title, _seconds, "reconstruction (s, log scale)", trade=True)


def _scatter(
    panels: Sequence[Panel], title: str, x_of: Callable[[Row], Spread | None], x_label: str, trade: bool
) -> Figure:
    """A point a method; bars are the 95 % intervals. trade: x is a cost, on a log axis, with its Pareto front."""
    figure, cells = grid(panels, height=1.8, extra=0.95)
    for cell in cells:
        axis = cell.axis
        points = [(x.mean, 100 * row.f1.mean) for row in cell.panel.quantized if (x := x_of(row)) and row.f1]
        for row in cell.panel.quantized:
            if (x := x_of(row)) is not None:
                _point(axis, row, x.mean, x.half_width)
        if trade:
            axis.plot(*zip(*_stairs(pareto(points)), strict=True), color="#8a8a8f", linewidth=1, zorder=1)
        _full_precision_line(axis, cell.panel)
        axis.margins(0.12)
        if trade and points:
            _log_axis(axis)
        cell.label(x_label, "F1 (%)")
    front = [Line2D([], [], color="#8a8a8f", linewidth=1, label="Pareto front")] if trade else []
    method_legend(figure, methods_of(panels), front)
    headline(figure, title)
    return figure


def f1_against_bits(panels: Sequence[Panel], title: str) -> Figure:
    """F1 of every method from few bits to many, a panel a detector."""
    figure, cells = grid(panels, height=1.9, extra=0.95)
    for cell in cells:
        settings = sorted({(row.w_bits, row.a_bits, row.bits) for row in cell.panel.quantized})
        places = {bits: place for place, (_, _, bits) in enumerate(settings)}
        for method in methods_of([cell.panel]):
            rows = sorted(
                (row for row in cell.panel.quantized if row.method == method), key=lambda r: places[r.bits]
            )
            line = [(places[row.bits], 100 * row.f1.mean) for row in rows if row.f1]
            cell.axis.plot(*zip(*line, strict=True), color=colour_of(method), zorder=2)
            for row in rows:
                _point(cell.axis, row, places[row.bits])
        _full_precision_line(cell.axis, cell.panel)
        cell.axis.set_xticks(range(len(places)), list(places))
        cell.axis.set_xlim(-0.3, len(places) - 0.7)
        cell.label("bits (weights, activations)", "F1 (%)")
    method_legend(figure, methods_of(panels))
    headline(figure, title)
    return figure


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (cost, gain) those that no other point beats in one without losing in the other, by rising cost."""
    front: list[tuple[float, float]] = []
    for cost, gain in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or gain > front[-1][1]:
            front.append((cost, gain))
    return front


def _stairs(front: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The corners between the points of a front: more cost buys nothing until the next point."""
    steps = [(after[0], before[1]) for before, after in itertools.pairwise(front)]
    return [corner for pair in zip(front, [*steps, front[-1]], strict=True) for corner in pair]


def _point(axis: Axes, row: Row, x: float, reach: float | None = None) -> None:
    assert row.f1 is not None
    f1 = 100 * row.f1.mean
    low, high = _ends(row)
    axis.errorbar(x, f1, xerr=reach, yerr=[[f1 - low], [high - f1]], color="#707075", linewidth=0.8, zorder=3)
    look = {"marker": marker_of(row.method), "s": 26, "edgecolor": INK, "linewidth": 0.4, "zorder": 4}
    axis.scatter(x, f1, color=colour_of(row.method), **look)


def _ends(row: Row) -> tuple[float, float]:
    """The ends of the 95 % interval over frames and seeds, in per cent; the value itself where there is none."""
    assert row.f1 is not None
    found = row.f1_interval
    if found is None or found.low is None or found.high is None:
        return 100 * row.f1.mean, 100 * row.f1.mean
    return 100 * min(found.low, row.f1.mean), 100 * max(found.high, row.f1.mean)


def _full_precision_line(axis: Axes, panel: Panel) -> None:
    if panel.full is not None and panel.quantized:
        axis.axhline(100 * panel.full, color=colour_of("fp32"), linestyle="--", linewidth=1, zorder=1)


def _seconds(row: Row) -> Spread | None:
    return None if row.reconstruction_s is None else Spread(row.reconstruction_s, None)


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


def _f1_words(row: Row) -> str:
    return f"{100 * row.f1.mean:.1f} %" if row.f1 else ""


def _lds_words(row: Row) -> str:
    return f"{row.lds.mean:.1f} px" if row.lds else ""


def _seconds_words(row: Row) -> str:
    return "" if row.reconstruction_s is None or row.method == "fp32" else f"{row.reconstruction_s:.1f} s"
