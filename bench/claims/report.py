"""The table of claims as CSV, as Markdown and in the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pandas as pd
from rich import box
from rich.table import Table

from bench.claims.evidence import Evidence
from bench.claims.finding import CLAIMS, Finding, PaperValue
from bench.claims.timing import TimeToReach
from bench.claims.verdicts import RULES, VERDICTS
from bench.statistics import Interval

COLUMNS = (
    *("claim", "statement", "subject", "bits", "data", "paper", "paper_status"),
    *("measured", "low", "high", "unit", "seeds", "verdict", "in_context", "why"),
)


def csv_text(findings: Sequence[Finding]) -> str:
    """One row a finding; what was not measured and what nobody could read stays empty."""
    return str(_frame(findings).to_csv(index=False, lineterminator="\n", float_format="%.6g"))


def json_text(findings: Sequence[Finding]) -> str:
    """The same rows as a JSON list; empty is null."""
    return str(_frame(findings).to_json(orient="records", indent=2))


def _frame(findings: Sequence[Finding]) -> pd.DataFrame:
    rows = []
    for f in findings:
        measured = f.measured or Interval(float("nan"), None, None, 0)
        numbers = [measured.estimate, measured.low, measured.high]
        seeds = f.measured.seeds if f.measured is not None else None
        what = [f.claim, f.statement, f.subject, f.bits, f.data, f.paper.value, f.paper.status]
        rows.append([*what, *numbers, f.unit, seeds, f.verdict, f.in_context, f.why])
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"seeds": "Int64"})


def markdown(findings: Sequence[Finding], evidence: Evidence, times: Sequence[TimeToReach]) -> str:
    """Rules, a summary by claim, every finding, seconds to reach QDrop's F1, and what was left out."""
    lines = ["# The paper's claims, put to the test", "", RULES, "## Summary", ""]
    lines += _table(
        ["claim", "", "verdicts"], [[c, words, summary(findings, c)] for c, words in CLAIMS.items()]
    )
    for claim, words in CLAIMS.items():
        lines += [f"## {claim}: {words}", ""]
        header = ["detector", "bits", "what", "paper", "measured", "seeds", "verdict", "why"]
        lines += _table(header, [_cells(f) for f in findings if f.claim == claim])
    if times:
        lines += ["## Seconds until our methods have QDrop's F1", ""]
        lines += [
            "Where QDrop keeps at least half of full precision, on the seeds that both were timed with.",
            "",
        ]
        header = ["detector", "bits", "method", "QDrop s", "its s", "setting"]
        lines += _table(header, [_time_cells(time) for time in times])
    lines += [
        "## Measured on",
        "",
        *sorted({f"- {s.name}: {s.data}; {s.device}" for s in evidence.subjects}),
        "",
    ]
    lines += ["## Left out", "", *(f"- {note}" for note in evidence.left_out or ["nothing"]), ""]
    return "\n".join(lines)


def terminal(findings: Sequence[Finding]) -> Table:
    """All findings in at most 100 columns; reasons are in the files."""
    table = Table(box=box.SIMPLE_HEAD, title="The paper's claims", title_justify="left")
    for name in ("claim", "detector", "bits", "what", "paper", "measured", "unit", "verdict"):
        table.add_column(
            name, justify="right" if name in ("paper", "measured") else "left", no_wrap=name == "measured"
        )
    previous = ""
    for f in findings:
        if previous not in ("", f.claim):
            table.add_section()
        previous = f.claim
        paper = "" if f.paper.value is None else f"{f.paper.value:g}"
        table.add_row(f.claim, f.subject, f.bits, f.short, paper, value_text(f), f.unit, f.verdict)
    return table


def summary(findings: Sequence[Finding], claim: str) -> str:
    """How many rows of a claim have each verdict."""
    counted = Counter(f.verdict for f in findings if f.claim == claim and not f.in_context)
    return (
        ", ".join(f"{counted[verdict]} {verdict}" for verdict in VERDICTS if counted[verdict]) or "not tested"
    )


def value_text(finding: Finding) -> str:
    """ "+2.25 [+1.10, +3.40]"; empty where nothing was measured."""
    if finding.measured is None:
        return ""
    sign = "+" if finding.unit == "F1 points" else ""
    words = f"{finding.measured.estimate:{sign}.2f}"
    if finding.measured.low is None or finding.measured.high is None:
        return words
    return f"{words} [{finding.measured.low:{sign}.2f}, {finding.measured.high:{sign}.2f}]"


def paper_text(paper: PaperValue) -> str:
    """The number with its status, or the status alone."""
    return paper.status if paper.value is None else f"{paper.value:g} ({paper.status})"


def _cells(f: Finding) -> list[str]:
    seeds = str(f.measured.seeds) if f.measured is not None else ""
    if f.claim == "C5" and seeds:
        seeds += " images"
    value = f"{value_text(f)} {f.unit}" if f.measured is not None else ""
    verdict = f"{f.verdict}, in context" if f.in_context else f"**{f.verdict}**"
    return [f.subject, f.bits, f.statement, paper_text(f.paper), value, seeds, verdict, f.why]


def _time_cells(time: TimeToReach) -> list[str]:
    seconds = "not reached" if time.seconds is None else f"{time.seconds:.1f}"
    return [time.subject, time.bits, time.method, f"{time.qdrop_s:.1f}", seconds, time.label]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return [*lines, *("| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows), ""]
