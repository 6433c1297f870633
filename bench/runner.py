"""Runs the cells of a profile and keeps each as a record. A second run only fills the gaps."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime, timezone
from typing import Any, Protocol

import torch
from torch import Tensor

from bench import environment, examples
from bench.batch_size import fitting
from bench.cells import Cell, code_version, digest_of_state, metric_version
from bench.data import TestData
from bench.errors import BenchError, CellTimeout, bad_input_errors, one_line, out_of_memory
from bench.evaluate import Detections, Measurement, NetworkInputs, Seconds, detect_all
from bench.found_lanes import FoundLanes
from bench.full_precision import read_reference, write_reference
from bench.limits import PeakMemory, time_limit
from bench.parts import Parts
from bench.profile import Profile
from bench.store import Record, RunFolder, Status
from selective_focus import Lane, LaneDetector, QuantizationLog
from selective_focus.quantization.config import parse_bits

SCORED_TOGETHER = 16
"""Frames of lanes that were found before."""


class Listener(Protocol):
    """Who shows progress."""

    def rendered(self, frames: int, of: int) -> None: ...
    def planned(self, cells: int) -> None: ...
    def started(self, cell: Cell) -> None: ...
    def reconstructed(self, steps: int, of: int) -> None: ...
    def evaluated(self, frames: int, of: int) -> None: ...
    def finished(self, record: Record, reused: bool) -> None: ...


class Subject:
    """One detector on one data set: what its cells share.

    folder: where the full-precision lanes are kept, so that a resumed run does not compute them again.
    """

    def __init__(
        self,
        detector: LaneDetector,
        data: TestData,
        profile: Profile,
        listener: Listener,
        folder: RunFolder | None = None,
    ) -> None:
        self.detector = detector
        self.data = data
        self.profile = profile
        self.inputs = NetworkInputs(data.frames, detector, profile.input_cache_mb)
        self.listener = listener
        self._folder = folder
        self._batch: int | None = None
        self._reference: Detections | None = None
        self._calibration: Tensor | None = None

    def detect(self, detector: LaneDetector, take: Callable[[list[list[Lane]]], None]) -> Seconds:
        """Gives the lanes of all test frames to ``take``, batch after batch."""
        seen, profile = 0, self.profile

        def on_batch(count: int) -> None:
            nonlocal seen
            seen += count
            self.listener.evaluated(seen, len(self.inputs))

        if self._batch is None:
            self._batch = fitting(
                self.detector, self.inputs, profile.batch_size, profile.device, profile.processes
            )
        size, device = self.data.image_size, profile.device
        return detect_all(detector, self.inputs, size, self._batch, device, take, on_batch)

    def reference(self, cell: Cell) -> Detections:
        """The full-precision lanes of all test frames."""
        if self._reference is None and self._folder is not None:
            self._reference = read_reference(self._folder, cell)
        if self._reference is None:
            lanes: list[list[Lane]] = []
            seconds = self.detect(self.detector, lanes.extend)
            self._reference = Detections(FoundLanes.of(lanes), seconds)
            if self._folder is not None:
                write_reference(self._folder, cell, self._reference)
        return self._reference

    def know(self, reference: Detections) -> None:
        """Takes full-precision lanes that were computed elsewhere."""
        self._reference = reference

    def calibration_images(self) -> Tensor:
        """[M, 3, H, W] on the run's device."""
        if self._calibration is None:
            images = [self.detector.transform(frame.image()) for frame in self.data.calibration]
            self._calibration = torch.stack(images).to(self.profile.device)
        return self._calibration


def run(
    profile: Profile,
    folder: RunFolder,
    parts: Parts,
    listener: Listener,
    helpers: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
    since: str | None = None,
) -> list[Record]:
    """Runs every cell of the profile that has no finished record yet; gives all records in table order.

    A cell that fails is recorded with its reason and the others go on. Bad input (a data set, checkpoint or
    option that cannot be used) is raised, so a wrong path never becomes a score. KeyboardInterrupt is recorded
    and raised. Options, data and every checkpoint are looked at before the first cell; a run that ends without a
    record leaves no folder. Other processes may run the same profile in the same folder: they share the cells.

    helpers: processes that take part, started when all inputs have been looked at.
    since: outcomes of other processes count from this time on (default: now), failures included.
    """
    since = since or now()
    with folder.prepared():
        data, plans = planned(profile, folder, parts, listener)
        ready = {cell.key for _, cells in plans for cell in cells if folder.done(cell.key)}
        records: dict[str, Record] = {}
        complete = len(ready) == sum(len(cells) for _, cells in plans)
        with contextlib.nullcontext() if complete else helpers():
            for wait in (False, True):  # first what nobody is at; then what the others have not finished
                for detector, cells in plans:
                    detector.model.to(profile.device)
                    subject = Subject(detector, data, profile, listener, folder)
                    for cell in (cell for cell in cells if cell.key not in records):
                        record = _take(cell, subject, parts, folder, since, wait)
                        if record is not None:
                            records[cell.key] = record
                            listener.finished(record, reused=cell.key in ready)
                            _hear_of_others(plans, records, ready, folder, listener)
    return [records[cell.key] for _, cells in plans for cell in cells]


