"""What the page says: everything gathered from records, and a sentence for what they lack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.claims import Evidence, Finding, examine, gather
from bench.claims.evidence import runs_in
from bench.claims.figures import plots_of as plots_of_claims
from bench.claims.finding import CLAIMS
from bench.claims.report import paper_text, summary, value_text
from bench.claims.timing import time_to_reach
from bench.colours import label_of
from bench.panels import detector_words
from bench.plot_style import Plot
from bench.plots import plots_of
from bench.report.gallery import gallery
from bench.report.results import ResultRow, result_rows
from bench.store import Record, RunFolder
from bench.table import Row, Section, current, sections

KINDS = {
    "f1": ("F1 by method", "no cell has an F1"),
    "time-f1": (
        "F1 against reconstruction time",
        "no quantized cell was timed",
    ),
    "bits-f1": ("F1 by bits", "all quantized cells have the same bits; run with --bits w8a8,w4a4"),
    "lds-f1": ("Lane distortion against F1", "there is no quantized cell"),
    "claims": ("Claims", "there is nothing to compare"),
    "sensitivity": (
        "Sensitivity of heads, and which are active",
        "no record holds sensitivities; selective-focus measures them",
    ),
    "noise": (
        "Noise inside heads",
        "no measurement of noise on foreground and background of heads lies beside these records",
    ),
    "categories": ("F1 by category", "these test frames have no categories"),
    "cost": ("Time and memory", "the records hold no times"),
    "overlay": ("Frames", ""),
}
"""Of each kind of figure its heading, and why it can be missing."""


@dataclass(frozen=True)
class Run:
    """One run folder and what can be shown of it."""

    name: str
    parts: Sequence[Section]
    rows: Sequence[ResultRow]
    plots: Sequence[Plot]
    gallery: Mapping[str, Any]
    records: Sequence[Record]
    repeats: int = 0
    """How many of its rows are left out, because a run before it shows the same measurements."""


@dataclass(frozen=True)
class Claim:
    """A claim of the paper with the verdicts of all its findings."""

    key: str
    words: str
    verdicts: str
    measured: str
    """What the first of them that measured anything found."""
    findings: Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Report:
    """All of the page."""

    runs: Sequence[Run]
    evidence: Evidence
    findings: Sequence[Finding]
    claim_plots: Sequence[Plot]

    @property
    def rows(self) -> list[ResultRow]:
        return [row for run in self.runs for row in run.rows]


def gather_report(folder: Path, root: Path | None = None) -> Report:
    """The report of a run folder, or of a folder of runs. root: of the test frames, where they are not synthetic.

    Raises BenchError when the folder holds no run, DatasetError for a frame that is missing below ``root``.
    """
    evidence = gather([folder])
    findings = examine(evidence)
    times = [time for subject in evidence.subjects for time in time_to_reach(subject)]
    found = [_run(RunFolder(path), root) for path in runs_in(folder)]
    runs = without_repeats(sorted(found, key=lambda run: -len(run.records)))
    return Report(runs, evidence, findings, list(plots_of_claims(findings, evidence, times)))


def without_repeats(runs: Sequence[Run]) -> list[Run]:
    """The runs in their order, less the rows whose measurements all stand behind one row of an earlier run.

    A run that has no other rows loses the figures that are drawn from rows too. Its frames stay, and so does noise.
    """
    shown: list[set[tuple[str, str]]] = []
    left = []
    for run in runs:
        own = [{(record.file_name, record.finished) for record in each.row.records} for each in run.rows]
        seen = [
            each.row.status == "done" and any(measured and measured <= other for other in shown)
            for each, measured in zip(run.rows, own, strict=True)
        ]
        rows = [each for each, is_seen in zip(run.rows, seen, strict=True) if not is_seen]
        plots = [plot for plot in run.plots if rows or not run.rows or plot.kind == "noise"]
        shown += own
        left.append(replace(run, rows=rows, plots=plots, repeats=sum(seen)))
    return left


def _run(folder: RunFolder, root: Path | None) -> Run:
    records, _ = current(folder.records())
    parts = sections(records)
    done = [record for record in records if record.status == "done" and record.result is not None]
    name = folder.path.name
    plots = [plot for plot in plots_of(folder) if plot.kind != "overlay"]
    return Run(name, parts, list(result_rows(name, parts)), plots, gallery(folder, done, root), records)


def claims(report: Report) -> list[Claim]:
    """The claims in their order."""
    return [
        Claim(
            key,
            words,
            summary(report.findings, key),
            _first_measured([f for f in report.findings if f.claim == key]),
            [_finding(f) for f in report.findings if f.claim == key],
        )
        for key, words in CLAIMS.items()
    ]


def _first_measured(findings: Sequence[Finding]) -> str:
    found = next((f for f in findings if f.measured is not None and not f.in_context), None)
    return "" if found is None else f"{found.subject} {found.bits}: {value_text(found)} {found.unit}"


def _finding(finding: Finding) -> dict[str, str]:
    value = f"{value_text(finding)} {finding.unit}" if finding.measured is not None else ""
    return {
        **{"subject": finding.subject, "bits": finding.bits, "what": finding.statement},
        **{"paper": paper_text(finding.paper), "measured": value, "verdict": finding.verdict},
        "why": f"in context: {finding.why}" if finding.in_context else finding.why,
    }


@dataclass(frozen=True)
class Headline:
    """The best method of one detector at one bit setting, beside the next one."""

    subject: str
    best: str
    f1: str
    interval: str
    rest: str
    seeds: int = 1


def headlines(run: Run) -> Iterator[Headline]:
    """For each detector and bit setting the highest F1, its interval, and what it is to be compared with."""
    for part in run.parts:
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in part.rows:
            if row.f1 is not None and row.method != "fp32":
                groups.setdefault((detector_words(row), row.bits), []).append(row)
        full = {detector_words(row): row.f1.mean for row in part.rows if row.method == "fp32" and row.f1}
        for (detector, bits), rows in groups.items():
            first, *others = sorted(rows, key=lambda row: -(row.f1.mean if row.f1 else 0.0))
            yield _headline(f"{detector} {bits}, {part.title}", first, others[:1], full.get(detector))


def headlines_of(runs: Sequence[Run]) -> list[Headline]:
    """Those of all runs; where two speak of the same, the one with more seeds behind it."""
    said: dict[str, Headline] = {}
    for each in (each for run in runs for each in headlines(run)):
        if each.subject not in said or each.seeds > said[each.subject].seeds:
            said[each.subject] = each
    return list(said.values())


def _headline(subject: str, best: Row, others: Sequence[Row], full: float | None) -> Headline:
    said = [] if full is None else [f"full precision {100 * full:.1f}"]
    said += [f"next {label_of(row.method)} {100 * row.f1.mean:.1f}" for row in others if row.f1]
    said.append(f"{best.seeds} seed" + "s" * (best.seeds != 1))
    found = best.f1_interval
    ends = (
        ""
        if found is None or found.low is None or found.high is None
        else (f"[{100 * found.low:.1f}, {100 * found.high:.1f}]")
    )
    assert best.f1 is not None
    return Headline(
        subject, label_of(best.method), f"{100 * best.f1.mean:.1f}", ends, "; ".join(said), best.seeds
    )


def missing(run: Run) -> list[str]:
    """A sentence for each kind of figure, and of frames, that the records of a run do not allow."""
    present = {plot.kind for plot in run.plots} | {"claims", "overlay"}
    if run.repeats and not run.rows:
        present |= set(KINDS)
    said = [f"{title}: {why}." for kind, (title, why) in KINDS.items() if kind not in present]
    if run.repeats:
        said.append(f"{run.repeats} rows: the same measurements are shown with another run on this page.")
    done = [r for r in run.records if r.status == "done" and r.cell["method"] != "fp32"]
    if done and not any(record.extremes for record in done):
        said.append(
            "Worst frames of all: these records keep the lanes of a few frames chosen beforehand, not of those "
            "that came out worst; the gallery orders the frames it has."
        )
    frames = [frame for subject in run.gallery["subjects"] for frame in subject["frames"]]
    if not frames:
        said.append("Gallery: the records keep no lanes.")
    elif len(run.gallery["pictures"]) < len({frame["name"] for frame in frames}):
        said.append(
            "Pictures: some frames are shown without their image; give the data's folder with --root DIR."
        )
    return said


def environments(report: Report) -> list[dict[str, str]]:
    """Where the numbers come from: one line for each commit and machine."""
    found: dict[str, dict[str, str]] = {}
    for run in report.runs:
        for record in run.records:
            kept = record.environment
            packages = ", ".join(f"{name} {version}" for name, version in kept.get("packages", {}).items())
            names = ("processor", "cores", "memory_gb", "device", "system", "threads", "python", "commit")
            words = {name.replace("_", " "): str(kept.get(name, "")) for name in names}
            found.setdefault(f"{words}", {"run": run.name, **words, "packages": packages})
    return list(found.values())
