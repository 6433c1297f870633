"""Selective Focus (Fan et al., AAAI 2024): network-wise reconstruction of the heads that move the lanes,
where the lanes are.

One joint optimisation of all weight roundings and activation step sizes, with QDrop's dropping, of

    loss = sum over active heads k of  L_k   (+ the rounding regulariser with soft rounding)

Selection (SAS) decides every few iterations which heads are active, focus (SGF) weights the positions of a head.
Post-processing is never differentiated. Everything marked "our reading" in docs/method.md is an option here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, get_args

import torch
from torch import Tensor

from selective_focus.detector import Heads
from selective_focus.focus import Normalisation, checked_foreground, focused_loss, head_scale, without_focus
from selective_focus.head_sensitivity import Mode, head_sensitivity
from selective_focus.job import QuantizationJob, heads_of, named_seed
from selective_focus.lane_distortion import REFERENCE_SIZE, Norm, Reduction
from selective_focus.methods import Method
from selective_focus.quantization.compiled import CompiledUnit
from selective_focus.quantization.config import ConfigurationError
from selective_focus.quantization.layers import activation_quantizers
from selective_focus.quantization.reconstruct import Learnable, dropping, optimise
from selective_focus.selection import Interpolation, SensitivityAwareSelection
from selective_focus.start import Start, start_from

_CHOICES: dict[str, Any] = {"sensitivity": Mode, "lds_norm": Norm, "lds_reduction": Reduction, "start": Start}


@dataclass(frozen=True)
class SelectiveFocusOptions:
    """The readings of the paper, each with its default (docs/method.md).

    focus, selection: the two halves of the method; False for the ablations.
    measure_every, measure_images: T iterations between measurements of sensitivity, on m calibration images.
    sensitivity, sensitivity_alpha: "swap-one" or "leave-one-out", and the share of the error that is swapped in.
    lds_norm, lds_reduction, lds_delta: the distortion that sensitivity measures, see ``lane_distortion_score``;
        lds_delta in pixels of a frame 1640 wide.
    interpolation: scores between measurements, "linear" or "hold".
    share, top_k, hysteresis, dropped_weight: the rule of selection, see ``SensitivityAwareSelection``.
    epsilon: background weight of confidence heads.
    normalisation: scale of a head's loss, "variance", "channels" or "none".
    soft_focus, focus_threshold: the foreground as it is, or cut at a threshold.
    start, start_iterations: from where the heads' reconstruction starts, see ``start_from``.
    """

    focus: bool = True
    selection: bool = True
    measure_every: int = 50
    measure_images: int = 16
    sensitivity: Mode = "swap-one"
    sensitivity_alpha: float = 1.0
    lds_norm: Norm = "l1"
    lds_reduction: Reduction = "mean"
    lds_delta: float | None = None
    interpolation: Interpolation = "linear"
    share: float = 0.03
    top_k: int | None = None
    hysteresis: float = 0.0
    dropped_weight: float = 0.0
    epsilon: float = 0.1
    normalisation: Normalisation = "variance"
    soft_focus: bool = True
    focus_threshold: float = 0.5
    start: Start = "ranges"
    start_iterations: int | None = None

    def __post_init__(self) -> None:
        try:
            self.selector(["any"])
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"selective-focus: {error}") from error
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in get_args(choices):
                raise ConfigurationError(
                    f"{name}={getattr(self, name)!r}: expected one of {', '.join(get_args(choices))}"
                )
        delta, iterations = self.lds_delta, self.start_iterations
        if (delta is not None and not 0 < delta < inf) or (iterations is not None and iterations < 1):
            raise ConfigurationError(
                f"lds_delta={delta}, start_iterations={iterations}: expected none, or pixels above 0 and at least 1"
            )
        if self.measure_images < 1 or not 0 < self.sensitivity_alpha <= 1 or self.epsilon < 0:
            raise ConfigurationError(
                f"measure_images={self.measure_images}, sensitivity_alpha={self.sensitivity_alpha}, "
                f"epsilon={self.epsilon}: expected at least 1, a value in (0, 1], and at least 0"
            )

    def selector(self, heads: Sequence[str]) -> SensitivityAwareSelection:
        """A fresh selection among ``heads`` by these options."""
        return SensitivityAwareSelection(
            heads,
            share=self.share,
            top_k=self.top_k,
            interval=self.measure_every,
            interpolation=self.interpolation,
            hysteresis=self.hysteresis,
            dropped_weight=self.dropped_weight,
        )


class HeadReconstruction:
    """The network as one unit: the loss over its heads, and the measuring of their sensitivity as it learns."""

    def __init__(self, job: QuantizationJob, options: SelectiveFocusOptions) -> None:
        self.job = job
        self.options = options
        self.reference = job.float_heads()
        foreground = checked_foreground(job.detector, self.reference)
        self.foreground = foreground if options.focus else without_focus(foreground)
        # One scale for all batches: a head that is all background in one batch must not blow up.
        self.scales = {
            name: float(head_scale(head, self.foreground[name], options.normalisation))
            for name, head in self.reference.items()
        }
        self.selection = options.selector(list(self.reference))
        width = job.detector.image_size[1] / REFERENCE_SIZE[1]
        self.lds_delta = None if options.lds_delta is None else options.lds_delta * width
        self.measuring_s = 0.0
        self.compiled: CompiledUnit | None = None
        """The network as its steps run it, where they are compiled."""

    def step_loss(self, index: Tensor, step: int) -> Tensor:
        """Loss of the calibration images ``index`` over the heads that are active at ``step`` (from 1)."""
        weights = self.selection.weights(step) if self.options.selection else None
        network = self.compiled or self.job.model
        return self.batch_loss(network(self.job.images[index]), index, weights)

    def hard_loss(self) -> float:
        """Loss of all calibration images over all heads, nothing dropped."""
        images, size = len(self.job.images), self.job.reconstruction.chunk_size
        with torch.no_grad(), dropping(list(activation_quantizers(self.job.model).values()), 1.0, 0):
            parts = torch.split(torch.arange(images), size)
            return sum(float(self.loss(index)) * len(index) for index in parts) / images

    def loss(self, index: Tensor) -> Tensor:
        """Focused loss of the calibration images ``index`` over all heads."""
        return self.batch_loss(self.job.model(self.job.images[index]), index, None)

    def batch_loss(self, quantized: Heads, index: Tensor, weights: Mapping[str, float] | None) -> Tensor:
        """Focused loss of the quantized heads of the calibration images ``index``."""
        total, _ = focused_loss(
            quantized,
            {name: head[index] for name, head in self.reference.items()},
            {name: weight[index] for name, weight in self.foreground.items()},
            weights,
            confidence_heads=self.job.detector.confidence_heads if self.options.focus else (),
            epsilon=self.options.epsilon,
            normalisation=self.scales,
            soft=self.options.soft_focus,
            threshold=self.options.focus_threshold,
        )
        return total

    def measure(self, learnable: Learnable, step: int) -> None:
        """Sensitivity of every head now: hard weights, nothing dropped, the first m calibration images."""
        learnable.use_hard_weights()
        started = time.perf_counter()
        images = min(self.options.measure_images, len(self.job.images))
        with dropping(list(activation_quantizers(self.job.model).values()), 1.0, 0):
            quantized = heads_of(self.job.model, list(torch.split(self.job.images[:images], 16)))
        scores = head_sensitivity(
            self.job.detector,
            {name: head[:images] for name, head in self.reference.items()},
            quantized,
            mode=self.options.sensitivity,
            alpha=self.options.sensitivity_alpha,
            norm=self.options.lds_norm,
            reduction=self.options.lds_reduction,
            delta=self.lds_delta,
        )
        self.selection.measured(step, scores)
        self.measuring_s += time.perf_counter() - started


def run(job: QuantizationJob) -> None:
    """Ranges by search, then the joint reconstruction of the network's heads."""
    reconstruct_heads(job, HeadReconstruction(job, job.options))


