"""Tables and CSV, always made from records. Nothing is averaged but seeds of one and the same setting."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from rich import box
from rich.table import Table
from scipy import stats

from bench.cells import canonical_json
from bench.paper import paper_f1
from bench.paper.releases import published_f1
from bench.same_code import known_code
from bench.statistics import FrameCounts, Interval, mean_f1
from bench.store import Record, RunFolder
from bench.whole_file import write_whole

CATEGORIES = ("normal", "crowd", "hlight", "shadow", "noline", "arrow", "curve", "night")
COLUMNS = (
    *("detector", "variant", "weights", "method", "w_bits", "a_bits", "dataset", "images", "seed"),
    *("f1", "precision", "recall", "tp", "fp", "fn"),
    *(f"f1_{name}" for name in CATEGORIES),
    *("fp_cross", "lds", "lds_displacement", "lds_missing", "lds_extra"),
    *("reconstruction_s", "peak_memory_mb", "iterations", "calibration_images", "device", "status"),
    *("paper_f1", "paper_status", "record", "accuracy", "published_f1"),
)
METHOD_ORDER = (
    *("fp32", "minmax", "omse", "aciq", "bias-correction"),
    *("adaround", "brecq", "qdrop", "selective-focus", "selective-focus-plus"),
)
"""Rows appear in this order; methods that are not listed follow."""

_ROW = ("detector", "variant", "weights", "method", "w_bits", "a_bits", "calibration_images")
_DATA = ("dataset", "data_digest", "subset", "device")
_CODE = ("code", "metric")
_SAME = ("weights_digest", "settings", "calibration", "calibration_digest", "code", "metric")


@dataclass(frozen=True)
class Spread:
    """Mean over seeds, and half the width of its 95 % interval (Student's t); None for a single seed."""

    mean: float
    half_width: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) < 2:
            return cls(float(values[0]), None)
        deviation = float(np.std(values, ddof=1))
        reach = float(stats.t.ppf(0.975, len(values) - 1)) * deviation / len(values) ** 0.5
        return cls(float(np.mean(values)), reach)

    def text(self, digits: int, factor: float = 1.0) -> str:
        words = f"{factor * self.mean:.{digits}f}"
        return words if self.half_width is None else f"{words} ±{factor * self.half_width:.{digits}f}"


@dataclass(frozen=True)
class Row:
    """One line of the table: all seeds of one setting, with the same code, weights, data and metric."""

    detector: str
    variant: str
    weights: str
    method: str
    w_bits: int
    a_bits: int
    seeds: int
    f1: Spread | None
    accuracy: Spread | None
    lds: Spread | None
    reconstruction_s: float | None
    """Mean seconds; None when the seeds were measured on different machines."""
    paper_f1: float | None
    paper_status: str
    published_f1: float | None
    """What the detector's authors report for the released weights of this variant, in full precision."""
    published_source: str
    status: str
    version: str
    """Digests of the weights, the code and the metric: only rows that agree in it are subtracted."""
    other_code: bool
    """Measured with other code or another metric than the newest row of its detector."""
    records: tuple[Record, ...] = field(repr=False)
    """What the row was made from."""

    @cached_property
    def f1_interval(self) -> Interval | None:
        """F1 with its 95 % interval over test frames and seeds; None where a record lacks counts per frame."""
        frames = {r.cell["seed"]: r.result.frames for r in self.records if r.result is not None}
        if self.f1 is None or not all({"fp", "fn"} <= set(each) for each in frames.values()):
            return None
        return mean_f1(FrameCounts.of_frames(frames))

    @property
    def bits(self) -> str:
        return "FP32" if self.method == "fp32" else f"W{self.w_bits}A{self.a_bits}"


