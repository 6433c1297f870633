"""The cells of a run as tasks on a Ray cluster: the same runner, on more than one machine.

The driver plans, writes every record and shows progress; nodes load the data and detectors themselves, by name, and
must come to the same keys. A cell whose node is lost runs again on another. ``docs/cluster.md`` says how to start one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cells import Cell
from bench.errors import BenchError, bad_input_errors, one_line
from bench.evaluate import Detections, Seconds
from bench.found_lanes import FoundLanes
from bench.full_precision import read_reference, write_reference
from bench.parts import Parts
from bench.profile import Profile
from bench.runner import Listener, Subject, ended, failure, interrupted, measured, now, plan, planned
from bench.store import Record, RunFolder
from bench.workers import Silent
from selective_focus import Lane

RETRIES = 5
"""How often a cell is tried again after its node or process was lost."""
SHARD = 2048
"""At most so many test frames go through the full-precision network in one task, rounded to whole batches."""
SECONDS_BETWEEN_NEWS = 0.5


@dataclass(frozen=True)
class Job:
    """What a node needs to build the subject of its cells."""

    profile: Profile
    parts: Parts
    directory: str
    """The driver's, for relative paths; a node without it stays where it is."""


def run(
    profile: Profile,
    folder: RunFolder,
    parts: Parts,
    listener: Listener,
    address: str,
    cell_cpus: int = 1,
) -> list[Record]:
    """``bench.runner.run`` with the cells on a Ray cluster: the same records, whatever node measured them.

    address: of the cluster (HOST:PORT, ray://HOST:PORT, auto), or "local" for one of this machine's cores.
    cell_cpus: CPUs that a cell takes, and threads that it computes with; on CUDA devices it takes a GPU as well.
    """
    with folder.prepared(), _connected(address):
        data, plans = planned(profile, folder, parts, listener)
        resources = {"num_cpus": cell_cpus, "num_gpus": int(profile.device.startswith("cuda"))}
        driver = _Driver(Job(profile, parts, os.getcwd()), folder, listener, resources)
        known = {cell.key: folder.done(cell.key) for _, cells in plans for cell in cells}
        for index, (_, cells) in enumerate(plans):
            driver.submit(index, [cell for cell in cells if known[cell.key] is None], len(data.frames))
        for record in known.values():
            if record is not None:
                listener.finished(record, True)
        records = {**known, **{record.key: record for record in driver.finished()}}
        return [record for record in records.values() if record is not None]


