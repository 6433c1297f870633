"""A quantized detector in a file: its state as safetensors, and how it was made as JSON in the file's header.

The network's source is not in the file. To load, build the same detector (weights do not matter) and hand it over: it
is folded and wrapped as it was before, and the state is laid in, strictly. Heads are the same bit for bit.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from selective_focus.detector import LaneDetector, QuantizationLog
from selective_focus.quantization.affine import fake_quantize
from selective_focus.quantization.config import ConfigurationError, QuantizationConfig
from selective_focus.quantization.layers import (
    activation_quantizers,
    quantized_layers,
    quantized_modules,
    weight_of,
)
from selective_focus.quantization.wrap import twin_models

HEADER = "selective_focus"
FORMAT = 1


class SavedStateError(ConfigurationError):
    """A file that holds no quantized detector, or that of another one; the message is one line."""


@dataclass(frozen=True)
class SavedDescription:
    """What a file of a quantized detector says about it."""

    detector: str
    variant: str
    method: str
    bits: str
    config: dict[str, Any]
    """The resolved configuration, as in the log of ``quantize``."""
    grids: dict[str, dict[str, Any]]
    """Layer or quantizer -> bits, codes "qmin..qmax", and whether scales are per channel or per tensor."""


def save_quantized(detector: LaneDetector, log: QuantizationLog, path: str | Path) -> None:
    """Write what ``quantize`` gave, a detector and its log, to ``path``; whole or not at all.

    Raises:
        SavedStateError: nothing in the detector is quantized, or its state is not made of tensors.
        OSError: the file cannot be written.
    """
    path = Path(path)
    if not quantized_modules(detector.model):
        raise SavedStateError(
            f"{path}: detector {detector.name!r} is not quantized; save what selective_focus.quantize gave"
        )
    state = detector.model.state_dict()
    foreign = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if foreign:
        raise SavedStateError(f"{path}: {_first(foreign)} in the model's state: expected tensors only")
    # A layer with two names is stored twice: the format refuses tensors that share memory.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    description = SavedDescription(
        detector.name, detector.variant, log.method, log.bits, log.config, _grids(detector.model)
    )
    header = json.dumps({"format": FORMAT, **dataclasses.asdict(description)}, sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, unfinished, {HEADER: header})
        unfinished.replace(path)
    except SafetensorError as error:
        raise OSError(f"{path}: cannot be written ({' '.join(str(error).split())[:120]})") from None
    finally:
        unfinished.unlink(missing_ok=True)


def saved_description(path: str | Path) -> SavedDescription:
    """What a file says about the quantized detector in it, without loading it.

    Raises:
        SavedStateError: the file is missing, damaged or something else.
    """
    return _read(Path(path))[0]


def load_quantized(detector: LaneDetector, path: str | Path) -> LaneDetector:
    """The quantized detector that ``save_quantized`` wrote, on the device where ``detector`` is.

    Args:
        detector: the detector that was quantized, freshly built: the same name and variant; its weights do not matter
            and it is not changed.

    Raises:
        SavedStateError: the file is missing, damaged, something else, or belongs to another detector.
    """
    path = Path(path)
    description, state = _read(path)
    own = (detector.name, detector.variant)
    if (description.detector, description.variant) != own:
        saved = f"{description.detector} {description.variant}"
        raise SavedStateError(
            f"{path}: holds a quantized {saved}, not {' '.join(own)}; build {saved} and load it into that"
        )
    model = _wrapped_again(detector, description, state, path)
    _check_fit(model, state, path)
    try:
        model.load_state_dict(state)
        _check_grids(model)
    except ValueError as error:
        raise SavedStateError(f"{path}: {error}; expected a file of {' '.join(own)} as it is now") from error
    for layer in quantized_layers(model).values():
        layer.float_weight.copy_(weight_of(layer.layer).detach())  # the original's is not in the file
    found = copy.copy(detector)
    found.model = model.eval().requires_grad_(False)
    return found


def _wrapped_again(
    detector: LaneDetector, description: SavedDescription, state: Mapping[str, Tensor], path: Path
) -> nn.Module:
    """A copy of the detector's network with the quantizers that the file's was given."""
    try:
        config = QuantizationConfig(**description.config["quantization"])
    except (KeyError, TypeError, ConfigurationError) as error:
        reason = f"its configuration is not understood ({error})"
        raise SavedStateError(f"{path}: {reason}; load it with the version that wrote it") from None
    device = next((p.device for p in detector.model.parameters()), torch.device("cpu"))
    kept = {name.rpartition(".")[0] for name in state if name.endswith(".running_mean")}
    example = torch.zeros(1, 3, *detector.input_size, device=device)
    return twin_models(detector.model, example, config, detector.output_layers, kept).quantized_model


def _check_fit(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Raises SavedStateError for a state that has other names or sizes than the model."""
    expected = {name: value.shape for name, value in model.state_dict().items()}
    added: dict[str, torch.Size] = {}  # what a layer makes room for when it loads
    named = _names_in_state(model)
    for layer in quantized_layers(model).values():
        channels = layer.rows(layer.float_weight).shape[:1]
        for stored in (layer.weight_scale, layer.weight_zero_point):
            added |= dict.fromkeys(named[id(stored)], channels)
        if layer.layer.bias is None:
            groups = getattr(layer.layer, "groups", 1) if layer.channel_axis else 1
            weights = named[id(layer.layer.weight)]
            biases = [f"{name.removesuffix('weight')}bias" for name in weights]
            added |= dict.fromkeys(biases, torch.Size([channels[0] * groups]))
    shapes = [
        f"{name} {list(value.shape)}, not {list(added.get(name, expected.get(name, ())))}"
        for name, value in state.items()
        if (name in expected or name in added) and value.shape not in (expected.get(name), added.get(name))
    ]
    problems = {
        "is missing": [name for name in expected if name not in state],
        "is unknown": [name for name in state if name not in expected and name not in added],
        "is the size in the file": shapes,
        "holds values that are not finite": [
            name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()
        ],
    }
    for words, names in problems.items():
        if names:
            raise SavedStateError(
                f"{path}: {_first(names)} {words}; expected the state of the detector as it is built now; "
                f"quantize it again and save it"
            )


