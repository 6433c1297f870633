"""What is learned in one unit, and QDrop's dropping while it is learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from selective_focus.quantization.affine import MaskPool
from selective_focus.quantization.layers import (
    ActivationQuantizer,
    Masks,
    QuantizedLayer,
    activation_quantizers,
    quantized_layers,
)


@dataclass
class Learnable:
    """What is learned in one unit: roundings of its weights and logarithms of its step sizes."""

    layers: list[QuantizedLayer]
    quantizers: list[ActivationQuantizer]
    roundings: list[nn.Parameter] = field(default_factory=list)
    log_scales: list[nn.Parameter] = field(default_factory=list)

    @staticmethod
    def of(unit: nn.Module, *, weights: bool, scales: bool, go_on: bool = False) -> Learnable:
        """Start to learn in ``unit`` (itself a quantized layer, or anything that holds some).

        Args:
            go_on: start from the roundings that the weights have now, not from the nearest ones.
        """
        layers = list(quantized_layers(unit).values())
        quantizers = [q for q in activation_quantizers(unit).values() if q.enabled and q.calibrated]
        found = Learnable(layers, quantizers)
        if weights:
            found.roundings = [v for layer in layers if (v := layer.learn_rounding(go_on)) is not None]
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
        self._before: list[Masks | None] = []
        self.pool = MaskPool(keep_probability, seed) if keep_probability < 1 else None

    def __enter__(self) -> dropping:
        self._before = [quantizer.masks for quantizer in self._quantizers]
        for quantizer in self._quantizers:
            quantizer.masks = self.pool
        return self

    def __exit__(self, *_: object) -> None:
        for quantizer, masks in zip(self._quantizers, self._before, strict=True):
            quantizer.masks = masks