@contextlib.contextmanager
def _connected(address: str) -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise BenchError("Ray is not installed; pip install 'ray>=2.40' (see docs/cluster.md)") from None
    try:
        ray.init(address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise BenchError(
            f"{address}: no Ray cluster answers there ({one_line(error)[:160]}); start one (docs/cluster.md) or use "
            "--cluster local"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


class _Driver:
    """Tasks under way on the cluster, and what becomes of them."""

    def __init__(self, job: Job, folder: RunFolder, listener: Listener, resources: dict[str, int]) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._ray = ray
        self._profile = job.profile
        self._job = ray.put(job)
        self._folder = folder
        self._resources = resources
        self._board = ray.remote(num_cpus=0, scheduling_strategy=here)(_Board).remote()
        self._progress = _Progress(listener)
        self._listener = listener
        self._waiting: dict[Any, Cell] = {}
        self._references: list[tuple[Cell, list[Any]]] = []

    def submit(self, index: int, cells: list[Cell], frames: int) -> None:
        """Sends the cells of the profile's detector ``index``, and before them its full-precision lanes."""
        if not cells:
            return
        known = read_reference(self._folder, cells[0])
        if known is not None:
            parts = [self._ray.put(known)]
        else:
            task = self._ray.remote(max_retries=RETRIES, **self._resources)(_full_precision)
            size = max(1, SHARD // self._profile.batch_size) * self._profile.batch_size
            starts = range(0, frames, size)
            parts = [task.remote(self._job, index, cells[0], start, start + size) for start in starts]
            self._references.append((cells[0], parts))
        task = self._ray.remote(max_retries=RETRIES, **self._resources)(_measure)
        for cell in cells:
            self._waiting[task.remote(self._job, index, cell, self._board, *parts)] = cell

    def finished(self) -> Iterator[Record]:
        """The records, each written when its cell ends. Raises bad input; what is under way is stopped then."""
        try:
            while self._waiting:
                ready, _ = self._ray.wait(list(self._waiting), timeout=SECONDS_BETWEEN_NEWS)
                for cell, steps in self._ray.get(self._board.take.remote()):
                    self._progress.news(cell, steps)
                for reference in ready:
                    record = self._outcome(reference, self._waiting[reference])
                    self._folder.put(record)
                    del self._waiting[reference]
                    self._listener.finished(record, False)
                    self._progress.ended(record.key)
                    yield record
            self._keep_references()
        except BaseException as error:
            self._stop(isinstance(error, KeyboardInterrupt))
            raise

    def _outcome(self, reference: Any, cell: Cell) -> Record:
        errors = self._ray.exceptions
        try:
            found: Record = self._ray.get(reference)
            return found
        except errors.RayTaskError as error:
            if isinstance(error.cause, bad_input_errors()):
                raise error.cause from None
            status, why = failure(error.cause)
            return ended(cell, status, why["reason"])
        except errors.OutOfMemoryError as error:
            return ended(cell, "out_of_memory", f"its node ran out of memory ({one_line(error)[:200]})")
        except errors.RayError as error:
            return ended(
                cell, "failed", f"lost with its process or node {RETRIES + 1} times ({type(error).__name__})"
            )

    def _keep_references(self) -> None:
        """Full-precision lanes go into the run folder, as those of a local run do."""
        for cell, parts in self._references:
            with contextlib.suppress(self._ray.exceptions.RayError):  # its cells have failed with it
                write_reference(self._folder, cell, _joined(self._ray.get(parts)))

    def _stop(self, by_user: bool) -> None:
        for reference, cell in self._waiting.items():
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.cancel(reference, force=True)
            if by_user and cell.key in self._progress.running:
                self._folder.put(interrupted(cell, now()))


class _Progress:
    """Tells a listener, which shows one cell at a time, of one of the cells under way."""

    def __init__(self, listener: Listener) -> None:
        self.running: dict[str, Cell] = {}
        self._listener = listener
        self._shown = ""

    def news(self, cell: Cell, steps: tuple[str, int, int] | None) -> None:
        """A cell began (again), or is at a step of "reconstructed" or "evaluated"."""
        self.running[cell.key] = cell
        self._show(self._shown or cell.key)
        if steps is not None and cell.key == self._shown:
            getattr(self._listener, steps[0])(*steps[1:])

    def ended(self, key: str) -> None:
        self.running.pop(key, None)
        if key == self._shown:
            self._shown = ""
            self._show(next(iter(self.running), ""))

    def _show(self, key: str) -> None:
        if key != self._shown:
            self._shown = key
            self._listener.started(self.running[key])


class _Board:
    """An actor beside the driver: nodes pin up how far they are, the driver takes it down."""

    def __init__(self) -> None:
        self._news: list[tuple[Cell, tuple[str, int, int] | None]] = []

    def tell(self, cell: Cell, steps: tuple[str, int, int] | None) -> None:
        self._news.append((cell, steps))

    def take(self) -> list[tuple[Cell, tuple[str, int, int] | None]]:
        news, self._news = self._news, []
        return news


class _Relay:
    """The listener of a cell on a node."""

    def __init__(self, board: Any, cell: Cell) -> None:
        self._board, self._cell, self._told = board, cell, time.monotonic()
        board.tell.remote(cell, None)

    def reconstructed(self, steps: int, of: int) -> None:
        self._tell("reconstructed", steps, of)

    def evaluated(self, frames: int, of: int) -> None:
        self._tell("evaluated", frames, of)

    def _tell(self, *steps: Any) -> None:
        if time.monotonic() - self._told > SECONDS_BETWEEN_NEWS:
            self._told = time.monotonic()
            self._board.tell.remote(self._cell, steps)


@dataclass(frozen=True)
class _Here:
    """The subject that a process of a node keeps between its tasks, and its cells as this node plans them."""

    place: tuple[str, int]
    subject: Subject
    cells: list[Cell]


_here: _Here | None = None


def _subject(job: Job, index: int, cell: Cell) -> Subject:
    """The subject of a cell, built from this node's own files. Raises BenchError when they are not the driver's."""
    global _here
    place = (job.profile.model_dump_json(), index)
    if _here is None or _here.place != place:
        _here = None  # frees the memory of the one before
        if Path(job.directory).is_dir():
            os.chdir(job.directory)
        data = job.parts.load_data(job.profile, lambda done, of: None)
        detector, weights = job.parts.build(job.profile.detectors[index], job.profile)
        cells = plan(job.profile, detector, weights, data, job.parts)
        detector.model.to(job.profile.device)
        _here = _Here(place, Subject(detector, data, job.profile, Silent()), cells)
    _check_same(cell, _here.cells)
    return _here.subject


def _check_same(cell: Cell, cells: list[Cell]) -> None:
    """Raises BenchError, with what differs, when a node would measure something else than the driver asked for."""
    own = [c for c in cells if (c.method, c.bits, c.seed) == (cell.method, cell.bits, cell.seed)]
    if any(c.key == cell.key for c in own):
        return
    theirs = own[0].to_dict() if own else {}
    differing = [name for name, value in cell.to_dict().items() if theirs.get(name) != value]
    raise BenchError(
        f"node {platform.node()}: has another {', '.join(differing)} than the driver; give every node the same "
        "checkout, packages, data and weights"
    )


def _measure(job: Job, index: int, cell: Cell, board: Any, *reference: Detections) -> Record:
    """One cell on a node; ``reference`` are its full-precision lanes, in parts."""
    subject = _subject(job, index, cell)
    subject.listener = _Relay(board, cell)  # type: ignore[assignment]
    subject.know(_joined(reference))
    return measured(cell, subject, job.parts)


def _full_precision(job: Job, index: int, cell: Cell, start: int, stop: int) -> Detections:
    """The full-precision lanes of test frames ``start`` to ``stop``."""
    whole = _subject(job, index, cell)
    data = dataclasses.replace(whole.data, frames=whole.data.frames[start:stop])
    lanes: list[list[Lane]] = []
    seconds = Subject(whole.detector, data, job.profile, Silent()).detect(whole.detector, lanes.extend)
    return Detections(FoundLanes.of(lanes), seconds)


def _joined(parts: Sequence[Detections]) -> Detections:
    """The lanes of all parts in their order; seconds are added."""
    lanes = [images for part in parts for images in part.lanes]
    times = [dataclasses.astuple(part.seconds)[:-1] for part in parts]
    batch = min(part.seconds.batch for part in parts)
    return Detections(FoundLanes.of(lanes), Seconds(*map(sum, zip(*times, strict=True)), batch=batch))