@dataclass(frozen=True)
class Section:
    """Rows that may be compared: same data set, frames, calibration size and device."""

    title: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def current(records: Iterable[Record]) -> tuple[list[Record], int]:
    """The newest record of each cell identity, and how many older ones were left out.

    Seeds of one row that do not share code, weights, data and metric with the row's newest are left out.
    """
    newest: dict[str, Record] = {}
    everything = list(records)
    for record in everything:
        identity = _identity(record, ("dataset", "subset", "device", *_ROW, "seed"))
        known = newest.get(identity)
        if known is None or (record.finished, record.status == "done") >= (
            known.finished,
            known.status == "done",
        ):
            newest[identity] = record
    rows: dict[str, list[Record]] = defaultdict(list)
    for record in newest.values():
        rows[_identity(record, ("dataset", "subset", "device", *_ROW))].append(record)
    kept = []
    for group in rows.values():
        version = _identity(max(group, key=lambda record: record.finished), (*_SAME, "data_digest"))
        kept += [record for record in group if _identity(record, (*_SAME, "data_digest")) == version]
    return kept, len(everything) - len(kept)


def sections(records: Iterable[Record]) -> list[Section]:
    """The tables of a run, best comparable rows together."""
    kept, left_out = current(records)
    result = []
    for group in _comparable(kept):
        newest_code = {
            record.cell["detector"]: _identity(record, _CODE)
            for record in sorted(group, key=lambda record: record.finished)
        }
        by_row: dict[str, list[Record]] = defaultdict(list)
        for record in group:
            by_row[_identity(record, _ROW)].append(record)
        rows = tuple(
            sorted(
                (_row(seeds, newest_code[seeds[0].cell["detector"]]) for seeds in by_row.values()), key=_order
            )
        )
        result.append(Section(_title(group[0]), rows, _notes(group, rows, left_out)))
    return result


def _comparable(records: Sequence[Record]) -> list[list[Record]]:
    """Records by data, device and number of calibration images; full precision belongs to each of them."""
    groups: dict[str, list[Record]] = defaultdict(list)
    full_precision = [record for record in records if record.cell["method"] == "fp32"]
    for record in records:
        if record.cell["method"] != "fp32":
            groups[_identity(record, (*_DATA, "calibration_images"))].append(record)
    for group in groups.values():
        data = _identity(group[0], _DATA)
        group += [record for record in full_precision if _identity(record, _DATA) == data]
    compared = {record.key for group in groups.values() for record in group}
    for record in full_precision:
        if record.key not in compared:
            groups[_identity(record, _DATA)].append(record)
    return list(groups.values())


