"""Figures of single records of a detector: F1 by category, and the sensitivity of its heads as they learn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.colours import label_of
from bench.store import Record
from bench.table import method_rank


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
    axis.set_title(f"{subject_words(records[0], bits=False)}: F1 by category", fontsize=11)
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
    figure.suptitle(f"{subject_words(record)}: {label_of(record.cell['method'])}", fontsize=11)
    return figure


def subject_words(record: Record, bits: bool = True) -> str:
    cell = record.cell
    width = f" W{cell['w_bits']}A{cell['a_bits']}" if bits and cell["method"] != "fp32" else ""
    return f"{cell['detector']} {cell['variant']} on {cell['dataset']}{width}"
