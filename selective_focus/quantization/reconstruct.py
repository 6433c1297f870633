"""The one reconstruction engine: learn roundings and step sizes so that a unit's output stays what it was.

A unit is a layer, a block or the whole network; every reconstruction method is a choice of unit, of what is
learned, of dropping, and of the loss.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from selective_focus.quantization.config import BatchSampling, ReconstructionConfig
from selective_focus.quantization.kept_state import Measure, StateKeeper
from selective_focus.quantization.learnable import Learnable, dropping
from selective_focus.quantization.rounding import rounding_regulariser
from selective_focus.quantization.schedule import beta_schedule, cosine_lr, regulariser_active
from selective_focus.quantization.unit_data import UnitData, output_tensors, unit_loss

__all__ = [
    "Learnable",
    "ReconstructionError",
    "UnitData",
    "batches",
    "dropping",
    "optimise",
    "output_tensors",
    "unit_loss",
]


class ReconstructionError(RuntimeError):
    """A loss or parameter stopped being finite; the message names the unit."""


def batches(
    count: int, size: int, iterations: int, seed: int, sampling: BatchSampling = "without-replacement"
) -> Iterator[Tensor]:
    """Indices of ``iterations`` random batches out of ``count`` images.

    Without replacement inside a batch (AdaRound, BRECQ; a batch is no larger than ``count``), or with (QDrop).
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(iterations):
        if sampling == "with-replacement":
            yield torch.randint(count, (size,), generator=generator)
        else:
            yield torch.randperm(count, generator=generator)[: min(size, count)]


StepLoss = Callable[[Tensor, int], Tensor]
"""(indices of this step's images, step counted from 1) -> the loss without regulariser."""

Watcher = Callable[[int, float], None]
"""(finished steps, loss) -> nothing; called after every step."""


def optimise(
    name: str,
    learnable: Learnable,
    step_loss: StepLoss,
    hard_loss: Measure,
    images: int,
    config: ReconstructionConfig,
    seed: int,
    watch: Watcher | None = None,
    lds: Measure | None = None,
) -> dict[str, Any]:
    """Learn in one unit for ``config.iterations`` steps; give the entry for the log.

    Args:
        step_loss: the loss of a batch with this step's weights.
        hard_loss: the loss of all calibration images with hard weights and nothing dropped.
        watch: called after every step, with that step's loss.
        lds: the distortion of held-back images' lanes in pixels, for the kept state "best-lds".

    Raises:
        ReconstructionError: the loss is not finite.
        ConfigurationError: the kept state needs ``lds`` and there is none.
    """
    started = time.perf_counter()
    optimiser = torch.optim.Adam(_parameter_groups(learnable, config))
    keeper = StateKeeper(config.kept_state, learnable, hard_loss, lds)
    loss = nearest = keeper.look(0)
    _check_finite(name, loss, 0, config)
    looks = look_steps(config)
    drawn = batches(images, config.batch_size, config.iterations, seed, config.batch_sampling)
    for step, index in enumerate(drawn, start=1):
        _set_rates(optimiser, config, step - 1)
        learnable.prepare_step(config.rounding)
        reconstruction = step_loss(index, step)
        loss = float(reconstruction.detach())
        _check_finite(name, loss, step, config)
        total = reconstruction + _regulariser(learnable, config, step)
        optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if watch is not None:
            watch(step, loss)
        if step in looks:
            _check_finite(name, keeper.look(step), step, config)
    kept = keeper.restore()
    roundings = sum(v.numel() for v in learnable.roundings)
    return {
        "unit": name,
        "iterations": config.iterations,
        "seconds": time.perf_counter() - started - keeper.seconds,
        "looking_seconds": keeper.seconds,
        "hard_loss_before": nearest,
        "hard_loss_after": kept["hard_loss"],
        "kept_step": kept["step"],
        "looks": keeper.looks,
        "loss_last_step": loss,
        "unsettled_roundings": learnable.settle(),
        "roundings": roundings,
        "step_sizes": len(learnable.log_scales),
    }


def look_steps(config: ReconstructionConfig) -> set[int]:
    """The steps after which the state is measured, the last one always; the start is measured besides."""
    looks = 1 if config.kept_state == "last" else min(config.looks, config.iterations)
    return {config.iterations * look // looks for look in range(1, looks + 1)}


def _parameter_groups(learnable: Learnable, config: ReconstructionConfig) -> list[dict[str, Any]]:
    """Roundings first; then all step sizes, each alone where its rate depends on its size."""
    together = config.scale_steps == "relative"
    scales = [learnable.log_scales] if together else [[log_scale] for log_scale in learnable.log_scales]
    return [{"params": parameters} for parameters in [learnable.roundings, *scales]]


def _set_rates(optimiser: torch.optim.Optimizer, config: ReconstructionConfig, done: int) -> None:
    """Learning rates for the step after ``done`` finished ones."""
    roundings, *scales = optimiser.param_groups
    end = config.weight_lr * config.weight_lr_end
    roundings["lr"] = cosine_lr(done, config.iterations, config.weight_lr, end)
    rate = cosine_lr(done, config.iterations, config.scale_lr)
    for group in scales:
        if config.scale_steps == "absolute":
            # Adam's steps do not depend on the size of gradients: these take s to s + rate, or as far down by
            # division, so that it stays positive
            size = group["params"][0].detach().double().exp().clamp(min=1e-30)
            group["lr"] = math.log1p(rate / float(size))
        else:
            group["lr"] = rate


def _regulariser(learnable: Learnable, config: ReconstructionConfig, step: int) -> Tensor | float:
    """The rounding regulariser of soft rounding; hard forward passes need none."""
    if config.rounding != "soft" or not regulariser_active(step, config.iterations, config.warmup):
        return 0.0
    beta = beta_schedule(step, config.iterations, config.warmup, config.beta_start, config.beta_end)
    total: Tensor | float = 0.0
    for rounding in learnable.roundings:
        total = total + config.regulariser_weight * rounding_regulariser(rounding, beta)
    return total


def _check_finite(name: str, loss: float, step: int, config: ReconstructionConfig) -> None:
    if not math.isfinite(loss):
        raise ReconstructionError(
            f"unit {name!r}: the loss is {loss} at iteration {step} of {config.iterations}; "
            f"expected a finite number; try a smaller weight_lr or scale_lr"
        )
