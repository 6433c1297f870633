"""Which released checkpoint belongs to which variant of our detectors, and what its authors say of it.

releases.csv joins the names of ``lane_models`` with the rows of checkpoints.csv (by address, or by file name for the
two files that lie in a repository) and of official_fp.csv (by ``fp_variant``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from bench.errors import BenchError
from bench.paper import plain, rows

F1_METRICS = ("F1@50", "F1@50 (official C++ metric)", "F-measure")


@dataclass(frozen=True)
class Release:
    """One checkpoint of one variant.

    address: an https URL or "gdrive:ID". save_as: below the folder of weights, named after the detector, so that
    ``bench.detectors`` finds it there. members: of an archive, the shell pattern of the files in it; "" for a plain
    file. size in bytes and sha256 where known. f1 in 0..1, as published, and by whom.
    """

    detector: str
    variant: str
    dataset: str
    address: str
    save_as: str
    members: str
    size: int | None
    sha256: str
    f1: float | None
    f1_source: str


@lru_cache(maxsize=1)
def releases() -> tuple[Release, ...]:
    """The checkpoints that fit our variants, the recommended one of a variant first."""
    return tuple(_release(line, row) for line, row in enumerate(rows("releases"), start=2))


def published_f1(cell: Mapping[str, Any]) -> tuple[float | None, str]:
    """F1 in 0..1 and source of the released weights of a full-precision cell on CULane, or (None, "").

    Embedded weights were never published; other weights count as the released ones of their variant.
    """
    if (cell["dataset"], cell["method"]) != ("culane", "fp32") or cell["weights"] == "embedded":
        return None, ""
    for release in releases():
        same = (release.detector, release.variant) == (cell["detector"], cell["variant"])
        if same and release.dataset == "CULane" and release.f1 is not None:
            return release.f1, release.f1_source
    return None, ""


def _release(line: int, row: dict[str, str]) -> Release:
    try:
        size = int(row["bytes"]) if row["bytes"] else None
        f1, source = _published(row)
        return Release(
            row["detector"],
            row["variant"],
            row["dataset"],
            row["url_or_drive_id"],
            row["save_as"],
            row["members"],
            size,
            row["sha256"],
            f1,
            source,
        )
    except (KeyError, ValueError) as error:
        raise BenchError(f"releases.csv line {line}: {error}; restore it from the repository") from error


def _published(row: dict[str, str]) -> tuple[float | None, str]:
    """F1 of all test frames that official_fp.csv has for a release."""
    wanted = (plain(row["detector"]), row["fp_variant"], row["dataset"], "total")
    for found in rows("official_fp") if row["fp_variant"] else []:
        there = (plain(found["model"]), found["variant"], found["dataset"], found["category"])
        if there == wanted and found["metric"] in F1_METRICS:
            value = float(found["value"])
            source = f"{found['source']}, {found['dataset']}"
            return (value if value <= 1 else round(value / 100, 6)), source
    return None, ""
