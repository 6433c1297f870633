"""The full-precision lanes of a detector on the test frames: what every cell is compared with, kept in a file."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

from bench.cells import Cell, canonical_json
from bench.evaluate import Detections, Seconds
from bench.found_lanes import FoundLanes
from bench.store import RunFolder


def reference_key(cell: Cell) -> str:
    """Cells with the same full-precision lanes have the same key here."""
    fields = dataclasses.asdict(cell)
    deciding = ("detector", "variant", "weights_digest", "data_digest", "subset", "device", "code")
    return hashlib.sha256(canonical_json({name: fields[name] for name in deciding}).encode()).hexdigest()


def reference_path(folder: RunFolder, cell: Cell) -> Path:
    """Where a run keeps the lanes that a cell is compared with."""
    return folder.path / "fp32" / f"{reference_key(cell)}.npz"


def read_reference(folder: RunFolder, cell: Cell) -> Detections | None:
    """The stored lanes, or None when there are none or the file is damaged (they are then made again)."""
    stored = FoundLanes.read(reference_path(folder, cell))
    if stored is None or len(stored[1]) != len(dataclasses.fields(Seconds)):
        return None
    return Detections(stored[0], Seconds(*stored[1]))


def write_reference(folder: RunFolder, cell: Cell, found: Detections) -> None:
    """Keeps the lanes; the file appears whole or not at all."""
    found.lanes.write(reference_path(folder, cell), dataclasses.astuple(found.seconds))
