"""From a detector and test frames to scores: inputs once, heads in batches, decode, accuracy, distortion."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.store import Result
from selective_focus import Lane, LaneDetector
from selective_focus.lane_distortion import lane_distortion_scores

REFERENCE_WIDTH = 1640
"""Lane distortion is reported in pixels of a frame of this width, whatever the camera's."""


class Frame(Protocol):
    """One camera frame: ``image()`` reads it from disk, [h, w, 3] uint8 BGR."""

    def image(self) -> npt.NDArray[np.uint8]: ...


class Scorer(Protocol):
    """Accuracy of the lanes of all test frames, in their order."""

    def score(self, predicted: Sequence[Sequence[Lane]]) -> dict[str, object]:
        """Fields of ``Result`` that the metric knows, with ``frames``."""
        ...


class NetworkInputs:
    """The test frames as network inputs, in float32 exactly as the detector made them.

    They are made once and kept in memory if they fit the budget; else they are read again for every cell, by
    two threads ahead of the network.
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
        if self.kept:
            if self._cache is None:
                self._cache = self._fill()
            yield from self._cache.split(size)
            return
        with ThreadPoolExecutor(2) as readers:
            starts = range(0, len(self._frames), size)
            ahead = [readers.submit(self._read, start, size) for start in starts[:2]]
            for start in starts:
                batch = ahead.pop(0).result()
                if start + 2 * size < len(self._frames):
                    ahead.append(readers.submit(self._read, start + 2 * size, size))
                yield batch

    def _read(self, start: int, size: int) -> Tensor:
        return torch.stack([self._transform(frame.image()) for frame in self._frames[start : start + size]])

    def _fill(self) -> Tensor:
        first = self._read(0, 1)
        cache = torch.empty(len(self._frames), *first.shape[1:])
        with ThreadPoolExecutor(2) as readers:
            for index, x in enumerate(readers.map(self._one, self._frames)):
                cache[index] = x
        return cache

    def _one(self, frame: Frame) -> Tensor:
        return self._transform(frame.image())


@dataclass
class Detections:
    """The lanes of every test frame, and the seconds that the network and the decoding took."""

    lanes: list[list[Lane]] = field(default_factory=list)
    network_s: float = 0.0
    decode_s: float = 0.0


def detect_all(
    detector: LaneDetector,
    inputs: NetworkInputs,
    image_size: tuple[int, int],
    batch_size: int,
    device: str = "cpu",
    on_batch: Callable[[int], None] = lambda count: None,
) -> Detections:
    """Lanes in pixels of a frame of ``image_size`` (H, W). Decoding always happens on the CPU, in float32."""
    found = Detections()
    for x in inputs.batches(batch_size):
        x = x.to(device)
        start = time.perf_counter()
        with torch.inference_mode():
            heads = {name: head.float().cpu() for name, head in detector.heads(x).items()}
        middle = time.perf_counter()
        with torch.inference_mode():
            found.lanes += detector.decode(heads, image_size)
        found.network_s += middle - start
        found.decode_s += time.perf_counter() - middle
        on_batch(len(x))
    return found


def measure(
    found: Detections,
    reference: Sequence[Sequence[Lane]],
    scorer: Scorer,
    image_size: tuple[int, int],
) -> Result:
    """Accuracy against the annotations, lane distortion against the full-precision lanes.

    Lane distortion of a set is the mean over frames of the frame's score, in pixels of a frame 1640 wide.
    """
    if len(found.lanes) != len(reference):
        raise RuntimeError(f"{len(found.lanes)} frames were detected, {len(reference)} were expected")
    fields = dict(scorer.score(found.lanes))
    distortions = lane_distortion_scores(reference, found.lanes, image_size)
    scale = REFERENCE_WIDTH / image_size[1]
    parts = {
        "lds": [scale * item.score for item in distortions],
        "lds_displacement": [scale * item.displacement for item in distortions],
        "lds_missing": [scale * item.missing for item in distortions],
        "lds_extra": [scale * item.extra for item in distortions],
    }
    per_frame = {name: list(map(float, values)) for name, values in dict(fields.pop("frames")).items()}
    per_frame["lds"] = [round(value, 4) for value in parts["lds"]]
    means = {name: float(np.mean(values)) for name, values in parts.items()}
    return Result(images=len(found.lanes), **fields, **means, frames=per_frame)
