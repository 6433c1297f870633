"""One JSON record a cell, written whole or not at all. Tables and plots are made from these."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from bench.cells import Cell
from bench.errors import StoreError
from bench.whole_file import cannot_write, write_whole

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

RUNS = Path("results/runs")
SCHEMA = 1
ROOM_NEEDED_MB = 32
_CELL = TypeAdapter(Cell)

Status = Literal["done", "skipped", "failed", "out_of_memory", "timeout", "interrupted"]

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
"""What a disk says that has no locks."""


class _Plain(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CategoryResult(_Plain):
    """Counts of one category of the test frames. f1 is None where it is undefined (no annotated lanes)."""

    images: int
    tp: int
    fp: int
    fn: int
    f1: float | None


class Result(_Plain):
    """What a cell measured. Ratios in 0..1, lane distortion (lds) in pixels of a 1640x590 frame."""

    images: int
    f1: float | None
    precision: float | None
    recall: float | None
    tp: int | None = None
    fp: int | None = None
    fn: int | None = None
    accuracy: float | None = None
    """TuSimple only. There precision = 1 - FP and recall = 1 - FN (means over images); f1 follows from them."""
    f1_at: dict[str, float | None] = {}
    """F1 at other IoU thresholds, and "mean" over 0.50, 0.55 .. 0.95."""
    categories: dict[str, CategoryResult] = {}
    lds: float
    lds_displacement: float
    lds_missing: float
    lds_extra: float
    frames: dict[str, list[float]] = {}
    """Per test frame, in the order of the data set's subset: what intervals over frames are made from."""


class Record(_Plain):
    """The whole outcome of one cell."""

    schema_version: Literal[1] = SCHEMA
    key: str
    status: Status
    reason: str = ""
    cell: dict[str, Any]
    result: Result | None = None
    timing: dict[str, float] = {}
    """Seconds, each on its own: reconstruction_s, looking_s (measuring learned states, not part of the former),
    network_s, decode_s, metric_s, evaluation_s, total_s. The stages of an evaluation overlap: network_s, decode_s and
    metric_s, each as long as it was busy, can add up to more than evaluation_s. With them images_per_s, and batch_size,
    the frames that went through the network at a time."""
    peak_memory_mb: float = 0.0
    """Most memory while the cell ran. On a CPU that of the whole process: Python, PyTorch and the test frames kept as
    network inputs (up to ``input_cache_mb``) are in it, so it is no method's own need, and only cells of one run
    compare. On an accelerator what PyTorch took there."""
    examples: dict[str, list[list[list[float]]]] = {}
    """Lanes of a few test frames, [P][2] pixels each: what overlays are drawn from."""
    extremes: dict[str, dict[str, Any]] = {}
    """The frames of highest lane distortion: "lds" in px, own "lanes", full precision's "reference"."""
    log: dict[str, Any] = {}
    """The method's own account (``QuantizationLog``)."""
    environment: dict[str, Any] = {}
    started: str = ""
    finished: str = ""

    @property
    def file_name(self) -> str:
        return f"{self.key}.json"

    @property
    def machine(self) -> str:
        """Equal where seconds may be compared: the same kind of machine, with as many threads and cells at a time."""
        own = (self.environment.get(name, "") for name in ("machine", "threads", "processes"))
        return "/".join(map(str, own))


def run_names(results: Path) -> list[str]:
    """The runs in a results folder that have a record."""
    return sorted({path.parents[1].name for path in results.glob("*/records/*.json")})