def reconstruct_heads(job: QuantizationJob, unit: HeadReconstruction) -> None:
    """Ranges by search, or another start; then all roundings and step sizes together, by the loss of ``unit``."""
    options, settings = unit.options, job.reconstruction
    if settings.unit != "network":
        raise ConfigurationError(f"{job.log.method}: unit={settings.unit!r}: expected 'network'")
    start_from(job, options.start, options.start_iterations)
    learnable = Learnable.of(job.model, weights=True, scales=True, go_on=options.start in ("layer", "block"))
    if not learnable:
        return
    if settings.compile:
        unit.compiled = CompiledUnit(job.model, learnable.quantizers)

    def watch(step: int, loss: float) -> None:
        job.progress(step, settings.iterations)
        if options.selection and unit.selection.is_due(step) and step < settings.iterations:
            unit.measure(learnable, step)

    seed = named_seed(job.seed, "", "batches")
    with dropping(learnable.quantizers, settings.keep_probability, named_seed(job.seed, "", "masks")):
        if options.selection:
            unit.measure(learnable, 0)
        entry = optimise(
            "network",
            learnable,
            unit.step_loss,
            unit.hard_loss,
            len(job.images),
            settings,
            seed,
            watch,
            job.held_back_lds,
        )
    if unit.compiled is not None:
        entry["compiled"] = unit.compiled.works
    job.log.units.append({**entry, "measuring_s": unit.measuring_s})
    job.log.iterations += settings.iterations
    job.log.sensitivity = unit.selection.log


METHOD = Method(
    "selective-focus",
    "network-wise reconstruction of the heads that move the lanes, where the lanes are",
    run,
    source="Fan et al., Selective Focus, AAAI 2024; details are our reading, see docs/method.md",
    reconstruction={"unit": "network", "keep_probability": 0.5},
    options=SelectiveFocusOptions,
)
