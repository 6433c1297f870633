"""Figures of a detector's records: F1 by category, sensitivity of heads, seconds and memory, noise, frames."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from bench import examples
from bench.colours import label_of
from bench.noise import HeadNoise
from bench.noise import read_all as read_noise
from bench.overlays import overlay_figure
from bench.plot_style import COLUMN, PAGE, Plot, headline, legend_below
from bench.statistics import mean_of
from bench.store import Record, RunFolder
from bench.table import method_rank

OVERLAY_METHODS = ("fp32", "minmax", "qdrop", "selective-focus", "selective-focus-plus")
OVERLAY_FRAMES = 4
PHASES = {
    "reconstruction_s": ("ranges and reconstruction", "#D55E00"),
    "network_s": ("network", "#0072B2"),
    "decode_s": ("decoding", "#009E73"),
    "metric_s": ("metric", "#BBBBBB"),
}
"""Seconds of a cell that follow each other, with label and colour."""


def plots_of_records(folder: RunFolder, records: Sequence[Record]) -> Iterator[Plot]:
    """The figures that are about one detector, or one record of it."""
    subjects = _by_subject(records)
    for key, group in subjects.items():
        if any(record.result is not None and record.result.categories for record in group):
            yield Plot(
                f"categories-{key}", "categories", _category_words(group), partial(category_heat_map, group)
            )
    for record in _first_seeds(records):
        if record.log.get("sensitivity"):
            name = f"sensitivity-{_file_words(record)}"
            yield Plot(name, "sensitivity", _sensitivity_words(record), partial(head_sensitivity, record))
    for key, group in subjects.items():
        if any(record.timing for record in group):
            yield Plot(f"cost-{key}", "cost", _cost_words(group), partial(time_and_memory, group))
    by_detector: dict[str, list[HeadNoise]] = defaultdict(list)
    for measured in read_noise(folder.path):
        by_detector[f"{measured.detector}-{measured.variant}"].append(measured)
    for key, levels in by_detector.items():
        words = " ".join(f"{line}." for each in levels for line in each.lines())
        yield Plot(f"noise-{key}", "noise", words, partial(head_noise, levels))
    for key, group in _by_subject(records, with_bits=True).items():
        shown = examples.load(folder, _for_overlay(group))
        if shown:
            words = f"{subject_words(group[0])}: camera frames with the lanes of each method."
            yield Plot(
                f"overlay-{key}",
                "overlay",
                words,
                partial(overlay_figure, _spread(shown), subject_words(group[0])),
            )


def category_heat_map(records: Sequence[Record]) -> Figure:
    """F1 of each category by method and bits; beside it, for ``cross``, which has no lanes, false positives a frame."""
    rows = _by_setting(records)
    names = _categories(records)
    crossings = any(r.result is not None and "cross" in r.result.categories for r in records)
    figure, axes = plt.subplots(
        1,
        1 + crossings,
        figsize=(min(PAGE, 2.2 + 0.5 * (len(names) + 2)), 1.05 + 0.21 * len(rows)),
        width_ratios=[len(names), 1][: 1 + crossings],
        squeeze=False,
    )
    values = np.array([[_mean_f1(group, name) for name in names] for group in rows.values()], dtype=float)
    look = {"annot": True, "annot_kws": {"fontsize": 6.5}, "linewidths": 0.5}
    sns.heatmap(
        100 * values,
        fmt=".1f",
        cmap="cividis",
        ax=axes[0, 0],
        xticklabels=names,
        yticklabels=list(rows),
        cbar_kws={"label": "F1 (%)", "pad": 0.02},
        **look,
    )
    if crossings:
        false = np.array([[_crossing_lanes(group)] for group in rows.values()], dtype=float)
        sns.heatmap(
            false,
            fmt=".2f",
            cmap="rocket_r",
            vmin=0,
            vmax=max(1.0, float(np.nanmax(false))),
            ax=axes[0, 1],
            xticklabels=["cross"],
            cbar=False,
            **look,
        )
        axes[0, 1].set_yticks([])
        axes[0, 1].set_title("false lanes\na frame", fontsize=7)
    for axis in axes.flat:
        axis.tick_params(axis="y", rotation=0)
        axis.tick_params(axis="x", rotation=30)
        _fixed_ink(axis)
    headline(figure, f"{subject_words(records[0], bits=False)}: F1 by category")
    return figure


def _fixed_ink(axis: plt.Axes) -> None:
    """Numbers in coloured cells keep their ink wherever the figure is shown."""
    for text in axis.texts:
        text.set_color("#ffffff" if text.get_color() in ("w", "white") else "#111111")


def head_sensitivity(record: Record) -> Figure:
    """Sensitivity of each head over the iterations, and below it when each head was in the active set."""
    entries = record.log["sensitivity"]
    iterations = [entry["iteration"] for entry in entries]
    heads = list(entries[0]["scores"])
    palette = dict(zip(heads, sns.color_palette("colorblind", len(heads)).as_hex(), strict=True))
    figure, (upper, lower) = plt.subplots(
        2,
        1,
        figsize=(COLUMN, 2.2 + 0.15 * len(heads)),
        sharex=True,
        height_ratios=[3, 0.3 + 0.3 * len(heads)],
    )
    # entries between two measurements hold predicted scores: they changed the active set, but nobody measured them
    measured = [entry for entry in entries if entry.get("measured", True)]
    for head, marker in zip(heads, "osD^vPX*<>" * len(heads), strict=False):
        scores = [entry["scores"].get(head) for entry in measured]
        times = [entry["iteration"] for entry in measured]
        upper.plot(times, scores, color=palette[head], marker=marker, label=head, clip_on=False, zorder=3)
    upper.set_ylabel("sensitivity (px)")
    upper.set_ylim(bottom=0)
    ends = [*iterations[1:], max(iterations[-1] + 1, record.log.get("iterations") or 0)]
    for place, head in enumerate(heads):
        for entry, end in zip(entries, ends, strict=True):
            if head in entry["active"]:
                start = entry["iteration"]
                lower.barh(
                    place, max(end - start, 0), left=start, color=palette[head], height=0.6, linewidth=0
                )
    lower.set_yticks(range(len(heads)), heads)
    lower.set_ylim(len(heads) - 0.5, -0.5)
    lower.set(xlabel="iteration", ylabel="active", xlim=(0, ends[-1]))
    lower.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    lower.grid(axis="y", visible=False)
    handles, _ = upper.get_legend_handles_labels()
    legend_below(figure, handles)
    headline(figure, f"{subject_words(record)}: heads of {label_of(record.cell['method'])}")
    return figure


def time_and_memory(records: Sequence[Record]) -> Figure:
    """Seconds of each phase of a cell and the peak of memory, by method and bits; means over seeds."""
    rows = _by_setting(records)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(PAGE, 1.2 + 0.17 * len(rows)), sharey=True, width_ratios=[3, 2]
    )
    places = np.arange(len(rows))
    start = np.zeros(len(rows))
    for phase, (_, colour) in PHASES.items():
        seconds = np.array([_mean_seconds(group, phase) for group in rows.values()])
        left.barh(places, seconds, left=start, color=colour, height=0.7, linewidth=0)
        start += seconds
    memory = [np.mean([record.peak_memory_mb for record in group]) for group in rows.values()]
    right.barh(places, memory, color="#56B4E9", height=0.7, linewidth=0)
    left.set_yticks(places, list(rows))
    left.set_ylim(len(rows) - 0.5, -0.5)
    left.set_xlabel("seconds of a cell")
    right.set_xlabel(f"peak memory (MB, {_memory_of(records)})")
    right.xaxis.set_major_locator(MaxNLocator(4))
    for axis in (left, right):
        axis.grid(axis="y", visible=False)
    legend_below(figure, [Patch(color=colour, label=words) for words, colour in PHASES.values()])
    headline(figure, f"{subject_words(records[0], bits=False)}: time and memory")
    return figure


def head_noise(levels: Sequence[HeadNoise]) -> Figure:
    """Lane distortion that noise of equal norm causes on the foreground and on the background of each head."""
    figure, axes = plt.subplots(
        1, len(levels), figsize=(min(PAGE, 1.2 + 2.2 * len(levels)), 2.6), sharey=True, squeeze=False
    )
    sides = {"foreground": (-0.12, "#D55E00", "o"), "background": (0.12, "#0072B2", "s")}
    for axis, measured in zip(axes.flat, sorted(levels, key=lambda each: each.level), strict=True):
        for side, (shift, colour, marker) in sides.items():
            for place, head in enumerate(measured.heads.values()):
                found = mean_of(getattr(head, side))
                low, high = (found.estimate if end is None else end for end in (found.low, found.high))
                reach = [[max(0.0, found.estimate - low)], [max(0.0, high - found.estimate)]]
                look = {"color": colour, "marker": marker, "capsize": 2, "clip_on": False}
                axis.errorbar(place + shift, found.estimate, yerr=reach, **look)
        axis.set_xticks(
            range(len(measured.heads)), list(measured.heads), rotation=40, ha="right", rotation_mode="anchor"
        )
        axis.set_xlim(-0.5, len(measured.heads) - 0.5)
        axis.set_title(f"noise of {measured.level:g} sd")
        axis.grid(axis="x", visible=False)
    axes[0, 0].set_ylabel("Lane Distortion Score (px)")
    axes[0, 0].set_ylim(bottom=0)  # of all: they share it
    legend_below(
        figure, [Line2D([], [], color=c, marker=m, linestyle="", label=s) for s, (_, c, m) in sides.items()]
    )
    headline(figure, f"{levels[0].detector}: noise of equal norm on either side of each head")
    return figure


def subject_words(record: Record, bits: bool = True) -> str:
    """ "laneatt on synthetic, W4A4" """
    cell = record.cell
    variant = "" if cell["variant"] == "synthetic" else f" {cell['variant']}"
    width = f", W{cell['w_bits']}A{cell['a_bits']}" if bits and cell["method"] != "fp32" else ""
    return f"{cell['detector']}{variant} on {cell['dataset']}{width}"


def _by_setting(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The seeds of each method and bit setting, most bits first."""
    rows: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(
        records, key=lambda r: (-r.cell["w_bits"], -r.cell["a_bits"], method_rank(r.cell["method"]))
    ):
        bits = "" if record.cell["method"] == "fp32" else f" W{record.cell['w_bits']}A{record.cell['a_bits']}"
        rows[label_of(record.cell["method"]) + bits].append(record)
    return rows


