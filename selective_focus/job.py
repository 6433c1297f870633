"""What every method works on: a detector's two twin networks, the calibration images, and the shared steps."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from selective_focus.detector import Heads, LaneDetector, QuantizationLog
from selective_focus.lane_distortion import RowLanes, lane_distortion_scores, mean_distortion, sample_rows
from selective_focus.lane_importance import lane_probe
from selective_focus.quantization.cache_plan import plan_caches, unit_sizes
from selective_focus.quantization.calibrate import (
    calibrate_activations,
    calibrate_weights,
    recalibrate_by_importance,
)
from selective_focus.quantization.compiled import CompiledUnit
from selective_focus.quantization.config import (
    FLOAT_BITS,
    ConfigurationError,
    QuantizationConfig,
    ReconstructionConfig,
    UnitKind,
)
from selective_focus.quantization.fisher import FisherKind, FisherScale, FisherWeights, task_gradients
from selective_focus.quantization.layers import (
    activation_quantizers,
    float_weights,
    not_quantizing,
    quantized_layers,
    quantized_modules,
)
from selective_focus.quantization.learnable import Learnable, dropping
from selective_focus.quantization.lockstep import Lockstep, Restarted, give_back_freed_memory
from selective_focus.quantization.reconstruct import optimise
from selective_focus.quantization.rows import MappedRows, MemoryRows
from selective_focus.quantization.unit_data import UnitData, gather
from selective_focus.quantization.wrap import TwinModels

Found = TypeVar("Found")

Progress = Callable[[int, int], None]
"""(optimizer steps done, steps of this phase of the method) -> nothing."""


def named_seed(seed: int, *parts: str) -> int:
    """A seed for one named component, so that a new component changes nobody else's numbers."""
    digest = hashlib.sha256("/".join([str(seed), *parts]).encode()).digest()
    return int.from_bytes(digest[:7], "little")


@dataclass(frozen=True)
class Unit:
    """One thing to reconstruct: a module, together with the ReLU that follows it where it is a single layer."""

    name: str
    relu: bool = False

    def bind(self, model: nn.Module) -> Callable[..., Any]:
        """The unit of ``model`` as a function."""
        module = model.get_submodule(self.name)
        if not self.relu:
            return module
        return lambda *args, **kwargs: torch.relu(module(*args, **kwargs))


