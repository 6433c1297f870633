"""Three figures of the claims: differences with intervals, distortion against loss, seconds to QDrop's F1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from bench.claims.accuracy import losses_of
from bench.claims.evidence import Evidence, Subject
from bench.claims.finding import Finding
from bench.claims.report import value_text
from bench.claims.timing import TimeToReach
from bench.colours import colour_of, label_of, marker_of
from bench.plot_style import COLUMN, INK, PAGE, Plot, legend_below, save
from bench.table import method_rank

SHOWN = ("C1", "C2", "P1")
"""Claims whose differences of F1 are drawn; the others are made of the same ones."""
VERDICT_COLOURS = {
    "reproduced": "#009E73",
    "partly": "#E69F00",
    "not reproduced": "#D55E00",
    "not tested": "#999999",
}


def draw_all(
    folder: Path, findings: Sequence[Finding], evidence: Evidence, times: Sequence[TimeToReach]
) -> list[Path]:
    """Draws what the evidence allows as PNG into ``folder``; gives the paths."""
    return save(list(plots_of(findings, evidence, times)), folder)


def plots_of(findings: Sequence[Finding], evidence: Evidence, times: Sequence[TimeToReach]) -> Iterator[Plot]:
    """The figures that the evidence allows."""
    differences = [
        f for f in findings if f.claim in SHOWN and f.unit == "F1 points" and f.measured is not None
    ]
    if differences:
        said = [f"{f.claim} {f.subject} {f.bits} {f.short}: {value_text(f)}" for f in differences]
        words = f"Differences of F1 in points with 95 % intervals. {'; '.join(said)}."
        yield Plot("differences", "claims", words, partial(forest, differences))
    subjects = [subject for subject in evidence.subjects if losses_of(subject)]
    if subjects:
        said = [f"{s.name}{_rho(s.name, s.data, findings)}".replace("\n", ": ") for s in subjects]
        words = f"Lane distortion of every cell against the F1 it lost. {'; '.join(said)}."
        yield Plot("lds-f1-loss", "claims", words, partial(scatter, subjects, findings))
    if times:
        ours = ["not reached" if t.seconds is None else f"{t.seconds:.0f} s" for t in times]
        said = [
            f"{t.subject} {t.bits}: {t.qdrop_s:.0f} s, {t.method} {mine}"
            for t, mine in zip(times, ours, strict=True)
        ]
        words = f"Seconds of QDrop, and until a method of ours has its F1. {'; '.join(said)}."
        yield Plot("seconds-to-qdrop", "claims", words, partial(seconds, times))


def forest(findings: Sequence[Finding]) -> Figure:
    """A line for every difference of F1 with its 95 % interval, coloured by verdict; diamonds are the paper's."""
    figure, axis = plt.subplots(figsize=(PAGE, 0.9 + 0.19 * len(findings)))
    for place, finding in enumerate(findings):
        measured = finding.measured
        assert measured is not None
        colour = VERDICT_COLOURS[finding.verdict]
        if measured.low is not None and measured.high is not None:
            axis.plot([measured.low, measured.high], [place, place], color=colour, linewidth=2)
        axis.plot(measured.estimate, place, "o", color=colour, markersize=4)
        if finding.paper.value is not None:
            axis.plot(finding.paper.value, place, "D", markerfacecolor="none", color=INK, markersize=4)
    axis.axvline(0, color=INK, linewidth=1)
    words = [f"{f.claim}  {f.subject} {f.bits}: {f.short}" for f in findings]
    axis.set_yticks(range(len(findings)), words)
    axis.set_ylim(len(findings) - 0.5, -0.5)
    axis.set(xlabel="difference of F1 (points), 95 % interval over frames and seeds")
    axis.grid(axis="y", visible=False)
    shown = [verdict for verdict in VERDICT_COLOURS if any(f.verdict == verdict for f in findings)]
    handles = [Line2D([], [], color=VERDICT_COLOURS[v], marker="o", label=v) for v in shown]
    handles.append(Line2D([], [], color=INK, marker="D", markerfacecolor="none", linestyle="", label="paper"))
    legend_below(figure, handles)
    return figure


def scatter(subjects: Sequence[Subject], findings: Sequence[Finding]) -> Figure:
    """Every cell's lane distortion against the F1 it lost, a panel for each detector, with rho in the title."""
    columns = min(2, len(subjects))
    lines = -(-len(subjects) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(COLUMN if columns == 1 else PAGE, 2.2 * lines + 0.9), squeeze=False
    )
    for axis in axes.flat[len(subjects) :]:
        axis.set_visible(False)
    labels = {cell.label for subject in subjects for cell in losses_of(subject)}
    for axis, subject in zip(axes.flat, subjects, strict=False):
        for cell in losses_of(subject):
            axis.scatter(
                cell.lds,
                cell.loss,
                color=colour_of(cell.label),
                marker=marker_of(cell.label),
                s=24,
                edgecolor=INK,
                linewidth=0.4,
                zorder=3,
            )
        title = f"{subject.name}, {subject.dataset}"
        axis.set_title(title + _rho(subject.name, subject.data, findings))
        axis.set(xlabel="Lane Distortion Score (px)", ylabel="F1 lost (points)")
    ordered = sorted(labels, key=lambda label: (method_rank(label), label))
    look = {"linestyle": "", "markeredgecolor": INK, "markeredgewidth": 0.4}
    legend_below(
        figure,
        [Line2D([], [], color=colour_of(m), marker=marker_of(m), label=label_of(m), **look) for m in ordered],
    )
    return figure


def seconds(times: Sequence[TimeToReach]) -> Figure:
    """QDrop's seconds beside those of the fastest setting of each method of ours that has its F1."""
    figure, axis = plt.subplots(figsize=(COLUMN, 0.9 + 0.36 * len(times)))
    places = np.arange(len(times))
    axis.barh(places - 0.2, [t.qdrop_s for t in times], 0.38, color=colour_of("qdrop"))
    colours = [colour_of(t.method) for t in times]
    axis.barh(places + 0.2, [t.seconds or 0.0 for t in times], 0.38, color=colours)
    for place, time in zip(places, times, strict=True):
        reached = "not reached" if time.seconds is None else f"{time.seconds:.0f} s"
        for shift, value, text in (
            (-0.2, time.qdrop_s, f"{time.qdrop_s:.0f} s"),
            (0.2, time.seconds or 0.0, reached),
        ):
            at = {"textcoords": "offset points", "va": "center", "fontsize": 6.5}
            axis.annotate(text, (value, place + shift), (3, 0), **at)
    axis.set_yticks(places, [f"{t.subject} {t.bits}" for t in times])
    axis.set(xlabel="ranges and reconstruction (s)", ylim=(len(times) - 0.5, -0.5))
    axis.margins(x=0.15)
    axis.grid(axis="y", visible=False)
    methods = dict.fromkeys(t.method for t in times)
    words = {"qdrop": label_of("qdrop"), **{m: f"{label_of(m)}, to QDrop's F1" for m in methods}}
    legend_below(figure, [Patch(color=colour_of(name), label=label) for name, label in words.items()])
    return figure


def _rho(name: str, data: str, findings: Sequence[Finding]) -> str:
    for f in findings:
        if (f.claim, f.subject, f.data, f.bits) == ("C7", name, data, "all") and f.measured is not None:
            low, high = f.measured.low, f.measured.high
            ends = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
            return f"\nSpearman's rho {f.measured.estimate:.2f}{ends}"
    return ""
