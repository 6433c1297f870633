"""How much memory the cached activations of a block-wise reconstruction will take, and what to do if too much.

Per image and unit: its inputs from the quantized and from the full-precision network (where a method needs
both) and its full-precision output. Besides, the unfinished passes of ``Lockstep`` hold what the rest of the
network still needs. If the sum is over the budget, units that do not fit are cached in temporary files; if the
unfinished passes alone do not fit, every unit's inputs are computed from the images again (more time, no passes
to hold). Neither changes a single bit of the result.

The budget is for these and for the images themselves. The program, the network, the full-precision heads of all
images, one forward pass of ``chunk_size`` images and one training step come on top.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

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
    """Bytes, those of the images included; None: no limit."""
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
    image_bytes: int = 0,
) -> CachePlan:
    """Decide what is kept where.

    Args:
        sizes: of every unit, in running order (``unit_sizes``).
        images: number of calibration images.
        budget_mb: MiB; None for no limit.
        quantized: units are fed from the quantized network (else only full-precision passes run).
        mixed: they are fed from both.
        weighted: a weight is kept for every element of the output.
        image_bytes: what the calibration images themselves take of the budget.
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
    room = budget - image_bytes
    restart = max(passes.values(), default=0) > room
    held = dict.fromkeys(sizes, 0) if restart else passes
    on_disk = frozenset(name for name in sizes if held[name] + caches[name] > room)
    return CachePlan(budget, caches, passes, restart, on_disk)


class _Storages(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Remembers, without keeping it alive, the memory behind every tensor that an operation gives.

    Outputs of modules alone would miss what a forward method computes outside of any module and holds for later:
    an attention over all priors is the largest tensor of LaneATT. What does not depend on the images, a code of
    positions computed in the forward pass for instance, is taken for one image's: the plan errs on the safe side.
    """

    supports_higher_order_operators = True

    def __init__(self, apart: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._sizes: dict[int, tuple[StorageWeakRef, int]] = {}
        self._apart = {tensor.untyped_storage()._cdata for tensor in apart}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        for tensor in _tensors(output):
            if tensor.layout != torch.strided:
                continue  # has no storage of its own
            storage = tensor.untyped_storage()
            if storage._cdata not in self._apart:
                reference = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
                self._sizes[reference.cdata] = reference, storage.nbytes()
        return output

    def alive(self) -> int:
        """Bytes that something still refers to."""
        self._sizes = {key: each for key, each in self._sizes.items() if not each[0].expired()}  # type: ignore[no-untyped-call]
        return sum(size for _, size in self._sizes.values())


def unit_sizes(model: nn.Module, example: Tensor, units: Mapping[str, nn.Module]) -> dict[str, UnitSize]:
    """Sizes of every unit from one forward pass of one image ``example`` [1, 3, H, W].

    ``live`` counts whatever the pass has computed and still refers to, weights and the image left out.
    """
    found: dict[str, list[int]] = {}
    storages = _Storages([example, *model.parameters(), *model.buffers()])

    def before(name: str, args: Any, kwargs: Any) -> None:
        found[name] = [_bytes((args, kwargs)), 0, storages.alive()]

    def after(name: str, output: Any) -> None:
        found[name][1] = _bytes(output)

    handles: list[Any] = []
    for name, module in units.items():
        handles.append(
            module.register_forward_pre_hook(lambda _, a, k, n=name: before(n, a, k), with_kwargs=True)
        )
        handles.append(module.register_forward_hook(lambda _, a, output, n=name: after(n, output)))
    try:
        with torch.no_grad(), storages:
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return {name: UnitSize(*found[name]) for name in units if name in found}


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]


def _bytes(values: Any) -> int:
    return sum(tensor.nbytes for tensor in _tensors(values))
