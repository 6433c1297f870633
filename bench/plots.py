"""The figures of a run, always drawn from its records. PNG, one style, one colour a method."""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from bench import examples
from bench.colours import colour_of, label_of, marker_of
from bench.overlays import overlay_figure
from bench.store import Record, RunFolder
from bench.table import Row, Section, current, method_rank, sections
from bench.whole_file import write_whole

DPI = 150
OVERLAY_METHODS = ("fp32", "minmax", "qdrop", "selective-focus")
OVERLAY_FRAMES = 4


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
        for record in records:
            if record.log.get("sensitivity"):
                yield f"sensitivity-{_file_words(record)}", head_sensitivity(record)
        for key, group in _by_subject(records, with_bits=True).items():
            shown = examples.load(folder, _for_overlay(group))
            if shown:
                yield f"overlay-{key}", overlay_figure(_spread(shown), _subject_words(group[0]))


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
    panels = _panels(part)
    methods = sorted({row.method for row in _quantized(part)} or {"fp32"}, key=method_rank)
    figure, axes = _grid(len(panels), width=max(3.4, 0.55 * len(methods) + 1.6), height=3.6)
    for axis, (title, rows) in zip(axes, panels.items(), strict=False):
        by_method = {row.method: row for row in rows if row.f1}
        for place, method in enumerate(methods):
            row = by_method.get(method)
            if row is None or row.f1 is None:
                continue
            reach = None if row.f1.half_width is None else 100 * row.f1.half_width
            axis.bar(place, 100 * row.f1.mean, color=colour_of(method), yerr=reach, capsize=3, width=0.75)
            above = 100 * row.f1.mean + (reach or 0)
            axis.annotate(
                f"{100 * row.f1.mean:.1f}",
                (place, above),
                (0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
            )
        full = by_method.get("fp32")
        if full is not None and full.f1 and methods != ["fp32"]:
            axis.axhline(100 * full.f1.mean, color=colour_of("fp32"), linestyle="--", linewidth=1)
            axis.set_title(f"{title} (FP32: {100 * full.f1.mean:.1f})", fontsize=10)
        else:
            axis.set_title(title, fontsize=10)
        axis.set_xticks(
            range(len(methods)), [label_of(method) for method in methods], rotation=40, ha="right"
        )
        axis.set(ylabel="F1 (%)", ylim=(0, 108))
        axis.grid(axis="x", visible=False)
    figure.suptitle(part.title, fontsize=11)
    return figure


def lds_against_f1(part: Section) -> Figure:
    """Lane distortion against F1: does the label-free measure predict accuracy?"""
    return _scatter(
        part, lambda row: row.lds.mean if row.lds else None, "Lane Distortion Score (px)", log=False
    )


def time_against_f1(part: Section) -> Figure:
    """Seconds of ranges and reconstruction against F1; upper left is best."""
    return _scatter(part, lambda row: row.reconstruction_s, "ranges and reconstruction (s)", log=True)


def _scatter(part: Section, x_of, x_label: str, log: bool) -> Figure:
    panels = _panels(part)
    figure, axes = _grid(len(panels), width=3.9, height=3.4)
    for axis, (title, rows) in zip(axes, panels.items(), strict=False):
        for row in rows:
            x = x_of(row)
            if row.f1 is None or x is None or row.method == "fp32":
                continue
            axis.scatter(
                x,
                100 * row.f1.mean,
                color=colour_of(row.method),
                marker=marker_of(row.method),
                s=70,
                edgecolor="black",
                linewidth=0.5,
                zorder=3,
            )
        full = next((row.f1.mean for row in rows if row.method == "fp32" and row.f1), None)
        if full is not None:
            axis.axhline(100 * full, color=colour_of("fp32"), linestyle="--", linewidth=1)
        if log:
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.xaxis.set_minor_formatter(NullFormatter())
        axis.margins(0.12)
        axis.set_title(title, fontsize=10)
        axis.set(xlabel=x_label, ylabel="F1 (%)")
    methods = sorted({row.method for row in _quantized(part)}, key=method_rank)
    _legend(figure, methods)
    figure.suptitle(part.title, fontsize=11)
    return figure


def category_heat_map(records: Sequence[Record]) -> Figure:
    """F1 of each category by method and bits; for ``cross``, which has no lanes, false positives a frame."""
    ordered = sorted(
        records, key=lambda r: (-r.cell["w_bits"], -r.cell["a_bits"], method_rank(r.cell["method"]))
    )
    rows: dict[str, list[Record]] = defaultdict(list)
    for record in ordered:
        bits = "" if record.cell["method"] == "fp32" else f" W{record.cell['w_bits']}A{record.cell['a_bits']}"
        rows[label_of(record.cell["method"]) + bits].append(record)
    results = [record.result for record in records if record.result is not None]
    names = [name for name in results[0].categories if name != "cross"]
    values = np.array([[_mean_f1(group, name) for name in names] for group in rows.values()], dtype=float)
    figure, axis = plt.subplots(figsize=(1.1 + 0.85 * (len(names) + 2), 1.6 + 0.36 * len(rows)))
    sns.heatmap(
        100 * values,
        annot=True,
        fmt=".1f",
        cmap="cividis",
        ax=axis,
        xticklabels=names,
        yticklabels=list(rows),
        cbar_kws={"label": "F1 (%)"},
        annot_kws={"fontsize": 8},
        linewidths=0.5,
    )
    axis.tick_params(axis="y", rotation=0)
    axis.tick_params(axis="x", rotation=30)
    axis.set_title(f"{_subject_words(records[0], bits=False)}: F1 by category", fontsize=11)
    return figure


def _mean_f1(group: Sequence[Record], category: str) -> float:
    values = [r.result.categories[category].f1 for r in group if r.result is not None]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else float("nan")


def head_sensitivity(record: Record) -> Figure:
    """Sensitivity of each head over the iterations, and below it when each head was in the active set."""
    entries = record.log["sensitivity"]
    iterations = [entry["iteration"] for entry in entries]
    heads = list(entries[0]["scores"])
    palette = dict(zip(heads, sns.color_palette("colorblind", len(heads)), strict=True))
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(6.4, 3.4 + 0.28 * len(heads)), sharex=True, height_ratios=[3, 0.35 + 0.35 * len(heads)]
    )
    # entries between two measurements hold predicted scores: they changed the active set, but nobody measured them
    measured = [entry for entry in entries if entry.get("measured", True)]
    times = [entry["iteration"] for entry in measured]
    for head in heads:
        scores = [entry["scores"].get(head) for entry in measured]
        upper.plot(times, scores, color=palette[head], marker="o", markersize=4, label=head)
    upper.set(ylabel="sensitivity (px)")
    upper.set_ylim(bottom=0)
    upper.legend(title="head", fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    ends = [*iterations[1:], max(iterations[-1] + 1, record.log.get("iterations") or 0)]
    for place, head in enumerate(heads):
        for entry, end in zip(entries, ends, strict=True):
            if head in entry["active"]:
                start = entry["iteration"]
                lower.barh(place, max(end - start, 0), left=start, color=palette[head], height=0.6)
    lower.set_yticks(range(len(heads)), heads)
    lower.set_ylim(len(heads) - 0.5, -0.5)
    lower.set(xlabel="iteration", ylabel="active")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    lower.grid(axis="y", visible=False)
    figure.suptitle(f"{_subject_words(record)}: {label_of(record.cell['method'])}", fontsize=11)
    return figure


def _panels(part: Section) -> dict[str, list[Row]]:
    """Rows by detector and bit setting; full precision belongs to each panel of its detector."""
    panels: dict[str, list[Row]] = defaultdict(list)
    for row in part.rows:
        if row.method != "fp32":
            panels[f"{_detector_words(row)} {row.bits}"].append(row)
    for row in part.rows:
        if row.method != "fp32":
            continue
        own = [
            rows
            for rows in panels.values()
            if rows[0].detector == row.detector and rows[0].variant == row.variant
        ]
        for rows in own or [panels[_detector_words(row)]]:
            rows.append(row)
    return dict(panels)


def _detector_words(row: Row) -> str:
    return row.detector if row.variant == "synthetic" else f"{row.detector} {row.variant}"


def _grid(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    columns = min(count, 3 if width < 4.2 else 2)
    lines = -(-count // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(width * columns, height * lines + 0.5), squeeze=False
    )
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return figure, list(axes.flat[:count])


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


def _subject_words(record: Record, bits: bool = True) -> str:
    cell = record.cell
    width = f" W{cell['w_bits']}A{cell['a_bits']}" if bits and cell["method"] != "fp32" else ""
    return f"{cell['detector']} {cell['variant']} on {cell['dataset']}{width}"


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


def _spread(shown: list[examples.Example]) -> list[examples.Example]:
    places = sorted({round(i) for i in np.linspace(0, len(shown) - 1, OVERLAY_FRAMES)})
    return [shown[place] for place in places]
