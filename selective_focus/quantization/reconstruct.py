"""The one reconstruction engine: learn roundings and step sizes so that a unit's output stays what it was.

A unit is a layer, a block or the whole network; every reconstruction method is a choice of unit, of what is
learned, of dropping, and of the loss.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from selective_focus.quantization.affine import MaskPool, mix_inputs
from selective_focus.quantization.config import BatchSampling, ReconstructionConfig
from selective_focus.quantization.layers import (
    ActivationQuantizer,
    QuantizedLayer,
    activation_quantizers,
    quantized_layers,
)
from selective_focus.quantization.losses import reconstruction_loss
from selective_focus.quantization.rounding import rounding_regulariser
from selective_focus.quantization.schedule import beta_schedule, cosine_lr, regulariser_active


class ReconstructionError(RuntimeError):
    """A loss or parameter stopped being finite; the message names the unit."""


@dataclass
class Learnable:
    """What is learned in one unit: roundings of its weights and logarithms of its step sizes."""

    layers: list[QuantizedLayer]
    quantizers: list[ActivationQuantizer]
    roundings: list[nn.Parameter] = field(default_factory=list)
    log_scales: list[nn.Parameter] = field(default_factory=list)

    @staticmethod
    def of(unit: nn.Module, *, weights: bool, scales: bool) -> Learnable:
        """Start to learn in ``unit`` (itself a quantized layer, or anything that holds some)."""
        layers = list(quantized_layers(unit).values())
        quantizers = [q for q in activation_quantizers(unit).values() if q.enabled and q.calibrated]
        found = Learnable(layers, quantizers)
        if weights:
            found.roundings = [v for layer in layers if (v := layer.learn_rounding()) is not None]
        if scales:
            for quantizer in quantizers:
                quantizer.log_scale.requires_grad_(True)
                found.log_scales.append(quantizer.log_scale)  # type: ignore[arg-type]
        return found

    def __bool__(self) -> bool:
        return bool(self.roundings or self.log_scales)

    def prepare_step(self, rounding: Any) -> None:
        """Compute every layer's differentiable weight for this step."""
        for layer in self.layers:
            layer.prepare_step(rounding)

    def use_hard_weights(self) -> None:
        """Show the weights as they would be if learning stopped now."""
        for layer in self.layers:
            layer.use_hard_weight()

    def snapshot(self) -> list[Tensor]:
        """The learned values, to come back to."""
        return [p.detach().clone() for p in [*self.roundings, *self.log_scales]]

    def restore(self, values: Sequence[Tensor]) -> None:
        """Undo to a snapshot."""
        for parameter, value in zip([*self.roundings, *self.log_scales], values, strict=True):
            parameter.data.copy_(value)

    def settle(self) -> float:
        """Finish: hard weights as plain tensors, nothing requires a gradient. Share of unsettled roundings."""
        count = sum(v.numel() for v in self.roundings)
        open_roundings = 0.0
        for layer in self.layers:
            size = 0 if layer.rounding is None else layer.rounding.numel()
            open_roundings += layer.settle() * size
        for log_scale in self.log_scales:
            log_scale.requires_grad_(False)
            log_scale.grad = None
        return open_roundings / max(1, count)


class dropping:
    """While entered, activations in ``quantizers`` keep their quantized value with a probability only (QDrop)."""

    def __init__(self, quantizers: Sequence[ActivationQuantizer], keep_probability: float, seed: int) -> None:
        self._quantizers = quantizers
        self._before: list[MaskPool | None] = []
        self.pool = MaskPool(keep_probability, seed) if keep_probability < 1 else None

    def __enter__(self) -> dropping:
        self._before = [quantizer.masks for quantizer in self._quantizers]
        for quantizer in self._quantizers:
            quantizer.masks = self.pool
        return self

    def __exit__(self, *_: object) -> None:
        for quantizer, masks in zip(self._quantizers, self._before, strict=True):
            quantizer.masks = masks


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