def csv_frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row a cell, with exactly ``COLUMNS``; what was not measured stays empty."""
    kept, _ = current(records)
    rows = [_csv_row(record) for record in sorted(kept, key=_record_order)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def write_csv(folder: RunFolder, records: Iterable[Record]) -> None:
    """``cells.csv`` of a run folder."""
    text = csv_frame(records).to_csv(index=False, lineterminator="\n")
    write_whole(folder.path / "cells.csv", text.encode())


def write_markdown(folder: RunFolder, records: Iterable[Record]) -> None:
    """``table.md`` of a run folder."""
    write_whole(folder.path / "table.md", markdown(sections(records)).encode())


def markdown(parts: Sequence[Section]) -> str:
    """The same tables as in the terminal, for reading on the web."""
    lines: list[str] = []
    for part in parts:
        header = _header(part)
        lines += [f"### {part.title}", "", "| " + " | ".join(header) + " |"]
        lines.append("| " + " | ".join(["---"] * 3 + ["---:"] * (len(header) - 3)) + " |")
        lines += ["| " + " | ".join(_texts(row, part)) + " |" for row in part.rows]
        lines += ["", *(f"- {note}" for note in part.notes), ""]
    return "\n".join(lines)


def terminal(part: Section) -> Table:
    """A table of at most 100 columns."""
    table = Table(title=part.title, caption="\n".join(part.notes), box=box.SIMPLE_HEAD, title_justify="left")
    table.caption_justify = "left"
    for index, name in enumerate(_header(part)):
        table.add_column(name, justify="left" if index < 3 else "right", no_wrap=index < 3)
    previous = None
    for row in part.rows:
        if previous is not None and previous != (row.detector, row.variant, row.bits):
            table.add_section()
        previous = (row.detector, row.variant, row.bits)
        table.add_row(*_texts(row, part))
    return table


def _header(part: Section) -> list[str]:
    accuracy = ["Accuracy %"] if _has_accuracy(part) else []
    paper = ["Published"] if _has_published(part) else []
    paper += ["Paper F1"] if _has_paper(part) else []
    return ["Detector", "Method", "Bits", *accuracy, "F1 %", "to FP32", "LDS px", "Reconstr.", *paper]


def _texts(row: Row, part: Section) -> list[str]:
    name = row.detector if row.variant == "synthetic" else f"{row.detector} {row.variant}"
    start = [name + ("†" if row.other_code else ""), row.method, row.bits]
    published = [f"{100 * row.published_f1:.2f}" if row.published_f1 is not None else ""]
    published = published if _has_published(part) else []
    extra = [*published, *([""] if _has_paper(part) else [])]
    if row.lds is None:
        return [*start, *([""] if _has_accuracy(part) else []), row.status, "", "", "", *extra]
    full = full_precision(row, part)
    compared = full is not None and row.f1 is not None and row.method != "fp32"
    loss = f"{100 * (row.f1.mean - full.mean):+.1f}" if compared else ""
    paper = [f"{100 * row.paper_f1:.2f} ({row.paper_status})" if row.paper_f1 is not None else ""]
    accuracy = [row.accuracy.text(2, 100) if row.accuracy else ""] if _has_accuracy(part) else []
    seconds = "" if row.reconstruction_s is None or row.method == "fp32" else f"{row.reconstruction_s:.1f} s"
    return [
        *start,
        *accuracy,
        row.f1.text(2, 100) if row.f1 else "undefined",
        loss,
        row.lds.text(2),
        seconds,
        *published,
        *(paper if _has_paper(part) else []),
    ]


def full_precision(row: Row, part: Section) -> Spread | None:
    """F1 of the same weights in full precision, measured with the same code and metric."""
    same = (row.detector, row.variant, row.version)
    for other in part.rows:
        if other.method == "fp32" and (other.detector, other.variant, other.version) == same:
            return other.f1
    return None


def _row(seeds: list[Record], newest_code: str) -> Row:
    cell = seeds[0].cell
    done = [record for record in seeds if record.status == "done" and record.result is not None]
    results = [record.result for record in done if record.result is not None]
    f1 = [result.f1 for result in results if result.f1 is not None]
    accuracy = [result.accuracy for result in results if result.accuracy is not None]
    one_machine = len({record.machine for record in done}) == 1
    value, status = paper_f1(
        cell["detector"], cell["method"], cell["w_bits"], cell["a_bits"], cell["dataset"]
    )
    others = sorted({record.status for record in seeds if record.status != "done"})
    published, source = published_f1(cell)
    return Row(
        **{name: cell[name] for name in ("detector", "variant", "weights", "method", "w_bits", "a_bits")},
        seeds=len(done),
        f1=Spread.of(f1) if f1 else None,
        accuracy=Spread.of(accuracy) if accuracy else None,
        lds=Spread.of([result.lds for result in results]) if results else None,
        reconstruction_s=float(np.mean([r.timing["reconstruction_s"] for r in done]))
        if one_machine
        else None,
        paper_f1=value,
        paper_status=status,
        published_f1=published,
        published_source=source,
        status=", ".join(others) or "done",
        version=_identity(seeds[0], ("weights_digest", *_CODE)),
        other_code=any(_identity(record, _CODE) != newest_code for record in seeds),
        records=tuple(done),
    )


def _csv_row(record: Record) -> dict[str, object]:
    cell, result = record.cell, record.result
    value, status = paper_f1(
        cell["detector"], cell["method"], cell["w_bits"], cell["a_bits"], cell["dataset"]
    )
    row: dict[str, object] = {name: cell[name] for name in COLUMNS[:9]}
    row |= {"calibration_images": cell["calibration_images"], "device": record.environment.get("device", "")}
    row["published_f1"] = published_f1(cell)[0]
    row |= {"status": record.status, "record": record.file_name, "paper_f1": value, "paper_status": status}
    row |= {"peak_memory_mb": round(record.peak_memory_mb, 1), "iterations": record.log.get("iterations")}
    row["reconstruction_s"] = record.timing.get("reconstruction_s")
    if result is None:
        return row
    values = result.model_dump(exclude={"frames", "categories", "f1_at", "images"})
    row |= {name: value for name, value in values.items() if name in COLUMNS}
    for name, category in result.categories.items():
        if f"f1_{name}" in COLUMNS:
            row[f"f1_{name}"] = category.f1
    if "cross" in result.categories:
        row["fp_cross"] = result.categories["cross"].fp
    return row


def _title(record: Record) -> str:
    cell = record.cell
    return f"{cell['dataset']}: {cell['images']} test frames ({cell['subset']})"


def _notes(group: Sequence[Record], rows: Sequence[Row], left_out: int) -> tuple[str, ...]:
    calibration = max(record.cell["calibration_images"] for record in group)
    devices = sorted({str(record.environment.get("device", "")) for record in group})
    notes = [f"{calibration} calibration images; device: {', '.join(devices)}"]
    rules = {record.cell["calibration"] for record in group if record.cell["method"] != "fp32"}
    notes += [f"calibration images: {rule}" for rule in sorted(rules)]
    if any(row.seeds > 1 for row in rows):
        notes.append("±: half of the 95 % interval over seeds")
    embedded = sorted({row.detector for row in rows if row.weights == "embedded"})
    if embedded and not group[0].cell["dataset"].startswith("synthetic"):
        notes.append(
            f"{', '.join(embedded)}: the small embedded weights (trained on synthetic roads), not official ones"
        )
    sources = sorted({row.published_source for row in rows if row.published_f1 is not None})
    if sources:
        notes.append(
            f"published: F1 of all CULane test frames as the authors report it ({'; '.join(sources)})"
        )
    if any(row.other_code for row in rows):
        notes.append("† measured with other code than the newest row: run again before comparing")
    if len({record.machine for record in group if "reconstruction_s" in record.timing}) > 1:
        notes.append(
            "seconds were measured on several machines: compare them only where one machine measured both"
        )
    unfinished = [row for row in rows if row.status != "done"]
    if unfinished:
        notes.append(f"{len(unfinished)} of {len(rows)} rows have unfinished seeds (see status in cells.csv)")
    if left_out:
        notes.append(f"{left_out} older records of the same cells left out")
    return tuple(notes)


def _identity(record: Record, names: Iterable[str]) -> str:
    cell = {**record.cell, "code": known_code(record.cell)}
    return canonical_json({name: cell[name] for name in names})


def _order(row: Row) -> tuple[object, ...]:
    return (row.detector, row.variant, -row.w_bits, -row.a_bits, method_rank(row.method), row.method)


def _record_order(record: Record) -> tuple[object, ...]:
    cell = record.cell
    bits = (-cell["w_bits"], -cell["a_bits"], method_rank(cell["method"]))
    return (
        cell["dataset"],
        cell["detector"],
        cell["variant"],
        *bits,
        cell["method"],
        cell["seed"],
        record.key,
    )


def method_rank(method: str) -> int:
    """Where a method stands in tables and figures."""
    return METHOD_ORDER.index(method) if method in METHOD_ORDER else len(METHOD_ORDER)


def _has_accuracy(part: Section) -> bool:
    return any(row.accuracy is not None for row in part.rows)


def _has_published(part: Section) -> bool:
    return any(row.published_f1 is not None for row in part.rows)


def _has_paper(part: Section) -> bool:
    return any(row.paper_f1 is not None for row in part.rows)