class RunFolder:
    """The folder of one named run: ``records/KEY.json``, and what is derived from them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records_path = path / "records"
        self.set_aside: list[Path] = []
        self._claims: BinaryIO | None = None

    def prepare(self) -> None:
        """Makes the folder and proves that it can be written. Raises StoreError with one line otherwise."""
        try:
            self.records_path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(cannot_write(self.path, error)) from error
        free_mb = shutil.disk_usage(self.records_path).free / 2**20
        if free_mb < ROOM_NEEDED_MB:
            raise StoreError(
                f"{self.path}: only {free_mb:.0f} MB left on this disk, {ROOM_NEEDED_MB} MB needed; "
                "free some room or choose another folder with --results DIR"
            )
        probe = self.records_path / f"probe-{os.getpid()}"
        write_whole(probe, b"can this folder be written?")
        probe.unlink(missing_ok=True)

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        """``prepare`` for a block; a folder that it made is removed again when the block ends without a record."""
        new = not self.path.exists()
        self.prepare()
        try:
            yield
        finally:
            if new and not any(self.records_path.glob("*")):
                shutil.rmtree(self.path, ignore_errors=True)

    def put(self, record: Record) -> Path:
        """Writes one record, replacing an earlier outcome of the same cell.

        A finished record is never replaced by another outcome: several runs may write into one folder, and one that
        is stopped takes nothing from another that got there first.
        """
        path = self.records_path / record.file_name
        fields = _finite(record.model_dump())
        lines = [f" {json.dumps(name)}: {json.dumps(fields[name], allow_nan=False)}" for name in fields]
        with self._alone():
            known = None if record.status == "done" else _parsed(path)
            if known is None or known.status != "done":
                write_whole(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())
        return path

    def done(self, key: str) -> Record | None:
        """The finished record of a cell, or None: every other outcome is tried again."""
        record = self._read(self.records_path / f"{key}.json")
        return record if record is not None and record.status == "done" else None

    def attempted(self, key: str, since: str) -> Record | None:
        """The record of a cell, whatever its outcome, if it was written at the time ``since`` (ISO, UTC) or later."""
        path = self.records_path / f"{key}.json"
        record = self._read(path) if path.is_file() else None
        return record if record is not None and record.finished >= since else None

    @contextlib.contextmanager
    def claimed(self, key: str, wait: bool) -> Iterator[bool]:
        """Keeps other processes away from a cell inside the block; False when one of them is at it.

        A lock on one byte of a file, which the system takes back when the process ends, however it ends. Where there
        are no such locks (Windows, some network disks), every process runs every cell.

        wait: until the other process has finished or ended.
        """
        if fcntl is None:
            yield True
            return
        place = int(key[:12], 16)
        try:
            if self._claims is None:
                self._claims = (self.path / "claims.lock").open("ab")
            fcntl.lockf(self._claims, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, place)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                yield False
                return
            if error.errno not in NO_LOCKS:
                raise StoreError(f"{self.path}: cells cannot be claimed ({error.strerror})") from error
            yield True
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._claims, fcntl.LOCK_UN, 1, place)

    def records(self) -> list[Record]:
        """Every sound record, by file name. Damaged ones become KEY.json.corrupt and are listed in ``set_aside``."""
        return list(self._readable())

    def _readable(self) -> Iterator[Record]:
        for path in sorted(self.records_path.glob("*.json")):
            record = self._read(path)
            if record is not None:
                yield record

    def _read(self, path: Path) -> Record | None:
        record = _parsed(path)
        if record is not None or not path.exists():
            return record
        with self._alone():
            record = _parsed(path)  # it may have been replaced by a sound one meanwhile
            if record is None and path.exists():
                self._set_aside(path)
        return record

    def _set_aside(self, path: Path) -> None:
        aside = path.with_suffix(".json.corrupt")
        try:
            os.replace(path, aside)
        except OSError:  # a read-only results folder can still be tabulated
            aside = path
        self.set_aside.append(aside)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Holds the folder's lock between looking at a record and replacing it. It falls with its process.

        Without ``flock`` (Windows, some network folders) records are as whole, and of two outcomes of one cell the
        later one stays.
        """
        try:
            descriptor = os.open(self.records_path, os.O_RDONLY)
        except OSError:  # what follows says what is wrong with the folder
            yield
            return
        try:
            if fcntl is not None:
                with contextlib.suppress(OSError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _parsed(path: Path) -> Record | None:
    """The record in a file; None when the file is damaged, of another cell, or not there."""
    try:
        record = Record.model_validate_json(path.read_bytes())
    except (ValidationError, FileNotFoundError):
        return None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    return record if record.key == path.stem and _is_whole(record) else None


def _is_whole(record: Record) -> bool:
    """Whether tables can be made of a record: all fields of a cell, and of a finished one its scores and seconds."""
    try:
        _CELL.validate_python(record.cell)
    except ValidationError:
        return False
    return record.status != "done" or (record.result is not None and "reconstruction_s" in record.timing)


def _finite(value: Any) -> Any:
    """JSON has no NaN or infinity: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if hasattr(value, "item"):
        return _finite(value.item())
    return str(value)
