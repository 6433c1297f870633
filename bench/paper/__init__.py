"""What others published, as CSV with a source and a status for each number. Unknown cells stay empty.

claims.csv        the paper's own claims (status verified | inferred); type cells of its tables in here
official_fp.csv   full-precision scores that the detectors' authors report
checkpoints.csv   where released weights and data sets can be had
releases.csv      which of those weights fit our variants (see releases.py)
"""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path

from bench.errors import BenchError

FOLDER = Path(__file__).resolve().parent


def rows(name: str) -> list[dict[str, str]]:
    """The rows of one of the CSV files of this folder (by name without ".csv")."""
    path = FOLDER / f"{name}.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise BenchError(
            f"{path}: cannot be read ({error.strerror}); restore it from the repository"
        ) from error


def paper_f1(detector: str, method: str, w_bits: int, a_bits: int, dataset: str) -> tuple[float | None, str]:
    """F1 in 0..1 and status of the paper's cell on CULane, or (None, "") where nobody could read it.

    A row of claims.csv counts when its ``metric`` is "F1", its model and method are these and its bits agree.
    """
    if dataset != "culane":
        return None, ""
    return _cells().get((plain(detector), plain(method), w_bits, a_bits), (None, ""))


@lru_cache(maxsize=1)
def _cells() -> dict[tuple[str, str, int, int], tuple[float, str]]:
    cells = {}
    for line, row in enumerate(rows("claims"), start=2):
        if row["metric"].strip() != "F1" or not row["value"].strip():
            continue
        try:
            bits = int(row["w_bits"] or 32), int(row["a_bits"] or 32)
            value = float(row["value"]) / 100
        except ValueError as error:
            raise BenchError(
                f"claims.csv line {line}: {error}; expected whole bits and a value in percent"
            ) from error
        cells[(plain(row["model"]), plain(row["method"]), *bits)] = (value, row["status"])
    return cells


def plain(name: str) -> str:
    """ "Selective Focus" and "selective-focus" are the same name."""
    return "".join(letter for letter in name.lower() if letter.isalnum())
