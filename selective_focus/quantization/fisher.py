"""BRECQ's Fisher weighting: errors of a unit's output count by how much the task feels them (Li et al. 2021, eq. 10).

The authors' task is classification, a KL divergence of class probabilities. A lane detector has several heads and no
such distribution, so our reading is

    T = sum over images and heads k of  mean (Q_k - O_k)^2 / variance(O_k)

with O the full-precision heads, Q those with the units so far quantized (the present one rounded to nearest) and the
units to come in float. The weight of an element of the unit's output is |dT/d output|.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from selective_focus.detector import Heads
from selective_focus.quantization.losses import fisher_diagonal_loss, fisher_full_loss

FisherKind = Literal["none", "diagonal", "full"]
FisherScale = Literal["normalised", "authors"]

TASK = "sum over images and heads of mean (quantized - full)^2 / variance(full)"


@dataclass
class FisherWeights:
    """The weight of every element of a unit's outputs: |gradient| * factor + shift.

    "normalised": mean square 1 over all images. "authors": |gradient| + 1, which is nearly 1 everywhere.
    """

    kind: FisherKind
    rows: list[Any]
    """|gradient| of each output for all images, in memory or in a file."""
    factor: float
    shift: float
    gradient_rms: float

    @staticmethod
    def of(kind: FisherKind, scale: FisherScale, rows: list[Any], gradient_rms: float) -> FisherWeights:
        """Weights from gradients; where none is felt at all, every element weighs 1."""
        if scale == "authors":
            return FisherWeights(kind, rows, 1.0, 1.0, gradient_rms)
        factor, shift = (1 / gradient_rms, 0.0) if gradient_rms > 0 else (0.0, 1.0)
        return FisherWeights(kind, rows, factor, shift, gradient_rms)

    def loss(self, outputs: Sequence[Tensor], targets: Sequence[Tensor], index: Tensor) -> Tensor:
        """Weighted squared error of the images ``index``; channels as in ``unit_loss``."""
        distance = fisher_diagonal_loss if self.kind == "diagonal" else fisher_full_loss
        total = torch.zeros(())
        for output, target, rows in zip(outputs, targets, self.rows, strict=True):
            values = [output, target, rows[index] * self.factor + self.shift]
            total = total + distance(*(v.movedim(-1, 1) if output.ndim == 3 else v for v in values))
        return total

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the log."""
        return {
            "task": TASK,
            "kind": self.kind,
            "factor": self.factor,
            "shift": self.shift,
            "gradient_rms": self.gradient_rms,
        }


def task_gradients(
    model: nn.Module,
    images: Tensor,
    expected: Heads,
    scales: dict[str, float],
    unit: nn.Module,
    relu: nn.Module | None = None,
) -> list[Tensor]:
    """|dT/d output| for each floating-point output of ``unit``, for a chunk of ``images`` [n, 3, H, W].

    expected: the full-precision heads of these images. scales: the variance of each head.
    relu: the ReLU after the unit, where it belongs to the unit.
    """
    leaves: list[Tensor] = []
    made: list[Tensor] = []

    def cut(output: Any) -> Any:
        """The output as the start of the graph."""
        flat, spec = pytree.tree_flatten(output)
        for place, value in enumerate(flat):
            if isinstance(value, Tensor) and value.is_floating_point():
                flat[place] = value.detach().clone().requires_grad_()
                leaves.append(flat[place])
        return pytree.tree_unflatten(flat, spec)

    def after_unit(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if relu is None:
            return cut(output)
        made.append(output)
        return None

    def after_relu(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return cut(output) if any(args[0] is one for one in made) else None

    handles = [unit.register_forward_hook(after_unit)]
    if relu is not None:
        handles.append(relu.register_forward_hook(after_relu))
    try:
        with torch.enable_grad():
            heads = model(images)
            loss = sum(
                (heads[name] - target).square().flatten(1).mean(1).sum() / scales[name]
                for name, target in expected.items()
                if target.is_floating_point()
            )
            found: Sequence[Tensor | None] = [None] * len(leaves)
            if isinstance(loss, Tensor) and loss.requires_grad:
                found = torch.autograd.grad(loss, leaves, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    return [
        torch.zeros_like(leaf) if gradient is None else gradient.abs()
        for leaf, gradient in zip(leaves, found, strict=True)
    ]
