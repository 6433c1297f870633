"""From a detector and test frames to scores, in stages that overlap: read, network, decode, accuracy and distortion.

While the network works on one batch, the next frames are read and the lanes of the last batch are decoded and scored.
Nothing but the scores is kept of a frame, so memory does not grow with the lanes that are found.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from heapq import nlargest
from itertools import islice
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.errors import bad_input_errors, one_line, out_of_memory
from bench.found_lanes import FoundLanes
from bench.store import Result
from selective_focus import Lane, LaneDetector
from selective_focus.lane_distortion import lane_distortion_scores

WORST = 3
"""Frames of highest lane distortion that a measurement keeps the lanes of."""
REFERENCE_WIDTH = 1640
"""Lane distortion is reported in pixels of a frame of this width, whatever the camera's."""

READERS = min(max(os.cpu_count() or 1, 2), 8)
"""Threads that read frames; OpenCV decodes JPEG files outside of Python's lock."""

WAITING = 2
"""Batches that may be read ahead of the network, and as many that may wait to be decoded."""


class Frame(Protocol):
    """One camera frame: ``image()`` reads it from disk, [h, w, 3] uint8 BGR."""

    def image(self) -> npt.NDArray[np.uint8]: ...


class Scorer(Protocol):
    """Accuracy of the lanes of all test frames, some frames at a time."""

    def score(self, first: int, predicted: Sequence[Sequence[Lane]]) -> list[Any]:
        """A score of each of some frames in a row, the first of them being frame number ``first``."""
        ...

    def total(self, scores: Sequence[Any]) -> dict[str, Any]:
        """Fields of ``Result`` that the metric knows, with ``frames``, of the scores of all frames in their order."""
        ...


class NetworkInputs:
    """The test frames as network inputs, in float32 exactly as the detector made them.

    They are made once and kept in memory if they fit the budget; else they are read again for every cell, by
    threads ahead of the network.
    """

    def __init__(self, frames: Sequence[Frame], detector: LaneDetector, budget_mb: float) -> None:
        self._frames = frames
        self._transform = detector.transform
        height, width = detector.input_size
        self.kept = len(frames) * 3 * height * width * 4 / 2**20 <= budget_mb
        self._cache: Tensor | None = None

    def __len__(self) -> int:
        return len(self._frames)

    def batches(self, size: int) -> Iterator[Tensor]:
        """[n, 3, H, W] with n <= size, in the order of the frames."""
        if not self.kept:
            yield from self._read(size)
            return
        if self._cache is None:
            self._cache = self._fill()
        yield from self._cache.split(size)

    def _read(self, size: int) -> Iterator[Tensor]:
        with ThreadPoolExecutor(READERS) as readers:
            frames = iter(self._frames)
            ahead = deque(readers.submit(self._one, frame) for frame in islice(frames, WAITING * size))
            try:
                while ahead:
                    batch = [ahead.popleft().result() for _ in range(min(size, len(ahead)))]
                    ahead.extend(readers.submit(self._one, frame) for frame in islice(frames, len(batch)))
                    yield torch.stack(batch)
            finally:
                for waiting in ahead:
                    waiting.cancel()

    def _fill(self) -> Tensor:
        cache, filled = None, 0
        for batch in self._read(READERS):
            if cache is None:
                cache = torch.empty(len(self._frames), *batch.shape[1:])
            cache[filled : filled + len(batch)] = batch
            filled += len(batch)
        return cache if cache is not None else torch.empty(0, 3, 1, 1)

    def _one(self, frame: Frame) -> Tensor:
        return self._transform(frame.image())


@dataclass
class Seconds:
    """What an evaluation took. The stages overlap: each is how long it was busy, ``total_s`` is what one waits for.

    batch: frames that went through the network at a time in the end.
    """

    network_s: float = 0.0
    decode_s: float = 0.0
    metric_s: float = 0.0
    total_s: float = 0.0
    batch: int = 0


@dataclass
class Detections:
    """The lanes of every test frame, and what it took to find them."""

    lanes: FoundLanes
    seconds: Seconds