@dataclass
class BestState:
    """The learned values of least hard-rounded loss among the states looked at."""

    learnable: Learnable
    hard_loss: Callable[[], float]
    loss: float = float("inf")
    values: list[Tensor] = field(default_factory=list)

    def look(self) -> float:
        """Measure the present state; remember it if it is the best so far."""
        self.learnable.use_hard_weights()
        loss = self.hard_loss()
        if loss < self.loss:
            self.loss, self.values = loss, self.learnable.snapshot()
        return loss


def optimise(
    name: str,
    learnable: Learnable,
    step_loss: StepLoss,
    hard_loss: Callable[[], float],
    images: int,
    config: ReconstructionConfig,
    seed: int,
    watch: Watcher | None = None,
) -> dict[str, Any]:
    """Learn in one unit for ``config.iterations`` steps; give the entry for the log.

    Args:
        step_loss: the loss of a batch with this step's weights.
        hard_loss: the loss of all calibration images with hard weights and nothing dropped.
        watch: called after every step, with that step's loss.

    Raises:
        ReconstructionError: the loss is not finite.
    """
    started = time.perf_counter()
    optimiser = torch.optim.Adam(_parameter_groups(learnable, config))
    best = BestState(learnable, hard_loss)
    nearest = best.look()
    look_every = max(1, config.iterations // config.looks)
    loss = nearest
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
        if config.kept_state == "best-loss" and step % look_every == 0 and step < config.iterations:
            best.look()
    hard = best.look()
    if config.kept_state == "best-loss":
        learnable.restore(best.values)
        hard = best.loss
    roundings = sum(v.numel() for v in learnable.roundings)
    return {
        "unit": name,
        "iterations": config.iterations,
        "seconds": time.perf_counter() - started,
        "hard_loss_before": nearest,
        "hard_loss_after": hard,
        "loss_last_step": loss,
        "unsettled_roundings": learnable.settle(),
        "roundings": roundings,
        "step_sizes": len(learnable.log_scales),
    }


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
        # Adam's steps do not depend on the size of gradients: moving log s by lr / s moves s by lr
        group["lr"] = rate if config.scale_steps == "relative" else rate / math.exp(group["params"][0].item())


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


@dataclass
class UnitData:
    """What one unit sees and should give, for all calibration images.

    Arguments are flattened; a tensor whose first dimension is the batch is stored for all images, everything
    else is passed as it was in the first call.
    """

    quantized_inputs: list[Any]
    float_inputs: list[Any]
    per_image: list[bool]
    spec: Any
    targets: list[Tensor]
    images: int

    def call(self, unit: Callable[..., Any], index: Tensor, mask: MaskPool | None = None) -> list[Tensor]:
        """The unit's output tensors for the images of ``index``; inputs mixed with float ones under ``mask``."""
        flat = []
        for quantized, full, per_image in zip(
            self.quantized_inputs, self.float_inputs, self.per_image, strict=True
        ):
            if not per_image:
                flat.append(quantized)
                continue
            value = quantized[index]
            if mask is not None and value.is_floating_point():
                value = mix_inputs(value, full[index], mask.draw(value))
            flat.append(value)
        args, kwargs = pytree.tree_unflatten(flat, self.spec)
        return output_tensors(unit(*args, **kwargs))


def output_tensors(output: Any) -> list[Tensor]:
    """The floating-point tensors of a module's output, whatever its structure."""
    return [
        leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()
    ]


def unit_loss(outputs: Sequence[Tensor], targets: Sequence[Tensor], p: float = 2.0) -> Tensor:
    """Reconstruction loss of a unit: channels summed, the rest averaged, outputs added.

    Channels are the second dimension of maps [N, C, H, W] and matrices [N, C], the last of tokens [N, T, C].
    """
    total = torch.zeros(())
    for output, target in zip(outputs, targets, strict=True):
        total = total + reconstruction_loss(output, target, p, channel_dim=-1 if output.ndim == 3 else 1)
    return total
