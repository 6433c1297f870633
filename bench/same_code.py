"""Versions of the code that give the same numbers, so that records of both may stand in one table.

A cell's ``code`` is a digest of sources, which a comment changes. Where ``scripts/same_code.py`` has found the cells of
two versions equal bit for bit, results/reference/same-code.csv says so.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Any

from bench.cells import PROJECT
from bench.store import Record
from selective_focus.quantization.config import QuantizationConfig, ReconstructionConfig

TABLE = PROJECT / "results" / "reference" / "same-code.csv"
COLUMNS = ("detector", "code", "same_as", "cells")
_PAIR = (
    *("detector", "variant", "weights_digest", "dataset", "data_digest", "subset", "device"),
    *("method", "w_bits", "a_bits", "seed", "calibration_digest", "metric"),
)


def known_code(cell: Mapping[str, Any]) -> str:
    """The digest of a cell's code; of codes that were found to give the same numbers, the one that stands for all."""
    code = str(cell["code"])
    for _ in range(len(_same_codes(TABLE))):
        code = _same_codes(TABLE).get(code, code)
    return code


@cache
def _same_codes(table: Path) -> dict[str, str]:
    if not table.is_file():
        return {}
    with table.open(encoding="utf-8", newline="") as file:
        return {row["code"]: row["same_as"] for row in csv.DictReader(file)}


def equal_cells(
    old: Iterable[Record], new: Iterable[Record]
) -> tuple[list[tuple[Record, Record]], list[str]]:
    """Pairs of cells that both runs have finished, and a line for every pair that differs in any score of any frame.

    Cells with other settings are no pair.
    """
    found = {_key(record): record for record in old if record.result is not None}
    pairs, differences = [], []
    for record in new:
        before = found.get(_key(record))
        if before is None or record.result is None or not _same_settings(before.cell, record.cell):
            continue
        pairs.append((before, record))
        if before.result != record.result:
            cell = record.cell
            where = (
                f"{cell['detector']} {cell['method']} w{cell['w_bits']}a{cell['a_bits']} seed {cell['seed']}"
            )
            differences.append(f"{where}: F1 {_f1(before)} and {_f1(record)}")
    return pairs, differences


def rows_of(pairs: Iterable[tuple[Record, Record]]) -> list[dict[str, str]]:
    """The new lines of the table for pairs of equal cells: a detector's two codes, and how many cells showed it."""
    counts: dict[tuple[str, str, str], int] = {}
    for old, new in pairs:
        names = (str(new.cell["detector"]), known_code(new.cell), known_code(old.cell))
        if names[1] != names[2]:
            counts[names] = counts.get(names, 0) + 1
    return [dict(zip(COLUMNS, (*names, str(count)), strict=True)) for names, count in sorted(counts.items())]


def _key(record: Record) -> tuple[Any, ...]:
    return tuple(record.cell.get(name) for name in _PAIR)


def _same_settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two cells had the same settings; what an older version does not name had its default."""
    first, second = one["settings"], other["settings"]
    return first.keys() == second.keys() and all(
        _with_defaults(name, first[name]) == _with_defaults(name, second[name]) for name in first
    )


def _with_defaults(group: str, settings: Any) -> Any:
    """A group of settings with the fields of its configuration that it does not name."""
    kind = {"quantization": QuantizationConfig, "reconstruction": ReconstructionConfig}.get(group)
    if kind is None or not isinstance(settings, dict):
        return settings
    defaults = {f.name: f.default for f in fields(kind) if f.default is not MISSING}
    return {**defaults, **settings}


def _f1(record: Record) -> str:
    return "none" if record.result is None or record.result.f1 is None else f"{100 * record.result.f1:.4f} %"