def _categories(records: Sequence[Record]) -> list[str]:
    """The categories that have lanes."""
    results = [record.result for record in records if record.result is not None]
    return [name for name in results[0].categories if name != "cross"]


def _mean_f1(group: Sequence[Record], category: str) -> float:
    values = [
        r.result.categories[category].f1
        for r in group
        if r.result is not None and category in r.result.categories
    ]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else float("nan")


def _crossing_lanes(group: Sequence[Record]) -> float:
    found = [
        r.result.categories["cross"] for r in group if r.result is not None and "cross" in r.result.categories
    ]
    return float(np.mean([each.fp / each.images for each in found])) if found else float("nan")


def _mean_seconds(group: Sequence[Record], phase: str) -> float:
    return float(np.mean([record.timing.get(phase, 0.0) for record in group]))


def _memory_of(records: Sequence[Record]) -> str:
    return "whole process" if all(r.cell["device"] == "cpu" for r in records) else "of the device"


def _category_words(records: Sequence[Record]) -> str:
    names = _categories(records)
    said = [
        f"{words}: " + ", ".join(f"{name} {100 * _mean_f1(group, name):.1f}" for name in names)
        for words, group in _by_setting(records).items()
    ]
    return f"{subject_words(records[0], bits=False)}, F1 in per cent by category. " + "; ".join(said) + "."


def _sensitivity_words(record: Record) -> str:
    measured = [entry for entry in record.log["sensitivity"] if entry.get("measured", True)]
    said = [
        f"{head} from {measured[0]['scores'][head]:.2f} to {measured[-1]['scores'][head]:.2f} px"
        for head in (measured[0]["scores"] if measured else [])
    ]
    dropped = sorted({h for e in record.log["sensitivity"] for h in set(e["scores"]) - set(e["active"])})
    return (
        f"{subject_words(record)}: sensitivity of heads over the iterations; {', '.join(said)}. "
        f"Dropped at some time: {', '.join(dropped) or 'none'}."
    )


def _cost_words(records: Sequence[Record]) -> str:
    said = [
        f"{words} {_mean_seconds(group, 'reconstruction_s'):.1f} s, "
        f"{np.mean([record.peak_memory_mb for record in group]):.0f} MB"
        for words, group in _by_setting(records).items()
    ]
    return (
        f"{subject_words(records[0], bits=False)}: seconds of ranges and reconstruction, peak memory. "
        + "; ".join(said)
        + "."
    )


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
