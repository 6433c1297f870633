"""Runs the cells of a profile and keeps each as a record. A second run only fills the gaps."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import signal
import threading
import time
import traceback
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil
import torch
from torch import Tensor

from bench import environment, examples
from bench.cells import Cell, canonical_json, code_version, digest_of_state, metric_version
from bench.data import TestData
from bench.errors import BenchError, CellTimeout, bad_input_errors, one_line
from bench.evaluate import Detections, NetworkInputs, detect_all, measure
from bench.profile import Profile
from bench.store import Record, Result, RunFolder, Status
from bench.whole_file import write_whole
from selective_focus import Lane, LaneDetector, QuantizationLog
from selective_focus.quantization.config import parse_bits


@dataclass(frozen=True)
class Parts:
    """What the runner drives; tests put small stand-ins here."""

    build: Callable[[str, Profile], tuple[LaneDetector, str]]
    """Detector name and profile -> the detector, and words for where its weights come from."""
    load_data: Callable[[Profile, Callable[[int, int], None]], TestData]
    quantize: Callable[..., tuple[LaneDetector, QuantizationLog]]
    resolve_options: Callable[[str, str, Mapping[str, Any]], dict[str, Any]]
    """Method, bits and the options given -> all its options, defaults filled in."""
    learns: Callable[[str], bool]
    """Whether a method reconstructs anything. Those that do not run first; seeds change nothing in them."""


class Listener(Protocol):
    """Who shows progress."""

    def rendered(self, frames: int, of: int) -> None: ...
    def planned(self, cells: int) -> None: ...
    def started(self, cell: Cell) -> None: ...
    def reconstructed(self, steps: int, of: int) -> None: ...
    def evaluated(self, frames: int, of: int) -> None: ...
    def finished(self, record: Record, reused: bool) -> None: ...


class Subject:
    """One detector on one data set: what its cells share."""

    def __init__(
        self, detector: LaneDetector, data: TestData, profile: Profile, folder: RunFolder, listener: Listener
    ) -> None:
        self.detector = detector
        self.data = data
        self.profile = profile
        self.inputs = NetworkInputs(data.frames, detector, profile.input_cache_mb)
        self.listener = listener
        self._folder = folder
        self._reference: Detections | None = None
        self._calibration: Tensor | None = None

    def detect(self, detector: LaneDetector) -> Detections:
        seen = 0

        def on_batch(count: int) -> None:
            nonlocal seen
            seen += count
            self.listener.evaluated(seen, len(self.inputs))

        profile = self.profile
        return detect_all(
            detector, self.inputs, self.data.image_size, profile.batch_size, profile.device, on_batch
        )

    def reference(self, cell: Cell) -> Detections:
        """The full-precision lanes, kept in the run folder: a resumed run does not compute them again."""
        if self._reference is None:
            path = self._folder.path / "fp32" / f"{reference_key(cell)}.npz"
            self._reference = _load_detections(path)
            if self._reference is None:
                self._reference = self.detect(self.detector)
                path.parent.mkdir(exist_ok=True)
                write_whole(path, _pack_detections(self._reference))
        return self._reference

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
    since = since or _now()
    for method, bits, _ in combinations(profile, parts.learns):
        parts.resolve_options(profile.method_of(method), bits, profile.options_of(method))
    with folder.prepared():
        data = parts.load_data(profile, listener.rendered)
        built = [parts.build(name, profile) for name in profile.detectors]
        plans = [plan(profile, detector, weights, data, parts) for detector, weights in built]
        listener.planned(sum(map(len, plans)))
        examples.keep_frames(data, folder)
        ready = {cell.key for cells in plans for cell in cells if folder.done(cell.key)}
        records: dict[str, Record] = {}
        with helpers():
            for wait in (False, True):  # first what nobody is at; then what the others have not finished
                for (detector, _), cells in zip(built, plans, strict=True):
                    detector.model.to(profile.device)
                    subject = Subject(detector, data, profile, folder, listener)
                    for cell in (cell for cell in cells if cell.key not in records):
                        record = _take(cell, subject, parts, folder, since, wait)
                        if record is not None:
                            records[cell.key] = record
                            listener.finished(record, reused=cell.key in ready)
    return [records[cell.key] for cells in plans for cell in cells]


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
        for bits in ["w32a32"] if method == "fp32" else profile.bits:
            seeds = profile.seeds_of(bits)
            for seed in seeds if cost == 2 else seeds[:1]:
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
    started = _now()
    outcome: dict[str, Any] = {}
    with PeakMemory(subject.profile.device) as memory:
        try:
            with time_limit(subject.profile.cell_timeout_s):
                outcome = _measure_cell(cell, subject, parts)
            status: Status = "done"
        except (KeyboardInterrupt, *bad_input_errors()) as error:
            if isinstance(error, KeyboardInterrupt):
                folder.put(_record(cell, "interrupted", started, reason="stopped by the user"))
            raise
        except Exception as error:
            status, outcome = _failure(error)
    record = _record(cell, status, started, peak_memory_mb=memory.peak_mb, **outcome)
    folder.put(record)
    return record


def _measure_cell(cell: Cell, subject: Subject, parts: Parts) -> dict[str, Any]:
    begin = time.perf_counter()
    reference = subject.reference(cell)
    if cell.method == "fp32":
        found, log, quantize_s = reference, QuantizationLog("fp32", "fp32", {}), 0.0
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
        found = subject.detect(quantized)
    start = time.perf_counter()
    try:
        result: Result = measure(found, reference.lanes, subject.data.scorer, subject.data.image_size)
    except bad_input_errors() as error:
        # the lanes come from this cell's network, not from the user: the cell has failed, the run goes on
        raise RuntimeError(f"lanes that cannot be scored: {one_line(error)}") from error
    metric_s = time.perf_counter() - start
    timing = {
        "reconstruction_s": log.reconstruction_s,
        "looking_s": log.looking_s,
        "quantize_s": quantize_s,
        "network_s": found.network_s,
        "decode_s": found.decode_s,
        "metric_s": metric_s,
        "evaluation_s": found.network_s + found.decode_s + metric_s,
        "total_s": time.perf_counter() - begin,
    }
    shown = examples.lanes_of(subject.data, found.lanes)
    return {"result": result, "timing": timing, "log": log.to_dict(), "examples": shown}


def _failure(error: Exception) -> tuple[Status, dict[str, Any]]:
    """The closed set of ways in which a cell ends without a score."""
    if isinstance(error, CellTimeout):
        return "timeout", {"reason": one_line(error)}
    if isinstance(error, NotImplementedError):
        return "skipped", {"reason": one_line(error)}
    words = str(error).lower()
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and ("out of memory" in words or "can't allocate memory" in words)
    ):
        reason = (
            f"out of memory ({one_line(error)[:200]}); try fewer calibration images or a smaller batch_size"
        )
        return "out_of_memory", {"reason": reason}
    trace = "".join(traceback.format_exception(error)[-6:])
    return "failed", {"reason": f"{type(error).__name__}: {one_line(error)}", "log": {"traceback": trace}}


def _record(cell: Cell, status: Status, started: str, **fields: Any) -> Record:
    return Record(
        key=cell.key,
        status=status,
        cell=cell.to_dict(),
        environment=environment.describe(cell.device),
        started=started,
        finished=_now(),
        **fields,
    )


def reference_key(cell: Cell) -> str:
    """Cells with the same full-precision lanes have the same key here."""
    fields = dataclasses.asdict(cell)
    deciding = ("detector", "variant", "weights_digest", "data_digest", "subset", "device", "code")
    return hashlib.sha256(canonical_json({name: fields[name] for name in deciding}).encode()).hexdigest()


def _pack_detections(found: Detections) -> bytes:
    lanes = [lane for image in found.lanes for lane in image]
    buffer = io.BytesIO()
    np.savez(
        buffer,
        lanes_per_image=np.array([len(image) for image in found.lanes], dtype=np.int64),
        points_per_lane=np.array([len(lane.points) for lane in lanes], dtype=np.int64),
        points=np.concatenate([lane.points for lane in lanes]) if lanes else np.zeros((0, 2)),
        scores=np.array([lane.score for lane in lanes]),
        seconds=np.array([found.network_s, found.decode_s]),
    )
    return buffer.getvalue()


def _load_detections(path: Path) -> Detections | None:
    """The stored lanes, or None when there are none or the file is damaged (they are then made again)."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            ends = np.cumsum(stored["points_per_lane"])[:-1]
            chunks = np.split(stored["points"], ends) if len(stored["points_per_lane"]) else []
            lanes = iter(
                [Lane(points, float(score)) for points, score in zip(chunks, stored["scores"], strict=True)]
            )
            images = [[next(lanes) for _ in range(count)] for count in stored["lanes_per_image"]]
            network_s, decode_s = map(float, stored["seconds"])
    except (OSError, ValueError, KeyError, EOFError, StopIteration, zipfile.BadZipFile, zlib.error):
        return None
    return Detections(images, network_s, decode_s)


class PeakMemory:
    """Largest memory while the block runs, in MB: of the process (sampled), or what PyTorch took on the accelerator.

    All that the process holds counts, the network inputs of the test frames included.
    """

    def __init__(self, device: str, every_s: float = 0.05) -> None:
        self.peak_mb = 0.0
        self._cuda = torch.device(device).type == "cuda"
        self._every_s = every_s
        self._stop = threading.Event()
        self._process = psutil.Process()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._cuda:
            self.peak_mb = torch.cuda.max_memory_allocated() / 2**20

    def _watch(self) -> None:
        while True:
            self.peak_mb = max(self.peak_mb, self._process.memory_info().rss / 2**20)
            if self._stop.wait(self._every_s):
                return


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raises CellTimeout inside the block after ``seconds`` (None: never); on Unix, in the main thread."""
    usable = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    if seconds is None or not usable:
        yield
        return

    def expire(*_: object) -> None:
        raise CellTimeout(f"not finished after {seconds:g} s; raise cell_timeout_s in the profile")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def check_device(device: str) -> None:
    """Raises BenchError when PyTorch cannot compute on ``device``."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BenchError(
            f"device {device!r}: PyTorch cannot use it here ({one_line(error)[:120]}); try cpu"
        ) from error
