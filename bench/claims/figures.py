"""Three figures of the claims: differences with intervals, distortion against loss, seconds to QDrop's F1."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.claims.accuracy import cells_of
from bench.claims.evidence import Evidence, Subject
from bench.claims.finding import Finding
from bench.claims.timing import TimeToReach
from bench.colours import colour_of, label_of, marker_of
from bench.table import method_rank
from bench.whole_file import write_whole

DPI = 150
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
    written = []
    style = {"figure.constrained_layout.use": True, "axes.spines.top": False, "axes.spines.right": False}
    with (
        sns.axes_style("whitegrid"),
        sns.plotting_context("notebook", font_scale=0.85),
        plt.rc_context(style),
    ):
        for name, figure in _figures(findings, evidence, times):
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=DPI)
            plt.close(figure)
            write_whole(folder / f"{name}.png", buffer.getvalue())
            written.append(folder / f"{name}.png")
    return written


def _figures(
    findings: Sequence[Finding], evidence: Evidence, times: Sequence[TimeToReach]
) -> Iterator[tuple[str, Figure]]:
    differences = [f for f in findings if f.unit == "F1 points" and f.measured is not None]
    if differences:
        yield "differences", forest(differences)
    subjects = [subject for subject in evidence.subjects if cells_of(subject)]
    if subjects:
        yield "lds-f1-loss", scatter(subjects, findings)
    if times:
        yield "seconds-to-qdrop", seconds(times)


def forest(findings: Sequence[Finding]) -> Figure:
    """A line for every difference of F1 with its 95 % interval, coloured by verdict; diamonds are the paper's."""
    figure, axis = plt.subplots(figsize=(9.5, 1.4 + 0.3 * len(findings)))
    for place, finding in enumerate(findings):
        measured = finding.measured
        assert measured is not None
        colour = VERDICT_COLOURS[finding.verdict]
        if measured.low is not None and measured.high is not None:
            axis.plot([measured.low, measured.high], [place, place], color=colour, linewidth=2)
        axis.plot(measured.estimate, place, "o", color=colour, markersize=6)
        if finding.paper.value is not None:
            axis.plot(finding.paper.value, place, "D", markerfacecolor="none", color="black", markersize=6)
    axis.axvline(0, color="black", linewidth=1)
    words = [f"{f.claim}  {f.subject} {f.bits}: {f.short}" for f in findings]
    axis.set_yticks(range(len(findings)), words, fontsize=8)
    axis.invert_yaxis()
    axis.set(xlabel="difference of F1 (points), 95 % interval over frames and seeds")
    axis.grid(axis="y", visible=False)
    shown = [verdict for verdict in VERDICT_COLOURS if any(f.verdict == verdict for f in findings)]
    handles = [Line2D([], [], color=VERDICT_COLOURS[v], marker="o", label=v) for v in shown]
    handles.append(
        Line2D([], [], color="black", marker="D", markerfacecolor="none", linestyle="", label="paper")
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)
    return figure


def scatter(subjects: Sequence[Subject], findings: Sequence[Finding]) -> Figure:
    """Every cell's lane distortion against the F1 it lost, a panel for each detector, with rho in the title."""
    columns = min(2, len(subjects))
    lines = -(-len(subjects) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(4.6 * columns, 3.7 * lines + 0.7), squeeze=False)
    for axis in axes.flat[len(subjects) :]:
        axis.set_visible(False)
    labels = {cell.label for subject in subjects for cell in cells_of(subject)}
    for axis, subject in zip(axes.flat, subjects, strict=False):
        for cell in cells_of(subject):
            axis.scatter(
                cell.lds,
                cell.loss,
                color=colour_of(cell.label),
                marker=marker_of(cell.label),
                s=45,
                edgecolor="black",
                linewidth=0.4,
                zorder=3,
            )
        title = f"{subject.name}, {subject.dataset}"
        axis.set_title(title + _rho(subject.name, subject.data, findings), fontsize=10)
        axis.set(xlabel="Lane Distortion Score (px)", ylabel="F1 lost to full precision (points)")
    ordered = sorted(labels, key=lambda label: (method_rank(label), label))
    handles = [
        Line2D([], [], color=colour_of(m), marker=marker_of(m), linestyle="", markeredgecolor="black")
        for m in ordered
    ]
    names = [label_of(label) for label in ordered]
    figure.legend(
        handles, names, loc="outside lower center", ncols=min(3, len(names)), fontsize=8, frameon=False
    )
    return figure


def seconds(times: Sequence[TimeToReach]) -> Figure:
    """QDrop's seconds beside those of the fastest setting of Selective Focus that has its F1."""
    figure, axis = plt.subplots(figsize=(max(4.5, 1.2 * len(times) + 2), 3.8))
    places = np.arange(len(times))
    axis.bar(
        places - 0.2, [t.qdrop_s for t in times], 0.38, color=colour_of("qdrop"), label=label_of("qdrop")
    )
    ours = [t.seconds or 0.0 for t in times]
    words = "Selective Focus, to QDrop's F1"
    axis.bar(places + 0.2, ours, 0.38, color=colour_of("selective-focus"), label=words)
    for place, time in zip(places, times, strict=True):
        text = "not\nreached" if time.seconds is None else f"{time.seconds:.0f} s"
        axis.annotate(
            text, (place + 0.2, time.seconds or 0.0), (0, 3), textcoords="offset points", ha="center"
        )
        axis.annotate(
            f"{time.qdrop_s:.0f} s",
            (place - 0.2, time.qdrop_s),
            (0, 3),
            textcoords="offset points",
            ha="center",
        )
    axis.set_xticks(places, [f"{t.subject}\n{t.bits}" for t in times])
    axis.set(ylabel="ranges and reconstruction (s)")
    axis.margins(y=0.15)
    axis.grid(axis="x", visible=False)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def _rho(name: str, data: str, findings: Sequence[Finding]) -> str:
    for f in findings:
        if (f.claim, f.subject, f.data, f.bits) == ("C7", name, data, "all") and f.measured is not None:
            low, high = f.measured.low, f.measured.high
            ends = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
            return f"\nSpearman's rho {f.measured.estimate:.2f}{ends}"
    return ""
