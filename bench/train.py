"""Training of the small detectors that ship with the project: a fixed number of steps, repeatable, resumable.

How a detector takes part: ``lane_models/<name>/loss.py`` exposes

    class TrainingLoss(nn.Module):
        def __init__(self, model) -> None
        def forward(self, heads, lanes) -> dict[str, Tensor]
            heads: the model's raw outputs in float32 (in training mode; it may return more heads than in
                inference)
            lanes: for each image a list of label polylines [P, 2], float64, in pixels of the network's
                image, in no particular order; they may leave the image
            gives weighted terms, one number each; their sum is minimised
        needs_slots = True                                                                          (optional)
            then forward gets a third argument, CULane's slot 1..4 of each lane of each image (2 and 3 are
            the borders of the own lane; mirroring an image swaps 1 with 4 and 2 with 3)
        def prepare(self, lanes) -> str                                                             (optional)
            called once before the first step with all training labels; may choose anchors or priors, that
            is, set buffers of the model that are in its state dict; says in a line what it did

and the detector has an attribute ``crop``, the ``RoadCrop`` that makes its input.

Step s takes its frames, augmentation and random numbers from (seed, s) alone, so a resumed run ends in
the weights of an uninterrupted one (on the same machine with the same number of threads).
"""

from __future__ import annotations

import importlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import save as to_bytes
from torch import nn

from bench.training_frames import Example, Polyline, TrainingError, augmented, damaged
from bench.whole_file import whole_file, write_whole
from selective_focus import LaneDetector

STATE = "training.pt"
CURVE = "curve.csv"
"""Every ``REPORT_EVERY`` steps the loss terms of one batch."""
REPORT_EVERY = 50


@dataclass(frozen=True)
class TrainingConfig:
    """One training run. What the shipped weights took instead of a default is in `scripts/train_synthetic.py`.

    ``steps`` is part of the learning-rate schedule, so it cannot change on the way.
    """

    detector: str
    variant: str = "synthetic"
    steps: int = 5000
    seed: int = 0
    batch: int = 16
    learning_rate: float = 1.5e-3
    weight_decay: float = 1e-2
    warmup: int = 100
    gradient_norm: float = 10.0
    frames: int = 10000
    bfloat16: bool = True

    def rate(self, step: int) -> float:
        """Learning rate: linear warm-up, then half a cosine to zero."""
        progress = max(0.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        return self.learning_rate * warm * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True)
class TrainingResult:
    """Steps done and seconds spent, over all sessions of a run."""

    steps: int
    seconds: float


