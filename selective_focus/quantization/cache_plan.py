"""How much memory the cached activations of a block-wise reconstruction will take, and what to do if too much.

Per image and unit: its inputs from the quantized and from the full-precision network (where a method needs
both) and its full-precision output. Besides, the unfinished passes of ``Lockstep`` hold what the rest of the
network still needs. If the sum is over the budget, units that do not fit are cached in temporary files; if the
unfinished passes alone do not fit, every unit's inputs are computed from the images again (more time, no passes
to hold). Neither changes a single bit of the result.

The budget is for what grows with the number of calibration images. The images themselves, one forward pass of
``chunk_size`` images and one training step come on top.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

MIB = 2**20


@dataclass(frozen=True)
class UnitSize:
    """Bytes that one image takes at one unit."""

    inputs: int
    outputs: int
    live: int
    """What an unfinished pass holds that has stopped before the unit."""


@dataclass(frozen=True)
class CachePlan:
    """What is kept where, decided before anything is computed."""

    budget: float | None
    """Bytes; None: no limit."""
    caches: dict[str, int]
    """unit -> bytes of its cache."""
    passes: dict[str, int]
    """unit -> bytes that the unfinished passes hold before it."""
    restart: bool
    """Whether every unit's inputs are computed from the images again."""
    on_disk: frozenset[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the log, in MiB."""
        unlimited = max((self.caches[name] + self.passes[name] for name in self.caches), default=0)
        return {
            "budget_mb": None if self.budget is None else self.budget / MIB,
            "unlimited_mb": unlimited / MIB,
            "planned_mb": max((self._planned(name) for name in self.caches), default=0) / MIB,
            "passes": "restarted" if self.restart else "kept",
            "units_on_disk": sorted(self.on_disk),
            "disk_mb": max((self.caches[name] for name in self.on_disk), default=0) / MIB,
        }

    def _planned(self, name: str) -> int:
        passes = 0 if self.restart else self.passes[name]
        return passes + (0 if name in self.on_disk else self.caches[name])


def plan_caches(
    sizes: Mapping[str, UnitSize],
    images: int,
    budget_mb: float | None,
    *,
    quantized: bool,
    mixed: bool,
    weighted: bool = False,
) -> CachePlan:
    """Decide what is kept where.

    Args:
        sizes: of every unit, in running order (``unit_sizes``).
        images: number of calibration images.
        budget_mb: MiB; None for no limit.
        quantized: units are fed from the quantized network (else only full-precision passes run).
        mixed: they are fed from both.
        weighted: a weight is kept for every element of the output.
    """
    networks = 1 + quantized
    copies = 1 + (quantized and mixed)
    caches = {
        name: images * (copies * size.inputs + (1 + weighted) * size.outputs) for name, size in sizes.items()
    }
    passes = {name: images * networks * size.live for name, size in sizes.items()}
    if budget_mb is None:
        return CachePlan(None, caches, passes, False, frozenset())
    budget = budget_mb * MIB
    restart = max(passes.values(), default=0) > budget
    held = dict.fromkeys(sizes, 0) if restart else passes
    on_disk = frozenset(name for name in sizes if held[name] + caches[name] > budget)
    return CachePlan(budget, caches, passes, restart, on_disk)


def unit_sizes(model: nn.Module, example: Tensor, units: Mapping[str, nn.Module]) -> dict[str, UnitSize]:
    """Sizes of every unit from one forward pass of one image ``example`` [1, 3, H, W].

    ``live`` counts the unit's inputs and those outputs of modules that something still refers to; tensors
    that a forward method computed outside of any module and keeps for later are not seen.
    """
    found: dict[str, list[int]] = {}
    seen: list[weakref.ref[Tensor]] = []
    image = example.untyped_storage().data_ptr()

    def before(name: str, args: Any, kwargs: Any) -> None:
        arguments = _tensors((args, kwargs))
        alive = [tensor for one in seen if (tensor := one()) is not None]
        inputs = sum(tensor.nbytes for tensor in arguments)
        found[name] = [inputs, 0, _storage_bytes([*arguments, *alive], image)]

    def after(name: str | None, output: Any) -> None:
        outputs = _tensors(output)
        seen.extend(weakref.ref(tensor) for tensor in outputs)
        if name is not None:
            found[name][1] = sum(tensor.nbytes for tensor in outputs)

    names = {id(module): name for name, module in units.items()}
    handles: list[Any] = []
    for module in model.modules():
        name = names.get(id(module))
        if name is not None:
            handles.append(
                module.register_forward_pre_hook(lambda _, a, k, n=name: before(n, a, k), with_kwargs=True)
            )
        handles.append(module.register_forward_hook(lambda _, a, output, n=name: after(n, output)))
    try:
        with torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return {name: UnitSize(*found[name]) for name in units if name in found}


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]


def _storage_bytes(tensors: Iterable[Tensor], apart: int) -> int:
    """Bytes of the tensors' storages, each counted once; without the one at address ``apart``."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    storages.pop(apart, None)
    return sum(storages.values())
