"""What a reconstruction unit sees and should give, cached for all calibration images; and its loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from selective_focus.quantization.affine import MaskPool, mix_inputs
from selective_focus.quantization.config import ConfigurationError
from selective_focus.quantization.fisher import FisherWeights
from selective_focus.quantization.lockstep import UnitCall
from selective_focus.quantization.losses import reconstruction_loss
from selective_focus.quantization.rows import MappedRows, MemoryRows

_LARGE_ROW = 1 << 13
"""Elements of one image."""


@dataclass
class UnitData:
    """What one unit sees and should give, for all calibration images.

    Arguments are flattened; a tensor whose first dimension is the batch is stored for all images (``rows``,
    in memory or in a file: ``rows[index]`` copies some), everything else is passed as it was in the first
    call.
    """

    quantized_inputs: list[Any]
    float_inputs: list[Any] | None
    """None: nothing is mixed with them."""
    per_image: list[bool]
    spec: Any
    targets: list[Any]
    images: int
    fisher: FisherWeights | None = None
    """Weights of the elements of the outputs; None: all count the same."""

    def call(self, unit: Callable[..., Any], index: Tensor, mask: MaskPool | None = None) -> list[Tensor]:
        """The unit's output tensors for the images of ``index``; inputs mixed with float ones under ``mask``."""
        flat = []
        for place, (rows, per_image) in enumerate(zip(self.quantized_inputs, self.per_image, strict=True)):
            if not per_image:
                flat.append(rows)
                continue
            full = None if self.float_inputs is None else self.float_inputs[place]
            flat.append(rows[index] if mask is None or full is None else _mixed(rows, full, index, mask))
        args, kwargs = pytree.tree_unflatten(flat, self.spec)
        return output_tensors(unit(*args, **kwargs))

    def target(self, index: Tensor) -> list[Tensor]:
        """The full-precision outputs for the images of ``index``."""
        return [rows[index] for rows in self.targets]

    def loss(
        self, unit: Callable[..., Any], index: Tensor, p: float = 2.0, mask: MaskPool | None = None
    ) -> Tensor:
        """The loss of the images ``index``: ``unit_loss`` of power p, or the Fisher-weighted squared error."""
        outputs = self.call(unit, index, mask)
        if self.fisher is not None:
            return self.fisher.loss(outputs, self.target(index), index)
        if all(map(_by_image, self.targets)):
            return unit_loss(outputs, self.targets, p, index)
        return unit_loss(outputs, self.target(index), p)

    def close(self) -> None:
        """Give memory and files back, whoever still refers to this object."""
        weights = [] if self.fisher is None else self.fisher.rows
        for cache in (self.quantized_inputs, self.float_inputs or [], self.targets, weights):
            for rows in cache:
                if isinstance(rows, MappedRows):
                    rows.close()
            cache.clear()


class _Leaves:
    """A list of values that comes once a chunk: those that are per image are joined, the others kept once."""

    def __init__(self, what: str, images: int, on_disk: bool) -> None:
        self._what = what
        self._new: Callable[[], Any] = MappedRows if on_disk else lambda: MemoryRows(images)
        self._first: list[Any] = []
        self._rows: list[Any] = []

    def add(self, values: Sequence[Any], count: int) -> None:
        """The values of the next chunk, which has ``count`` images."""
        if not self._first:
            self._rows = [self._new() if _per_image(value, count) else None for value in values]
            self._first = [
                value if rows is None else None for value, rows in zip(values, self._rows, strict=True)
            ]
        for value, rows, first in zip(values, self._rows, self._first, strict=True):
            if rows is not None and _per_image(value, count):
                rows.append(value)
            elif isinstance(value, Tensor) and not (isinstance(first, Tensor) and torch.equal(value, first)):
                raise ConfigurationError(
                    f"{self._what} has shape {list(value.shape)} for {count} images: expected the images as the "
                    f"first dimension; name the module around it in reconstruction_blocks"
                )

    @property
    def per_image(self) -> list[bool]:
        return [rows is not None for rows in self._rows]

    def finish(self) -> list[Any]:
        return [
            first if rows is None else rows.finish()
            for first, rows in zip(self._first, self._rows, strict=True)
        ]