def _names_in_state(model: nn.Module) -> dict[int, list[str]]:
    """id of a tensor of the model -> its names in the state, which a model may choose otherwise than its modules'."""
    names: dict[int, list[str]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        names.setdefault(id(value), []).append(name)
    return names


def _check_grids(model: nn.Module) -> None:
    """Raises ValueError for a weight that is not on its grid, or a scale that is none."""
    for name, layer in quantized_layers(model).items():
        grid, rows = layer.weight_grid, layer.rows(weight_of(layer.layer).detach())
        if grid is not None and not torch.equal(fake_quantize(rows, grid), rows):
            raise SavedStateError(f"the weight of {name} is not on its grid")
        scale = layer.input_scale
        if scale is not None and not bool(((scale > 0) & (1 / scale).isfinite()).all()):
            raise SavedStateError(f"the input of {name} is divided by a number that is not above 0")


def _grids(model: nn.Module) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, layer in quantized_layers(model).items():
        grid = layer.weight_grid
        if grid is not None:
            kind = "per channel" if grid.per_channel else "per tensor"
            found[name] = {"bits": layer.weight_bits, "codes": f"{grid.qmin}..{grid.qmax}", "scales": kind}
    divided = {name for name, layer in quantized_layers(model).items() if layer.input_scale is not None}
    for name, quantizer in activation_quantizers(model).items():
        if quantizer.calibrated and quantizer.enabled:
            span = f"{quantizer.qmin}..{quantizer.qmax}"
            found[name] = {"bits": quantizer.bits, "codes": span, "scales": "per tensor"}
            if name.removesuffix(".input") in divided:
                found[name]["scales"] = "per tensor, its channels divided by input_scale first"
    return found


def _read(path: Path) -> tuple[SavedDescription, dict[str, Tensor]]:
    """Raises SavedStateError for anything that ``save_quantized`` did not write."""
    if not path.is_file():
        raise SavedStateError(f"{path}: no such file; write one with selective_focus.save_quantized")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise SavedStateError(
            f"{path}: truncated, or no safetensors file ({reason}); copy or save it again"
        ) from None
    if header is None:
        raise SavedStateError(
            f"{path}: holds no quantized detector; expected a file that selective_focus.save_quantized wrote"
        )
    try:
        fields = json.loads(header)
        version = fields.pop("format")
        description = SavedDescription(**fields)
        known = all(isinstance(getattr(description, f.name), str) for f in _WORDS)
        if not (known and isinstance(description.config, dict)):
            raise TypeError("a field of another type")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SavedStateError(f"{path}: its description is not understood ({error}); save it again") from None
    if version != FORMAT:
        raise SavedStateError(
            f"{path}: format {version}, expected {FORMAT}; load it with the version that wrote it"
        )
    return description, state


_WORDS = [field for field in dataclasses.fields(SavedDescription) if field.type in ("str", str)]


def _first(names: Sequence[str]) -> str:
    return names[0] + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")
