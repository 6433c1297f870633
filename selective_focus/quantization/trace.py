"""One forward pass, watched: in which order modules run, how often, and which feed a batch norm or a ReLU.

Works on any model without reading its source: a module *follows* another where it receives the very tensor
object that the other returned. That finds batch norms wherever they are stored, and does not mistake a sum
for a layer's output.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from selective_focus.quantization.fold import BatchNorm


@dataclass
class Trace:
    """What one forward pass of a model showed. Names are those of ``model.named_modules()``."""

    order: list[str] = field(default_factory=list)
    """Every module that ran, by its first call."""
    calls: dict[str, int] = field(default_factory=dict)
    batch_norm_of: dict[str, str] = field(default_factory=dict)
    """layer -> the batch norm that receives its output."""
    relu_of: dict[str, str] = field(default_factory=dict)
    """layer (or its batch norm) -> the ReLU module that receives its output."""

    def called_once(self, name: str) -> str:
        """The smallest enclosing module of ``name`` (itself included) that runs once per forward."""
        while name and self.calls.get(name, 0) != 1:
            name = name.rpartition(".")[0]
        return name


def trace(model: nn.Module, example: Tensor) -> Trace:
    """Run ``model`` on ``example`` [N, ...] and watch. The model is left as it was."""
    seen = Trace()
    producer: dict[int, str] = {}
    alive: list[Any] = []  # keeps ids from being used again while we compare them

    def before(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.calls[name] = seen.calls.get(name, 0) + 1
        if seen.calls[name] == 1:
            seen.order.append(name)
        source = producer.get(id(args[0])) if args else None
        if source is None:
            return
        if isinstance(module, BatchNorm):
            seen.batch_norm_of.setdefault(source, name)
        elif isinstance(module, nn.ReLU):
            seen.relu_of.setdefault(source, name)

    def after(name: str, module: nn.Module, output: Any) -> None:
        if isinstance(output, Tensor) and not list(module.children()):
            producer.setdefault(id(output), name)  # an identity passes on what another made
            alive.append(output)

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda m, a, n=name: before(n, m, a)))
        handles.append(module.register_forward_hook(lambda m, a, o, n=name: after(n, m, o)))
    try:
        with torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return seen