def _mixed(quantized: Any, full: Any, index: Tensor, masks: MaskPool) -> Tensor:
    """The rows ``index`` of two caches, mixed element by element under a fresh mask; whole numbers as they are."""
    if not (_by_image(quantized) and _by_image(full)):
        value: Tensor = quantized[index]
        return mix_inputs(value, full[index], masks.draw(value)) if value.is_floating_point() else value
    mixed: Tensor = quantized.new_empty((len(index), *quantized.shape[1:]))
    keep = masks.draw(mixed)
    for place, image in enumerate(index.tolist()):
        one = quantized[image]
        if keep is None:
            mixed[place] = one
        else:
            torch.lerp(full[image], one, keep[place], out=mixed[place])
    return mixed


def _by_image(rows: Any) -> bool:
    """Whether images are so large that mixing them one by one beats gathering two batches first (three passes)."""
    in_memory = isinstance(rows, Tensor) and rows.is_floating_point() and rows.is_contiguous()
    return in_memory and rows[0].numel() >= _LARGE_ROW


def _per_image(value: Any, count: int) -> bool:
    return isinstance(value, Tensor) and value.shape[:1] == (count,)


def gather(
    unit: str,
    calls: Iterable[tuple[UnitCall | None, UnitCall, int]],
    images: int,
    function: Callable[..., Any],
    *,
    keep_float: bool = True,
    on_disk: bool = False,
) -> UnitData:
    """Join the chunks' calls of one unit and compute its full-precision outputs.

    Args:
        unit: its name, for messages.
        calls: for each chunk the call in the quantized network (None: it is fed the full-precision inputs),
            that in the full-precision network, and the number of images.
        images: in all chunks.
        function: the full-precision unit.
        keep_float: keep full-precision inputs beside the quantized ones, to be mixed with them.
        on_disk: keep what is per image in temporary files; at any time one chunk of it is in memory.

    Raises:
        ConfigurationError: an input or output does not have the images as its first dimension.
        OSError: the temporary folder is full.
    """
    inputs = _Leaves(f"unit {unit!r}: an input", images, on_disk)
    float_inputs = _Leaves(f"unit {unit!r}: an input", images, on_disk)
    targets = _Leaves(f"unit {unit!r}: an output", images, on_disk)
    both, spec = False, None
    for quantized, full, count in calls:
        flat_full, spec = pytree.tree_flatten((full.args, full.kwargs))
        both = keep_float and quantized is not None
        if quantized is None:
            inputs.add(flat_full, count)
        else:
            inputs.add(pytree.tree_leaves((quantized.args, quantized.kwargs)), count)
        if both:
            float_inputs.add(flat_full, count)
        with torch.no_grad():
            targets.add(output_tensors(function(*full.args, **full.kwargs)), count)
    per_image = inputs.per_image
    return UnitData(
        inputs.finish(), float_inputs.finish() if both else None, per_image, spec, targets.finish(), images
    )


def output_tensors(output: Any) -> list[Tensor]:
    """The floating-point tensors of a module's output, whatever its structure."""
    return [
        leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()
    ]


def unit_loss(
    outputs: Sequence[Tensor], targets: Sequence[Tensor], p: float = 2.0, index: Tensor | None = None
) -> Tensor:
    """Reconstruction loss of a unit: channels summed, the rest averaged, outputs added.

    Channels are the second dimension of maps [N, C, H, W] and matrices [N, C], the last of tokens [N, T, C]. index:
    the rows of ``targets`` that are meant.
    """
    total = torch.zeros(())
    for output, target in zip(outputs, targets, strict=True):
        channels = -1 if output.ndim == 3 else 1
        total = total + reconstruction_loss(output, target, p, channels, index)
    return total
