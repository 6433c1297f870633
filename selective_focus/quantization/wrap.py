"""A detector's model -> its folded float twin and a quantized twin, without editing its source."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from selective_focus.quantization.config import ConfigurationError, QuantizationConfig
from selective_focus.quantization.fold import fold_batch_norm_
from selective_focus.quantization.layers import (
    QuantizedLayer,
    QuantizedMatMul,
    is_product,
    is_quantizable,
    weight_of,
)
from selective_focus.quantization.trace import Trace, trace

_ENOUGH_BITS = 8


@dataclass
class TwinModels:
    """The same network twice, batch norms folded: in floating point, and with quantizers in place."""

    float_model: nn.Module
    quantized_model: nn.Module
    trace: Trace
    """Of the folded network: names are valid in both models."""
    output_layers: list[str]
    """The layers that produce the heads."""
    left_in_float: list[str]
    """Modules with parameters of their own that no quantizer touches."""


def fold_batch_norms(model: nn.Module, example: Tensor, keep: Container[str] | None = None) -> None:
    """Fold, in place, every batch norm that directly follows a layer into that layer.

    keep: names of the norms that stay, where that is known (a saved network); None: find out.

    A layer whose output is also read elsewhere (a block that normalises inside its branch) cannot absorb its
    batch norm. A watched pass does not show that, so the outputs are compared: where folding all changes them,
    norms are folded one by one, and those that change an output stay.
    """
    modules = dict(model.named_modules())
    seen = trace(model, example)
    named = [
        (layer, norm)
        for layer, norm in seen.batch_norm_of.items()
        if seen.calls[layer] == seen.calls[norm] and is_quantizable(modules[layer])
    ]
    pairs = [(modules[layer], modules[norm]) for layer, norm in named if keep is None or norm not in keep]
    if not pairs:
        return
    if keep is not None:
        for layer, norm in pairs:
            _fold(model, layer, norm)
        return
    expected = _outputs(model, example)
    undo = [_fold(model, layer, norm) for layer, norm in pairs]
    if _same(expected, _outputs(model, example)):
        return
    for unfold in undo:
        unfold()
    for layer, norm in pairs:
        unfold = _fold(model, layer, norm)
        if not _same(expected, _outputs(model, example)):
            unfold()


def _fold(model: nn.Module, layer: Any, norm: Any) -> Callable[[], None]:
    """Fold one batch norm in place; gives a function that takes it back."""
    weight, bias, identity = weight_of(layer).detach().clone(), layer.bias, nn.Identity()
    before = None if bias is None else bias.detach().clone()
    fold_batch_norm_(layer, norm)
    _replace(model, norm, identity)

    def unfold() -> None:
        weight_of(layer).data.copy_(weight)
        if before is None:
            layer.bias = None
        else:
            layer.bias.data.copy_(before)
        _replace(model, identity, norm)

    return unfold


def _outputs(model: nn.Module, example: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [leaf for leaf in pytree.tree_leaves(model(example)) if isinstance(leaf, Tensor)]


def _same(expected: list[Tensor], found: list[Tensor]) -> bool:
    """Whether outputs agree but for float32 rounding through a deep network."""
    return all(
        bool((one - other).abs().max() <= 1e-2 * one.std(correction=0) + 1e-5)
        for one, other in zip(expected, found, strict=True)
    )


def twin_models(
    model: nn.Module,
    example: Tensor,
    config: QuantizationConfig,
    output_layers: Sequence[str] = (),
    keep_norms: Container[str] | None = None,
) -> TwinModels:
    """Copy ``model``, fold its batch norms and wrap its layers. ``model`` itself is not touched.

    Args:
        example: one network input [1, 3, H, W], used to watch in which order layers run.
        output_layers: names of the layers that produce the heads; empty: the last layer that runs.
        keep_norms: batch norms that are not folded; None: those whose folding would change the output.
    """
    float_model = copy.deepcopy(model).eval().requires_grad_(False)
    fold_batch_norms(float_model, example, keep_norms)
    seen = trace(float_model, example)
    quantized_model = copy.deepcopy(float_model)
    modules = dict(quantized_model.named_modules())
    layers = [name for name in seen.order if is_quantizable(modules[name])]
    if not layers:
        raise ConfigurationError(
            "the model has no convolution or linear layer that runs: nothing to quantize"
        )
    outputs = set(output_layers or layers[-1:])
    unknown = outputs - set(layers)
    if unknown:
        raise ConfigurationError(
            f"output_layers names {sorted(unknown)}, expected names of layers such as {layers[-1]!r}"
        )
    uses = Counter(id(weight_of(modules[name])) for name in layers)
    for name in layers:
        first, output = name == layers[0], name in outputs
        bits = config.activation_bits_for(first=first, output=output)
        own = uses[id(weight_of(modules[name]))] == 1
        wrapped = QuantizedLayer(
            modules[name],
            config.weight_bits_for(first=first, output=output),
            bits,
            equalisable=config.activation_equalisation > 0 and own and _can_be_equalised(modules[name], bits),
        )
        _replace(quantized_model, modules[name], wrapped)
    if config.quantize_products:
        for name in seen.order:
            if is_product(modules[name]):
                _replace(quantized_model, modules[name], QuantizedMatMul(config.activation_bits))
    quantized_model.requires_grad_(False)
    left = _left_in_float(quantized_model, seen)
    return TwinModels(float_model, quantized_model, seen, sorted(outputs), left)


def _can_be_equalised(layer: nn.Module, bits: int) -> bool:
    """A convolution of one group whose input has so few bits that there is something to win.

    Linear layers are left as they are: equalising those of CLRNet cost more than the convolutions gained.
    """
    return weight_of(layer).ndim > 2 and getattr(layer, "groups", 1) == 1 and bits < _ENOUGH_BITS


def _left_in_float(model: nn.Module, seen: Trace) -> list[str]:
    """Modules that ran, hold parameters directly, and are neither quantized nor inside something that is."""
    inside = tuple(f"{name}." for name, m in model.named_modules() if isinstance(m, QuantizedLayer))
    left = []
    for name, module in model.named_modules():
        plain = not isinstance(module, QuantizedLayer) and not name.startswith(inside)
        own = any(True for _ in module.parameters(recurse=False))
        if name in seen.calls and plain and own:
            left.append(f"{name} ({type(module).__name__})")
    return left


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` wherever ``old`` is registered below ``model`` (a module may have several names)."""
    for parent in list(model.modules()):
        if parent is new:
            continue
        for key, child in list(parent._modules.items()):
            if child is old:
                parent._modules[key] = new


def example_input(images: Tensor) -> Tensor:
    """One image as a batch, for tracing."""
    with torch.no_grad():
        return images[:1].clone()
