"""The table of results: one line a setting, ready for the page, CSV, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.panels import detector_words
from bench.report.again import Again, again
from bench.table import Row, Section, full_precision


@dataclass(frozen=True)
class ResultRow:
    """A row of a table with the run and the section that it belongs to."""

    run: str
    data: str
    """Words for the frames and weights that were measured."""
    row: Row
    to_fp32: float | None
    """F1 points gained on full precision: negative where F1 was lost."""

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved settings of the method."""
        return dict(self.row.records[0].cell["settings"]) if self.row.records else {}

    @property
    def again(self) -> Again:
        """What makes this row again."""
        return again(self.run, self.row.records)


@dataclass(frozen=True)
class Column:
    """name: as printed. text: what a row shows. value: what it is sorted by, where that is a number."""

    name: str
    text: Callable[[ResultRow], str]
    value: Callable[[ResultRow], float | None] | None = None


def result_rows(run: str, parts: Sequence[Section]) -> Iterator[ResultRow]:
    """The rows of a run's tables."""
    for part in parts:
        for row in part.rows:
            full = full_precision(row, part)
            lost = None
            if full is not None and row.f1 is not None and row.method != "fp32":
                lost = 100 * (row.f1.mean - full.mean)
            yield ResultRow(run, f"{part.title}, {row.weights} weights", row, lost)


def memory_mb(row: Row) -> float | None:
    """Mean peak memory of its cells."""
    return float(np.mean([record.peak_memory_mb for record in row.records])) if row.records else None


def _number(value: float | None, digits: int, factor: float = 1.0, sign: str = "") -> str:
    return "" if value is None else f"{factor * value:{sign}.{digits}f}"


def _interval(each: ResultRow) -> str:
    found = each.row.f1_interval
    if found is None or found.low is None or found.high is None:
        return ""
    return f"[{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _f1(each: ResultRow) -> float | None:
    return each.row.f1.mean if each.row.f1 else None


def _lds(each: ResultRow) -> float | None:
    return each.row.lds.mean if each.row.lds else None


def _seconds(each: ResultRow) -> float | None:
    return None if each.row.method == "fp32" else each.row.reconstruction_s


COLUMNS = (
    Column("Detector", lambda each: detector_words(each.row)),
    Column("Method", lambda each: each.row.method),
    Column("Bits", lambda each: each.row.bits),
    Column("F1 %", lambda each: _number(_f1(each), 2, 100), _f1),
    Column("95 % interval", _interval, _f1),
    Column("to FP32", lambda each: _number(each.to_fp32, 1, sign="+"), lambda each: each.to_fp32),
    Column("Paper F1 %", lambda each: _number(each.row.paper_f1, 2, 100), lambda each: each.row.paper_f1),
    Column("Paper cell", lambda each: each.row.paper_status),
    Column(
        "Published F1 %",
        lambda each: _number(each.row.published_f1, 2, 100),
        lambda each: each.row.published_f1,
    ),
    Column("LDS px", lambda each: _number(_lds(each), 2), _lds),
    Column("Reconstr. s", lambda each: _number(_seconds(each), 1), _seconds),
    Column("Memory MB", lambda each: _number(memory_mb(each.row), 0), lambda each: memory_mb(each.row)),
    Column("Seeds", lambda each: str(each.row.seeds), lambda each: each.row.seeds),
    Column("Run", lambda each: each.run),
    Column("Data", lambda each: each.data),
    Column("Status", lambda each: each.row.status),
)


def shown_columns(rows: Sequence[ResultRow]) -> list[Column]:
    """The columns that say something: not a single run or data set in every line, nor a column without any value."""
    values = {column.name: {column.text(row) for row in rows} for column in COLUMNS}
    least = {"Run": 2, "Data": 2}
    return [column for column in COLUMNS if len(values[column.name] - {""}) >= least.get(column.name, 1)]


def texts(rows: Sequence[ResultRow]) -> list[list[str]]:
    """Header and lines."""
    return [[column.name for column in COLUMNS], *([column.text(row) for column in COLUMNS] for row in rows)]


def as_csv(lines: Sequence[Sequence[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()


def as_markdown(lines: Sequence[Sequence[str]]) -> str:
    rows = ["| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines]
    return "\n".join([rows[0], "|" + " --- |" * len(lines[0]), *rows[1:]]) + "\n"


def as_latex(lines: Sequence[Sequence[str]]) -> str:
    """A tabular with booktabs' rules."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {letter: f"\\{letter}" for letter in "%&_#{}$"}
    rows = [" & ".join("".join(special.get(c, c) for c in cell) for cell in line) + r" \\" for line in lines]
    start = r"\begin{tabular}{" + "l" * len(lines[0]) + "}"
    return "\n".join(
        [start, r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule", r"\end{tabular}", ""]
    )