def _hear_of_others(
    plans: list[tuple[LaneDetector, list[Cell]]],
    records: dict[str, Record],
    ready: set[str],
    folder: RunFolder,
    listener: Listener,
) -> None:
    """Take the cells that other processes have finished in the meantime, so that everybody is told how far it is."""
    keys = (cell.key for _, cells in plans for cell in cells)
    for key in [key for key in keys if key not in records and key not in ready]:
        record = folder.done(key)
        if record is not None:
            records[key] = record
            listener.finished(record, reused=False)


def planned(
    profile: Profile, folder: RunFolder, parts: Parts, listener: Listener
) -> tuple[TestData, list[tuple[LaneDetector, list[Cell]]]]:
    """The data, and every detector with its cells. Options, data and every checkpoint are looked at here."""
    for method, bits, _ in combinations(profile, parts.learns):
        parts.resolve_options(profile.method_of(method), bits, profile.options_of(method))
    built = [parts.build(name, profile) for name in profile.detectors]  # before minutes of rendering
    data = parts.load_data(profile, listener.rendered)
    plans = [(detector, plan(profile, detector, weights, data, parts)) for detector, weights in built]
    listener.planned(sum(len(cells) for _, cells in plans))
    examples.keep_frames(data, folder)
    return data, plans


def _take(
    cell: Cell, subject: Subject, parts: Parts, folder: RunFolder, since: str, wait: bool
) -> Record | None:
    """The record of a cell, run here unless it has one; None while another process is at it and we do not wait."""
    with folder.claimed(cell.key, wait) as mine:
        if not mine:
            return None
        record = folder.done(cell.key) or folder.attempted(cell.key, since)
        if record is None:
            subject.listener.started(cell)
            record = run_cell(cell, subject, parts, folder)
    return record


def combinations(profile: Profile, learns: Callable[[str], bool]) -> list[tuple[str, str, int]]:
    """(method, bits, seed) in running order: full precision, what learns nothing, then seed after seed."""
    cells = []
    for method in profile.methods:
        cost = 0 if method == "fp32" else 2 if learns(profile.method_of(method)) else 1
        drawn = (
            profile.options_of(method).get("activation_importance") == "lanes"
        )  # searched with random signs
        for bits in ["w32a32"] if method == "fp32" else profile.bits:
            seeds = profile.seeds_of(bits)
            for seed in seeds if cost == 2 or drawn else seeds[:1]:
                cells.append(((cost, seed), (method, bits, seed)))
    return [cell for _, cell in sorted(cells, key=lambda item: item[0])]


def plan(profile: Profile, detector: LaneDetector, weights: str, data: TestData, parts: Parts) -> list[Cell]:
    """The resolved cells of one detector."""
    shared = {
        "detector": detector.name,
        "variant": detector.variant,
        "weights": weights,
        "weights_digest": digest_of_state(detector.model),
        "dataset": data.name,
        "data_digest": data.digest,
        "images": len(data.frames),
        "subset": data.subset,
        "device": torch.device(profile.device).type,
        "code": code_version(detector.name),
        "metric": metric_version(),
    }
    cells = []
    for method, bits, seed in combinations(profile, parts.learns):
        w_bits, a_bits = parse_bits(bits)
        calibrated, base = method != "fp32", profile.method_of(method)
        cells.append(
            Cell(
                **shared,
                method=method,
                w_bits=w_bits,
                a_bits=a_bits,
                seed=seed,
                settings=parts.resolve_options(base, bits, profile.options_of(method)),
                calibration_images=len(data.calibration) if calibrated else 0,
                calibration=data.calibration_rule if calibrated else "none",
                calibration_digest=data.calibration_digest if calibrated else "",
                base_method="" if base == method else base,
            )
        )
    return cells


def run_cell(cell: Cell, subject: Subject, parts: Parts, folder: RunFolder) -> Record:
    """Runs one cell and writes its record, whatever the outcome."""
    started = now()
    try:
        record = measured(cell, subject, parts)
    except KeyboardInterrupt:
        folder.put(interrupted(cell, started))
        raise
    folder.put(record)
    return record


