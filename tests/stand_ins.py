"""Small stand-ins for what the benchmark's runner drives: drawn frames, and quantization by a little noise."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from toy import ToyDetector

from bench import table
from bench.cells import Cell
from bench.data import TestData
from bench.profile import Profile
from bench.runner import Parts
from bench.scorers import CULaneScorer
from bench.store import Record, RunFolder
from selective_focus import Lane, LaneDetector, QuantizationLog

IMAGE_SIZE = (59, 164)


def toy_detector() -> ToyDetector:
    """Always the same weights; the caller's random state is left alone."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ToyDetector(seed=2)


@dataclass(frozen=True)
class DrawnFrame:
    """A frame of noise that is the same each time it is read."""

    seed: int

    def image(self) -> np.ndarray:
        return np.random.default_rng(self.seed).integers(0, 255, (*IMAGE_SIZE, 3), dtype=np.uint8)


def toy_data(profile: Profile, rendered: Any = None) -> TestData:
    """Eight frames in two categories; the annotation is what the full-precision toy sees, moved by a pixel."""
    frames = [DrawnFrame(seed) for seed in range(8)]
    detector = toy_detector()
    with torch.inference_mode():
        lanes = detector.detect(torch.stack([detector.transform(f.image()) for f in frames]), IMAGE_SIZE)
    annotated = [[lane.points + np.array([1.0, 0.0]) for lane in image] for image in lanes]
    categories = ["normal"] * 5 + ["night"] * 3
    scorer = CULaneScorer([[Lane(p) for p in image] for image in annotated], categories, IMAGE_SIZE, width=5)
    return TestData(
        name="toy",
        digest="d" * 64,
        calibration_digest=str(profile.calibration_images),
        image_size=IMAGE_SIZE,
        frames=frames,
        names=[f"frame {frame.seed}" for frame in frames],
        categories=categories,
        annotated=annotated,
        subset="all",
        calibration=frames[: profile.calibration_images],
        calibration_rule="first",
        scorer=scorer,
    )


def noisy(
    detector: LaneDetector,
    images: torch.Tensor,
    method: str,
    bits: str,
    seed: int,
    progress: Any = lambda done, total: None,
    **options: Any,
) -> tuple[LaneDetector, QuantizationLog]:
    """Adds noise to every weight; more of it with fewer bits."""
    quantized = copy.deepcopy(detector)
    generator = torch.Generator().manual_seed(seed)
    for parameter in quantized.model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += options.get("noise", 0.5) * noise / 2 ** int(bits[1])
    sensitivity = [
        {"iteration": step, "scores": {"existence": 1.0 + step, "columns": 4.0 - step / 2}, "active": active}
        for step, active in ((0, ["existence", "columns"]), (2, ["columns"]), (4, ["existence"]))
    ]
    for step in range(6):
        progress(step + 1, 6)
    log = QuantizationLog(method, bits, dict(options), reconstruction_s=0.25, iterations=6)
    log.sensitivity = sensitivity if method == "selective-focus" else []
    return quantized, log


def resolve(method: str, bits: str, options: Mapping[str, Any]) -> dict[str, Any]:
    return {"noise": 0.5, **options}


def parts(quantize: Any = noisy) -> Parts:
    return Parts(
        build=lambda name, profile: (toy_detector(), "embedded"),
        load_data=toy_data,
        quantize=quantize,
        resolve_options=resolve,
        learns=lambda method: method not in ("fp32", "minmax"),
    )


def profile(**changes: Any) -> Profile:
    values: dict[str, Any] = {
        "name": "toy",
        "detectors": ["toy"],
        "methods": {"fp32": {}, "minmax": {}, "selective-focus": {}},
        "bits": ["w8a8", "w4a4"],
        "seeds": [0, 1],
        "calibration_images": 2,
        "batch_size": 3,
    }
    return Profile.model_validate({**values, **changes})


def untimed_csv(folder: RunFolder) -> str:
    """``cells.csv`` of a run without what depends on the machine's mood: seconds and memory."""
    frame = table.csv_frame(folder.records()).drop(columns=["reconstruction_s", "peak_memory_mb"])
    return str(frame.to_csv(index=False))


class Listener:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.total = 0
        self.steps = 0
        self.cells: list[Cell] = []
        self.records: list[tuple[Record, bool]] = []

    def rendered(self, frames: int, of: int) -> None:
        raise AssertionError("nothing is rendered here")

    def planned(self, cells: int) -> None:
        self.total = cells

    def started(self, cell: Cell) -> None:
        self.cells.append(cell)

    def reconstructed(self, steps: int, of: int) -> None:
        assert 0 < steps <= of
        self.steps += 1

    def evaluated(self, frames: int, of: int) -> None:
        assert 0 < frames <= of

    def finished(self, record: Record, reused: bool) -> None:
        self.records.append((record, reused))
