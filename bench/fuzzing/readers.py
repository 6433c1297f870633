"""The readers of files from outside, each with the errors that it may raise and sound files to begin with."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import save as to_safetensors

from bench.errors import BenchError, StoreError
from bench.found_lanes import FoundLanes
from bench.profile import PROFILES, load_profile
from bench.store import Record, RunFolder
from bench.unpack import ArchiveError, Limits, unpack
from datasets.culane_lists import read_list
from datasets.errors import DatasetError
from datasets.images import read_image
from datasets.lane_files import read_lanes
from datasets.tusimple import read_records
from lane_models.checkpoint import CheckpointError, read, state_dict_of
from selective_focus import Lane
from selective_focus.saved_state import HEADER, SavedStateError, saved_description

KEY = "0" * 64
LIMITS = Limits(entries=20, size=2**20)


@dataclass(frozen=True)
class Reader:
    """One reader. A file makes it return, or raise one of ``refuses`` with a message of one line; nothing else."""

    name: str
    file_name: str
    read: Callable[[Path], object]
    refuses: tuple[type[Exception], ...]
    seeds: Callable[[], list[bytes]]
    """Sound files, from which hostile ones are made."""

    def accepts(self, content: bytes, folder: Path) -> bool:
        """Whether the reader takes ``content`` for a sound file. Raises what the reader should not have raised."""
        path = folder / self.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.read(path)
        except self.refuses as error:
            if "\n" in str(error) or not str(error).strip():
                raise AssertionError(f"{self.name}: refused, but not in one line: {error!r}") from error
            return False
        return True


def readers() -> dict[str, Reader]:
    """All of them, by name."""
    return {reader.name: reader for reader in (*TEXT, *BINARY)}


def _record(path: Path) -> None:
    folder = RunFolder(path.parents[1])
    with contextlib.suppress(FileNotFoundError):
        path.with_suffix(".json.corrupt").unlink()
    kept = folder.records()
    if not kept and not folder.set_aside:
        raise AssertionError("a record was neither read nor set aside")


def _unpack(path: Path) -> None:
    """Nothing may appear outside of the folder, and nothing that is no file or folder inside of it."""
    beside = {*path.parent.iterdir()}
    inside = path.parent / "inside"
    unpack(path, inside, LIMITS)
    if {*path.parent.iterdir()} - beside - {inside}:
        raise AssertionError("an archive wrote outside of its folder")
    if any(item.is_symlink() or not (item.is_file() or item.is_dir()) for item in inside.rglob("*")):
        raise AssertionError("an archive made a link or a device")


def _checkpoint(path: Path) -> None:
    state_dict_of(read(path), str(path))


def _records() -> list[bytes]:
    record = Record(
        key=KEY, status="failed", reason="why", cell={"method": "minmax"}, timing={"total_s": 1.5}
    )
    return [record.model_dump_json().encode(), json.dumps(record.model_dump(), indent=1).encode()]


def _profiles() -> list[bytes]:
    return [path.read_bytes() for path in sorted(PROFILES.glob("*.toml"))]


def _state() -> dict[str, torch.Tensor]:
    return {"conv.weight": torch.zeros(2, 1, 3, 3), "bn.num_batches_tracked": torch.tensor(3)}


def _safetensors() -> list[bytes]:
    half = {name: value.half() for name, value in _state().items()}
    return [to_safetensors(_state()), to_safetensors(half, {"format": "pt"})]


def _saved_states() -> list[bytes]:
    description = {"format": 1, "detector": "toy", "variant": "a", "method": "minmax", "bits": "w4a4"}
    header = json.dumps({**description, "config": {"quantization": {}}, "grids": {}})
    return [to_safetensors(_state(), {HEADER: header})]


def _pickles() -> list[bytes]:
    found = []
    for zipped in (True, False):
        for content in (_state(), {"net": _state(), "epoch": 3}):
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
            found.append(buffer.getvalue())
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights/model.pth", found[0])
    return [*found, packed.getvalue()]


def _archives() -> list[bytes]:
    found = []
    for mode in ("w", "w:gz", "w:xz"):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=mode) as tarred:  # type: ignore[call-overload]
            for name in ("a/one.pth", "two.txt"):
                entry = tarfile.TarInfo(name)
                entry.size = 600
                tarred.addfile(entry, io.BytesIO(bytes(600)))
        found.append(buffer.getvalue())
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as zipped:
            zipped.writestr("a/one.pth", bytes(600))
            zipped.writestr("two.txt", b"two")
        found.append(buffer.getvalue())
    return found


def _images() -> list[bytes]:
    image = np.arange(16 * 24 * 3, dtype=np.uint8).reshape(16, 24, 3)
    return [cv2.imencode(suffix, image)[1].tobytes() for suffix in (".jpg", ".png")]


def _lanes_of_full_precision() -> list[bytes]:
    lanes = [[Lane(np.array([[1.0, 2.0], [3.0, 4.0]]), 0.5)], [], [Lane(np.array([[5.0, 6.0]]), 0.9)] * 2]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lanes.npz"
        FoundLanes.of(lanes).write(path, [0.1, 0.2, 0.3, 0.4, 2.0])
        return [path.read_bytes()]


_LANES = [b"10 590 20.5 580 31 570\n-3 590 1e2 300\n", b"", b"\n1 2 3 4"]
_LABELS = (
    b'{"lanes": [[-2, 632, 625.5], [719, 734, -2]], "h_samples": [240, 250, 260], '
    b'"raw_file": "clips/0313-1/6040/20.jpg"}\n'
)
_RESULTS = b'{"lanes": [[-2, 632]], "raw_file": "clips/a/20.jpg", "run_time": 12}\n'

TEXT = (
    Reader("lanes", "a.lines.txt", read_lanes, (DatasetError,), lambda: _LANES),
    Reader("lanes-reference", "a.lines.txt", lambda path: read_lanes(path, "reference"), (), lambda: _LANES),
    Reader(
        "list", "test.txt", read_list, (DatasetError,), lambda: [b"/a/0.jpg\nb/1.jpg /b/1.png 1 1 0 0\r\n"]
    ),
    Reader("tusimple", "labels.json", read_records, (DatasetError,), lambda: [_LABELS]),
    Reader(
        "submission",
        "results.json",
        lambda path: read_records(path, labels=False),
        (DatasetError,),
        lambda: [_RESULTS, _LABELS],
    ),
    Reader("record", f"run/records/{KEY}.json", _record, (StoreError,), _records),
    Reader("profile", "own.toml", lambda path: load_profile(str(path)), (BenchError,), _profiles),
)
"""Text formats: fuzzed with coverage as a guide."""

BINARY = (
    Reader("safetensors", "a.safetensors", _checkpoint, (CheckpointError,), _safetensors),
    Reader("saved-state", "b.safetensors", saved_description, (SavedStateError,), _saved_states),
    Reader("checkpoint", "a.pth", _checkpoint, (CheckpointError,), _pickles),
    Reader("archive", "a.archive", _unpack, (ArchiveError,), _archives),
    Reader("image", "a.jpg", read_image, (DatasetError,), _images),
    Reader("full-precision", "a.npz", FoundLanes.read, (), _lanes_of_full_precision),
)
"""Binary formats: mutated, and made hostile field by field (``mutations.py``)."""