def measured(cell: Cell, subject: Subject, parts: Parts) -> Record:
    """The record of one cell, not yet written. Raises bad input and KeyboardInterrupt, which are no outcomes."""
    started = now()
    outcome: dict[str, Any] = {}
    with PeakMemory(subject.profile.device) as memory:
        try:
            with time_limit(subject.profile.cell_timeout_s):
                outcome = _measure_cell(cell, subject, parts)
            status: Status = "done"
        except bad_input_errors():
            raise
        except (Exception, CellTimeout) as error:
            status, outcome = failure(error)
    processes = subject.profile.processes
    return _record(cell, status, started, processes, peak_memory_mb=memory.peak_mb, **outcome)


def interrupted(cell: Cell, started: str) -> Record:
    """The record of a cell that the user stopped."""
    return _record(cell, "interrupted", started, reason="stopped by the user")


def ended(cell: Cell, status: Status, reason: str) -> Record:
    """The record of a cell whose process ended with it, so that nothing is known but why."""
    return _record(cell, status, now(), reason=reason)


def _measure_cell(cell: Cell, subject: Subject, parts: Parts) -> dict[str, Any]:
    begin, data = time.perf_counter(), subject.data
    reference = subject.reference(cell)
    measured = Measurement(data.scorer, reference.lanes, data.image_size, examples.chosen(data))
    if cell.method == "fp32":
        log, quantize_s = QuantizationLog("fp32", "fp32", {}), 0.0
        spent = _measure_again(reference, measured)
    else:
        images = subject.calibration_images()
        options = subject.profile.options_of(cell.method)
        method = cell.base_method or cell.method
        start = time.perf_counter()
        quantized, log = parts.quantize(
            subject.detector,
            images,
            method=method,
            bits=cell.bits,
            seed=cell.seed,
            progress=subject.listener.reconstructed,
            **options,
        )
        quantize_s = time.perf_counter() - start
        spent = subject.detect(quantized, measured.add)
    timing = {
        "reconstruction_s": log.reconstruction_s,
        "looking_s": log.looking_s,
        "quantize_s": quantize_s,
        "network_s": spent.network_s,
        "decode_s": spent.decode_s,
        "metric_s": spent.metric_s,
        "evaluation_s": spent.total_s,
        "images_per_s": len(data.frames) / spent.total_s,
        "batch_size": spent.batch,
        "total_s": time.perf_counter() - begin,
    }
    result = measured.result()
    shown = {
        "examples": examples.lanes_of(data, measured.shown),
        "extremes": examples.extremes_of(data, measured.worst, reference.lanes, result.frames["lds"]),
    }
    return {"result": result, "timing": timing, "log": log.to_dict(), **shown}


def _measure_again(reference: Detections, measured: Measurement) -> Seconds:
    """Scores lanes that were found before; the seconds of finding them and of scoring them."""
    start, lanes = time.perf_counter(), reference.lanes
    for first in range(0, len(lanes), SCORED_TOGETHER):
        measured.add([lanes[i] for i in range(first, min(first + SCORED_TOGETHER, len(lanes)))])
    metric_s = time.perf_counter() - start
    found = reference.seconds
    return dataclasses.replace(found, metric_s=metric_s, total_s=found.total_s + metric_s)


def failure(error: BaseException) -> tuple[Status, dict[str, Any]]:
    """The closed set of ways in which a cell ends without a score."""
    if isinstance(error, CellTimeout):
        return "timeout", {"reason": one_line(error)}
    if isinstance(error, NotImplementedError):
        return "skipped", {"reason": one_line(error)}
    if out_of_memory(error):
        reason = (
            f"out of memory ({one_line(error)[:200]}); try fewer calibration images or a smaller batch_size"
        )
        return "out_of_memory", {"reason": reason}
    trace = "".join(traceback.format_exception(error)[-6:])
    return "failed", {"reason": f"{type(error).__name__}: {one_line(error)}", "log": {"traceback": trace}}


def _record(cell: Cell, status: Status, started: str, processes: int = 1, **fields: Any) -> Record:
    return Record(
        key=cell.key,
        status=status,
        cell=cell.to_dict(),
        environment={**environment.describe(cell.device), "processes": processes},
        started=started,
        finished=now(),
        **fields,
    )


def now() -> str:
    """The time in UTC, as records have it."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def check_device(device: str) -> None:
    """Raises BenchError when PyTorch cannot compute on ``device``."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BenchError(
            f"device {device!r}: PyTorch cannot use it here ({one_line(error)[:120]}); try cpu"
        ) from error