@dataclass
class QuantizationJob:
    """One quantization in progress. Methods call its steps; none of them copies or traces a model itself."""

    detector: LaneDetector
    images: Tensor
    """Calibration images as network inputs [M, 3, H, W]; unlabelled. Without those that are held back."""
    config: QuantizationConfig
    reconstruction: ReconstructionConfig
    twins: TwinModels
    seed: int
    log: QuantizationLog
    options: Any = None
    """The method's own options, if it has any."""
    progress: Progress = lambda done, total: None
    """Is told after every step of a reconstruction."""
    held_back: Tensor = field(init=False, repr=False)
    """The calibration images [H, 3, H, W] that only the choice of the kept state looks at; H may be 0."""
    has_compiler: bool = field(default=True, init=False)
    """Whether ``compile`` has not failed yet."""
    _float_heads: Heads | None = field(default=None, repr=False)
    _held_back_lanes: list[RowLanes] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        seen = self.twins.trace
        unknown = [name for name in self.detector.reconstruction_blocks if name not in seen.calls]
        if unknown:  # whatever the method: a typing error must not wait for the first block-wise one
            raise ConfigurationError(
                f"reconstruction_blocks names {unknown[0]!r}, which does not run in the model; "
                f"expected names of modules such as {seen.order[1]!r}"
            )
        self.images, self.held_back = hold_back(self.images, self.reconstruction.held_back)

    @property
    def float_model(self) -> nn.Module:
        """The full-precision network, batch norms folded."""
        return self.twins.float_model

    @property
    def model(self) -> nn.Module:
        """The network that is being quantized."""
        return self.twins.quantized_model

    def chunks(self) -> list[Tensor]:
        """All calibration images in order, none dropped."""
        return list(torch.split(self.images, self.reconstruction.chunk_size))

    def quantize_weights(self) -> None:
        """Find every weight's grid and round to nearest."""
        calibrate_weights(self.model, self.config)

    def calibrate_activations(self) -> None:
        """Find every activation's range from the full-precision network's activations (weights in float).

        All calibration images are looked at. Activation quantizers are on afterwards.
        """
        calibrate_activations(self.model, self.chunks(), self.config)
        if self.config.activation_importance == "lanes" and self.config.activation_bits != FLOAT_BITS:
            self._recalibrate_for_lanes()

    def _recalibrate_for_lanes(self) -> None:
        """Find the ranges again, with activations weighed by what an error in them does to the heads on the lanes."""
        probe = lane_probe(
            self.detector, self.float_heads(), lambda image: named_seed(self.seed, "probe", str(image))
        )
        index = torch.split(torch.arange(len(self.images)), self.reconstruction.chunk_size)
        probes = [lambda heads, images=images: probe(heads, images) for images in index]
        self.log.focused_ranges = recalibrate_by_importance(self.model, self.chunks(), self.config, probes)

    def set_activations(self, enabled: bool) -> None:
        """Switch activation quantization (where there is any) on or off everywhere."""
        for quantizer in activation_quantizers(self.model).values():
            quantizer.enabled = enabled

    def float_heads(self) -> Heads:
        """Full-precision heads of all calibration images, computed once."""
        if self._float_heads is None:
            self._float_heads = heads_of(self.float_model, self.chunks())
        return self._float_heads

    def held_back_lds(self, to_come: Sequence[str] = ()) -> float:
        """Mean Lane Distortion Score of the held-back images against full precision, in pixels of a frame.

        Args:
            to_come: units that are not finished: they run in floating point.
        """
        size, frame = self.reconstruction.chunk_size, self.detector.image_size

        def lanes_of(model: nn.Module) -> list[RowLanes]:
            heads = heads_of(model, list(torch.split(self.held_back, size)))
            return [sample_rows(lanes, frame) for lanes in self.detector.decode(heads, frame)]

        if self._held_back_lanes is None:
            self._held_back_lanes = lanes_of(self.float_model)
        quantizers = activation_quantizers(self.model)
        with (
            torch.no_grad(),
            dropping(list(quantizers.values()), 1.0, 0),
            float_weights(inside(to_come, quantized_layers(self.model))),
            not_quantizing(inside(to_come, quantizers)),
        ):
            quantized = lanes_of(self.model)
        return mean_distortion(lane_distortion_scores(self._held_back_lanes, quantized, frame)).score

    def units(self, kind: UnitKind) -> list[Unit]:
        """The reconstruction units in running order.

        "layer": every quantized layer or product, a layer with the ReLU that follows it. "block": the detector's
        blocks, and each layer and product outside them. "network": the whole model.
        A module that runs several times per image is replaced by the smallest module
        around it that runs once, since its inputs depend on its own outputs.
        """
        if kind == "network":
            return [Unit("")]
        seen = self.twins.trace
        blocks = self.detector.reconstruction_blocks if kind == "block" else ()
        units: list[Unit] = []
        for layer in quantized_modules(self.model):
            around = [block for block in blocks if within(layer, block)]
            name = seen.called_once(max(around, key=len) if around else layer)
            units.append(Unit(name, relu=name == layer and layer in seen.relu_of))
        outer = {unit.name: unit for unit in units}
        kept = [u for u in outer.values() if not any(within(u.name, o) for o in outer if o != u.name)]
        return sorted(kept, key=lambda unit: seen.order.index(unit.name))

    def reconstruct_units(
        self,
        kind: UnitKind,
        *,
        weights: bool,
        scales: bool,
        loss_power: float = 2.0,
        float_inputs: bool = False,
        settings: ReconstructionConfig | None = None,
        fisher: tuple[FisherKind, FisherScale] = ("none", "normalised"),
    ) -> None:
        """Reconstruct the units one after the other, each from inputs that the finished ones before it give.

        Args:
            weights, scales: what is learned.
            loss_power: p of the loss |difference|^p.
            float_inputs: feed units the full-precision inputs instead (BRECQ's activation phase).
            settings: other than the job's own.
            fisher: weigh the elements of a unit's output by the task's gradient (``fisher.py``).
        """
        settings = settings or self.reconstruction
        units = self.units(kind)
        mixed, weighted = settings.keep_probability < 1, fisher[0] != "none"
        cached = self.unit_data(units, float_inputs=float_inputs, mixed=mixed, weighted=weighted)
        for place, (unit, data) in enumerate(cached):
            module = self.model.get_submodule(unit.name)
            learnable = Learnable.of(module, weights=weights, scales=scales)
            if not learnable:
                continue
            to_come = [later.name for later in units[place + 1 :]]
            if weighted:
                data.fisher = self._fisher_weights(unit, to_come, data, *fisher)
            before, total = place * settings.iterations, len(units) * settings.iterations
            self._optimise_unit(unit, data, learnable, loss_power, settings, to_come, before, total)

    def _optimise_unit(
        self,
        unit: Unit,
        data: UnitData,
        learnable: Learnable,
        p: float,
        settings: ReconstructionConfig,
        to_come: Sequence[str],
        steps_before: int,
        steps_in_all: int,
    ) -> None:
        function = unit.bind(self.model)
        compiles = settings.compile and self.has_compiler
        compiled = CompiledUnit(function, learnable.quantizers) if compiles else None
        # Without the method's name: at one seed every method sees the same batches and masks in a unit.
        seed = named_seed(self.seed, unit.name, "batches")
        quantizers = learnable.quantizers
        masks = named_seed(self.seed, unit.name, "masks")
        with dropping(quantizers, settings.keep_probability, masks) as drop:

            def step_loss(index: Tensor, step: int) -> Tensor:
                return data.loss(compiled or function, index, p, drop.pool)

            def hard_loss() -> float:
                total = 0.0
                with torch.no_grad(), dropping(quantizers, 1.0, 0):
                    for index in torch.split(torch.arange(data.images), settings.chunk_size):
                        total += float(data.loss(function, index, p)) * len(index)
                return total / data.images

            entry = optimise(
                unit.name or "network",
                learnable,
                step_loss,
                hard_loss,
                data.images,
                settings,
                seed,
                watch=lambda step, loss: self.progress(steps_before + step, steps_in_all),
                lds=lambda: self.held_back_lds(to_come),
            )
        if settings.compile:
            self.has_compiler = compiled is not None and compiled.works
            entry["compiled"] = self.has_compiler
        if data.fisher is not None:
            entry["fisher"] = data.fisher.to_dict()
        self.log.units.append(entry)
        self.log.iterations += settings.iterations

    def _fisher_weights(
        self, unit: Unit, to_come: Sequence[str], data: UnitData, kind: FisherKind, scale: FisherScale
    ) -> FisherWeights:
        """The task's gradient at the unit's output for all images, from the network as it is so far."""
        full = self.float_heads()
        variances = {name: max(float(head.float().var()), 1e-12) for name, head in full.items()}
        module = self.model.get_submodule(unit.name)
        relu = self.model.get_submodule(self.twins.trace.relu_of[unit.name]) if unit.relu else None
        on_disk = isinstance(data.targets[0], MappedRows)
        rows: list[MappedRows | MemoryRows] = []
        squares, elements = 0.0, 0
        parts = torch.split(torch.arange(len(self.images)), self.reconstruction.chunk_size)
        with (
            float_weights(inside(to_come, quantized_layers(self.model))),
            not_quantizing(inside(to_come, activation_quantizers(self.model))),
        ):
            for index in parts:
                expected = {name: head[index] for name, head in full.items()}
                found = task_gradients(self.model, self.images[index], expected, variances, module, relu)
                rows = rows or [MappedRows() if on_disk else MemoryRows(data.images) for _ in found]
                for one, gradient in zip(rows, found, strict=True):
                    one.append(gradient)
                    squares += float(gradient.double().square().sum())
                    elements += gradient.numel()
        return FisherWeights.of(kind, scale, [one.finish() for one in rows], math.sqrt(squares / elements))

    def unit_data(
        self,
        units: list[Unit],
        *,
        float_inputs: bool = False,
        mixed: bool = True,
        weighted: bool = False,
    ) -> Iterator[tuple[Unit, UnitData]]:
        """Each unit with its cached inputs and float targets, once the units before it have been finished.

        Args:
            float_inputs: feed units from the full-precision network alone.
            mixed: keep full-precision inputs beside the quantized ones.
            weighted: room is needed for a weight of every element of the output.
        """
        chunks = self.chunks()
        quantized = {unit.name: self.model.get_submodule(unit.name) for unit in units}
        full = {unit.name: self.float_model.get_submodule(unit.name) for unit in units}
        plan = plan_caches(
            unit_sizes(self.float_model, self.images[:1], full),
            len(self.images),
            self.reconstruction.memory_budget_mb,
            quantized=not float_inputs,
            mixed=mixed,
            weighted=weighted,
            image_bytes=self.images.nbytes,
        )
        self.log.caches.append(plan.to_dict())
        passes: type[Lockstep | Restarted] = Restarted if plan.restart else Lockstep
        tidy = plan.budget is not None
        with passes(self.float_model, chunks, full, tidy=tidy) as target, ExitStack() as stack:
            lead = None if float_inputs else passes(self.model, chunks, quantized, tidy=tidy)
            if lead is not None:
                stack.enter_context(lead)
            for unit in units:
                if tidy:
                    give_back_freed_memory(True)
                calls = zip(
                    repeat(None) if lead is None else lead.advance_to(unit.name),
                    target.advance_to(unit.name),
                    map(len, chunks),
                    strict=False,
                )
                function, on_disk = unit.bind(self.float_model), unit.name in plan.on_disk
                data = gather(unit.name, calls, len(self.images), function, keep_float=mixed, on_disk=on_disk)
                # zip never asks its second list to its end: that would keep all images' inputs while passes advance
                del calls
                if tidy:
                    give_back_freed_memory(False)
                try:
                    yield unit, data
                finally:
                    data.close()

    def finish(self) -> LaneDetector:
        """The quantized detector: the original's decode on the quantized network."""
        detector = copy.copy(self.detector)
        self.model.eval().requires_grad_(False)
        detector.model = self.model
        return detector


def hold_back(images: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Split images [M, ...] into those to learn from and ``count`` others, spread evenly over the M.

    Raises:
        ConfigurationError: nothing would be left to learn from.
    """
    if count >= len(images):
        raise ConfigurationError(
            f"held_back={count} of {len(images)} calibration images: expected fewer, or more images"
        )
    if count == 0:
        return images, images[:0]
    held = torch.zeros(len(images), dtype=torch.bool)
    held[(torch.arange(count) * len(images) + len(images) // 2) // count] = True
    return images[~held], images[held]


def within(name: str, outer: str) -> bool:
    """Whether a module's name is ``outer`` or below it; "" is the whole model."""
    return not outer or f"{name}.".startswith(f"{outer}.")


def inside(units: Sequence[str], modules: Mapping[str, Found]) -> list[Found]:
    """Those of ``modules`` (by name) that are one of ``units`` or lie in one."""
    return [module for name, module in modules.items() if any(within(name, unit) for unit in units)]


def heads_of(model: nn.Module, chunks: list[Tensor]) -> Heads:
    """Heads of all images, chunk by chunk, without gradients."""
    with torch.no_grad():
        parts = [model(chunk) for chunk in chunks]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
