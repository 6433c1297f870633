"""What is in a folder of runs, and what of it nothing needs any more."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import lane_models
from bench import examples
from bench.cells import Cell, code_version, digest_of_state, metric_version
from bench.full_precision import reference_key
from bench.store import Record, RunFolder
from bench.table import current

RESTING_S = 3600
"""A temporary file that was not touched for so long belongs to no running program."""


@dataclass(frozen=True)
class Run:
    """One run, as ``python -m bench ls`` shows it."""

    name: str
    cells: dict[str, int]
    """Status -> number of cells."""
    damaged: int
    """Records that were set aside."""
    size: int
    """Bytes of all files."""
    newest: float
    """When a record was last written, in seconds since 1970; 0 without records."""


@dataclass(frozen=True)
class Leftover:
    """A file or folder that may go, why, and its bytes."""

    path: Path
    why: str
    size: int


def runs_in(results: Path) -> list[Run]:
    """Every run below ``results`` that has a record, sound or not, by name. Damaged records are set aside."""
    return [_run(RunFolder(path.parent)) for path in sorted(results.glob("*/records")) if any(path.iterdir())]


def _run(folder: RunFolder) -> Run:
    cells = Counter(str(record.status) for record in folder.records())
    written = [path.stat().st_mtime for path in folder.records_path.glob("*.json")]
    damaged = len(list(folder.records_path.glob("*.corrupt")))
    return Run(folder.path.name, dict(cells), damaged, size_of(folder.path), max(written, default=0.0))


def leftovers(folder: RunFolder) -> list[Leftover]:
    """What is stale in a run: see the reasons. What cannot be judged here (a detector or weights file that this
    checkout does not have) is never in it."""
    records = folder.records()
    why = {record.key: reason for record in records if (reason := _outdated(record))}
    in_tables, _ = current(record for record in records if record.key not in why)
    kept = {record.key for record in in_tables}
    for record in records:
        if record.key not in kept:
            why.setdefault(record.key, "a newer record of this cell has other weights, data, options or code")
    found = [_leftover(folder.records_path / f"{key}.json", reason) for key, reason in why.items()]
    found += [_leftover(path, "a damaged record") for path in folder.records_path.glob("*.corrupt")]
    found += [_leftover(path, "a temporary file of a run that ended") for path in _temporary(folder.path)]
    found += _orphans(folder, [record for record in records if record.key in kept])
    return sorted(found, key=lambda item: (item.why, item.path))


def remove(items: Iterable[Leftover]) -> None:
    """Deletes them; links are removed and never followed."""
    for item in items:
        if item.path.is_dir() and not item.path.is_symlink():
            shutil.rmtree(item.path)
        else:
            item.path.unlink(missing_ok=True)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    files = [path] if not path.is_dir() or path.is_symlink() else path.rglob("*")
    return sum(file.lstat().st_size for file in files if file.is_symlink() or file.is_file())


def _outdated(record: Record) -> str:
    """Why this checkout would not measure this cell in this way again; empty where it would, or who knows."""
    cell = record.cell
    if cell.get("detector") not in lane_models.names():
        return ""
    if cell.get("code") != code_version(cell["detector"]):
        return "measured with other code than this checkout's"
    if cell.get("metric") != metric_version():
        return "scored with another metric than this checkout's"
    if cell.get("weights") == "embedded" and cell["weights_digest"] != _embedded(
        cell["detector"], cell["variant"]
    ):
        return "of other weights than the embedded ones"
    return ""


@cache
def _embedded(detector: str, variant: str) -> str:
    """The digest of the weights that ship; empty where none do."""
    if lane_models.shipped_weights(detector, variant) is None:
        return ""
    return digest_of_state(lane_models.build(detector, variant).model)


def _temporary(folder: Path) -> Iterator[Path]:
    for pattern in (".*.tmp", "probe-*"):
        for path in folder.rglob(pattern):
            if time.time() - path.lstat().st_mtime > RESTING_S:
                yield path


def _orphans(folder: RunFolder, kept: Iterable[Record]) -> list[Leftover]:
    """Caches of full-precision lanes and of shown frames that no kept record needs."""
    lanes, frames = set(), set()
    for record in kept:
        lanes.add(f"{reference_key(Cell(**record.cell))}.npz")
        frames.add(examples.frames_folder(folder, record.cell["data_digest"], record.cell["subset"]))
    orphans = [path for path in folder.path.glob("fp32/*.npz") if path.name not in lanes]
    orphans += [path for path in folder.path.glob("examples/*") if path not in frames]
    return [_leftover(path, "a cache that no kept record needs") for path in orphans]


def _leftover(path: Path, why: str) -> Leftover:
    return Leftover(path, why, size_of(path))
