"""Lane detectors, one folder each. A folder with a ``decode.py`` is found by its name: no list to edit.

A detector's ``__init__.py`` exposes

    VARIANTS                    mapping of variant name to anything that describes it, the usual choice first
    build(variant) -> LaneDetector      with fresh (random) weights, in eval mode

and its detector class a method ``load_official(state_dict_or_path)`` (see ``lane_models.checkpoint``).
Weights that ship with the project are ``lane_models/weights/<name>_<variant>.safetensors``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import cast

from torch import Tensor

from selective_focus import LaneDetector

FOLDER = Path(__file__).resolve().parent
WEIGHTS = FOLDER / "weights"


def names() -> list[str]:
    """The detectors that exist, in alphabetical order."""
    return sorted(path.parent.name for path in FOLDER.glob("*/decode.py"))


def variants(name: str) -> list[str]:
    """The variants of one detector; ``build`` takes the first unless there is one called "synthetic"."""
    return list(_package(name).VARIANTS)


def shipped_weights(name: str, variant: str) -> Path | None:
    """The weight file that ships with the project for this variant, or None."""
    path = WEIGHTS / f"{name}_{variant}.safetensors"
    return path if path.is_file() else None


def build(
    name: str, variant: str | None = None, weights: Mapping[str, Tensor] | str | Path | None = None
) -> LaneDetector:
    """A detector in eval mode.

    variant: default "synthetic" where the detector has it, else its first.
    weights: a checkpoint (path or state dict) in the official layout of that variant. Without it, the weights
        that ship with the project; a variant that ships none keeps random weights.
    Raises ValueError (unknown name or variant) or CheckpointError (weights that do not fit), in one line.
    """
    detector = untrained(name, variant)
    source = weights if weights is not None else shipped_weights(name, detector.variant)
    if source is not None:
        load = getattr(detector, "load_official", None)
        if load is None:
            raise ValueError(f"{name} has no method load_official(source): see docs/add-a-detector.md")
        load(source)
    detector.model.eval()
    return detector


def untrained(name: str, variant: str | None = None) -> LaneDetector:
    """A detector with random weights (from PyTorch's global generator), whatever ships with the project."""
    package = _package(name)
    if variant is None:
        variant = "synthetic" if "synthetic" in package.VARIANTS else next(iter(package.VARIANTS))
    if variant not in package.VARIANTS:
        raise ValueError(f"{name} has no variant {variant!r}; choose one of {', '.join(package.VARIANTS)}")
    return cast(LaneDetector, package.build(variant))


def _package(name: str) -> ModuleType:
    if name not in names():
        raise ValueError(f"there is no lane detector called {name!r}; choose one of {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")