def train(
    config: TrainingConfig,
    detector: LaneDetector,
    frames: Sequence[Example],
    out: Path,
    *,
    device: str = "cpu",
    save_every: int = 200,
    report: Callable[[str], None] = print,
    stop_after: int | None = None,
) -> TrainingResult:
    """Train ``detector`` in place; go on from ``out/training.pt`` where that exists.

    stop_after: return after this many steps of this call (the state is saved). The state is saved every
    ``save_every`` steps and at the end, under another name first.
    Raises TrainingError for a saved state that is damaged or of another configuration, or when the loss is not
    finite.
    """
    model = detector.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    loss_module = _loss(config.detector, model)
    optimizer = torch.optim.AdamW(model.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    out.mkdir(parents=True, exist_ok=True)
    state = out / STATE
    first, before = _resume(state, config, model, optimizer) if state.is_file() else (0, 0.0)
    if first == 0 and hasattr(loss_module, "prepare"):
        report(cast(Any, loss_module).prepare(_lanes(frames)))
    model.train()
    last = config.steps if stop_after is None else min(config.steps, first + stop_after)
    started = time.monotonic()
    for step in range(first, last):
        terms = _step(config, detector, loss_module, optimizer, frames, step, device)
        done = step + 1
        if done % REPORT_EVERY == 0 or done == last:
            write_curve(out / CURVE, done, terms)
            report(_progress(config, terms, done, first, time.monotonic() - started))
        if done % save_every == 0 or done == last:
            _save(state, config, model, optimizer, TrainingResult(done, before + time.monotonic() - started))
    model.eval()
    return TrainingResult(max(first, last), before + time.monotonic() - started)


def batch_of(config: TrainingConfig, frames: Sequence[Example], step: int) -> list[Example]:
    """The augmented examples of one step: epochs are permutations, everything from (seed, step)."""
    rng = np.random.default_rng([config.seed, 1, step])
    return [augmented(frames[index], rng) for index in _indices(config, len(frames), step)]


def write_curve(path: Path, step: int, terms: Mapping[str, float]) -> None:
    """Add one line to a curve; lines from ``step`` on, of an earlier session that got further, are dropped."""
    header = ",".join(["step", *terms])
    lines = path.read_text(encoding="utf-8").splitlines()[1:] if path.is_file() else []
    kept = [line for line in lines if int(line.split(",")[0]) < step]
    new = ",".join([str(step), *(f"{value:.4f}" for value in terms.values())])
    write_whole(path, "\n".join([header, *kept, new, ""]).encode())


def write_weights(model: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    """The state dict as safetensors: weights in half precision, vectors and anchors as they are."""
    state = {
        key: (
            value.half() if value.is_floating_point() and key.endswith("weight") and value.ndim > 1 else value
        )
        for key, value in model.state_dict().items()
    }
    write_whole(
        path, to_bytes({key: value.cpu().contiguous() for key, value in state.items()}, dict(metadata))
    )


def _step(
    config: TrainingConfig,
    detector: LaneDetector,
    loss_module: nn.Module,
    optimizer: torch.optim.Optimizer,
    frames: Sequence[Example],
    step: int,
    device: str,
) -> dict[str, float]:
    examples = batch_of(config, frames, step)
    torch.manual_seed(config.seed * 1_000_003 + step)
    images = np.stack([one.image for one in examples])
    x = cast(Any, detector).crop.normalise(images).to(device, memory_format=torch.channels_last)
    with _autocast(config, device):
        heads = detector.model(x)
    labels: list[Any] = [[one.lanes for one in examples]]
    if getattr(loss_module, "needs_slots", False):
        labels.append([one.slots for one in examples])
    terms = loss_module({name: head.float() for name, head in heads.items()}, *labels)
    total = torch.stack(list(terms.values())).sum()
    if not torch.isfinite(total):
        raise TrainingError(f"the loss is {total.item()} at step {step}; try a lower --learning-rate")
    for group in optimizer.param_groups:
        group["lr"] = config.rate(step)
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    nn.utils.clip_grad_norm_(detector.model.parameters(), config.gradient_norm)
    optimizer.step()
    return {name: float(term.detach()) for name, term in terms.items()}


def _indices(config: TrainingConfig, count: int, step: int) -> list[int]:
    chosen = []
    for position in range(step * config.batch, (step + 1) * config.batch):
        epoch, place = divmod(position, count)
        chosen.append(int(_permutation(config.seed, epoch, count)[place]))
    return chosen


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, 2, epoch]).permutation(count)


def _loss(name: str, model: nn.Module) -> nn.Module:
    try:
        module = importlib.import_module(f"lane_models.{name}.loss")
    except ModuleNotFoundError as error:
        raise TrainingError(f"{name} has no training loss (lane_models/{name}/loss.py)") from error
    return cast(nn.Module, module.TrainingLoss(model))


def _lanes(frames: Sequence[Example]) -> list[list[Polyline]]:
    """The lanes of all frames, without reading images where the frames know them apart."""
    lanes: list[list[Polyline]] | None = getattr(frames, "lanes", None)
    return lanes if lanes is not None else [one.lanes for one in frames]


def _autocast(config: TrainingConfig, device: str) -> AbstractContextManager[Any]:
    fast = device != "cpu" or _cpu_has_bfloat16()
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=config.bfloat16 and fast)


def _cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 itself; where it does not, bfloat16 is slower than float32."""
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def _save(
    path: Path,
    config: TrainingConfig,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    so_far: TrainingResult,
) -> None:
    saved = {"config": json.dumps(asdict(config)), "model": model.state_dict()}
    with whole_file(path) as file:
        torch.save({**saved, **asdict(so_far), "optimizer": optimizer.state_dict()}, file)


def _resume(
    path: Path, config: TrainingConfig, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, float]:
    """Load a saved state; its steps and seconds."""
    again = "training begins at the first step"
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        settings = saved["config"]
    except Exception as error:
        raise damaged(path, error, again) from None
    if settings != json.dumps(asdict(config)):
        raise TrainingError(f"{path}: was saved with other settings ({settings}); remove it or take these")
    try:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        return int(saved["steps"]), float(saved["seconds"])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise damaged(path, error, again) from None


def _progress(
    config: TrainingConfig, terms: Mapping[str, float], done: int, first: int, seconds: float
) -> str:
    losses = " ".join(f"{name} {value:.4f}" for name, value in terms.items())
    per_step = seconds / (done - first)
    left = per_step * (config.steps - done)
    speed = f"{config.batch / per_step:.0f} images/s"
    return f"step {done}/{config.steps}  {losses}  {speed}  {left // 60:.0f} min {left % 60:.0f} s left"