def detect_all(
    detector: LaneDetector,
    inputs: NetworkInputs,
    image_size: tuple[int, int],
    batch_size: int,
    device: str,
    take: Callable[[list[list[Lane]]], None],
    on_batch: Callable[[int], None] = lambda count: None,
) -> Seconds:
    """Gives the lanes of all frames, batch after batch, in pixels of a frame of ``image_size`` (H, W), to ``take``.

    Decoding always happens on the CPU, in float32, in a thread of its own, and so does ``take``. Batches are made
    smaller when memory runs out.
    """
    spent = Seconds(batch=batch_size)
    begin = time.perf_counter()

    def decode(heads: Mapping[str, Tensor]) -> int:
        start = time.perf_counter()
        with torch.inference_mode():
            lanes = detector.decode(dict(heads), image_size)
        middle = time.perf_counter()
        take(lanes)
        spent.decode_s += middle - start
        spent.metric_s += time.perf_counter() - middle
        return len(lanes)

    with ThreadPoolExecutor(1) as decoder:
        waiting: deque[Future[int]] = deque()
        try:
            for heads in _heads(detector, inputs, device, spent):
                waiting.append(decoder.submit(decode, heads))
                if len(waiting) > WAITING:
                    on_batch(waiting.popleft().result())
            while waiting:
                on_batch(waiting.popleft().result())
        finally:
            for future in waiting:
                future.cancel()
    spent.total_s = time.perf_counter() - begin
    return spent


def _heads(
    detector: LaneDetector, inputs: NetworkInputs, device: str, spent: Seconds
) -> Iterator[dict[str, Tensor]]:
    """Head tensors on the CPU, batch after batch; ``spent.batch`` falls when memory runs out."""
    for batch in inputs.batches(spent.batch):
        rest = batch
        while len(rest):
            start = time.perf_counter()
            try:
                with torch.inference_mode():
                    x = rest[: spent.batch].to(device)
                    heads = {name: head.float().cpu() for name, head in detector.heads(x).items()}
            except (RuntimeError, MemoryError) as error:
                if spent.batch == 1 or not out_of_memory(error):
                    raise
                spent.batch = -(-min(spent.batch, len(rest)) // 2)
                if torch.device(device).type == "cuda":
                    torch.cuda.empty_cache()
                continue
            spent.network_s += time.perf_counter() - start
            rest = rest[len(x) :]
            yield heads


class Measurement:
    """Accuracy against the annotations, and lane distortion against the full-precision lanes, of frames as they come.

    Lane distortion of a set is the mean over frames of the frame's score, in pixels of a frame 1640 wide.
    """

    def __init__(
        self,
        scorer: Scorer,
        reference: FoundLanes,
        image_size: tuple[int, int],
        shown: Iterable[int] = (),
    ) -> None:
        self._scorer = scorer
        self._reference = reference
        self._image_size = image_size
        self._shown = frozenset(shown)
        self._scores: list[Any] = []
        self._distortions: list[tuple[float, float, float, float]] = []
        self.shown: dict[int, Sequence[Lane]] = {}
        """The lanes of the frames that are to be shown, by their number."""
        self.worst: dict[int, Sequence[Lane]] = {}
        """Those of the frames of highest lane distortion so far."""

    def add(self, lanes: Sequence[Sequence[Lane]]) -> None:
        """The lanes of the next frames. Raises RuntimeError for lanes that cannot be scored."""
        first = len(self._scores)
        expected = [self._reference[first + i] for i in range(len(lanes)) if first + i < len(self._reference)]
        if len(expected) != len(lanes):
            raise RuntimeError(f"more frames were detected than the {len(self._reference)} expected")
        try:
            self._scores += self._scorer.score(first, lanes)
        except bad_input_errors() as error:
            # the lanes come from a cell's network, not from the user: the cell has failed, the run goes on
            raise RuntimeError(f"lanes that cannot be scored: {one_line(error)}") from error
        self._distortions += [
            tuple(each) for each in lane_distortion_scores(expected, lanes, self._image_size)
        ]
        self.shown |= {first + i: own for i, own in enumerate(lanes) if first + i in self._shown}
        known = {**self.worst, **{first + i: own for i, own in enumerate(lanes)}}
        self.worst = dict(nlargest(WORST, known.items(), key=lambda each: self._distortions[each[0]][0]))

    def result(self) -> Result:
        """Of all frames; raises RuntimeError when there are fewer than expected."""
        if len(self._scores) != len(self._reference):
            raise RuntimeError(
                f"{len(self._scores)} frames were detected, {len(self._reference)} were expected"
            )
        fields = self._scorer.total(self._scores)
        scale = REFERENCE_WIDTH / self._image_size[1]
        names = ("lds", "lds_displacement", "lds_missing", "lds_extra")
        parts = {
            name: [scale * value for value in values]
            for name, values in zip(names, zip(*self._distortions, strict=True), strict=True)
        }
        per_frame = {name: list(map(float, values)) for name, values in fields.pop("frames").items()}
        per_frame["lds"] = [round(value, 4) for value in parts["lds"]]
        means = {name: float(np.mean(values)) for name, values in parts.items()}
        return Result(images=len(self._scores), **fields, **means, frames=per_frame)
