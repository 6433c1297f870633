"""What a run is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.data import TestData, load_data
from bench.detectors import build
from bench.profile import Profile
from selective_focus import LaneDetector, QuantizationLog
from selective_focus.methods import find
from selective_focus.quantize import quantize, resolve_options


@dataclass(frozen=True)
class Parts:
    """What the runner drives; tests put small stand-ins here."""

    build: Callable[[str, Profile], tuple[LaneDetector, str]]
    """Detector name and profile -> the detector, and words for where its weights come from."""
    load_data: Callable[[Profile, Callable[[int, int], None]], TestData]
    quantize: Callable[..., tuple[LaneDetector, QuantizationLog]]
    resolve_options: Callable[[str, str, Mapping[str, Any]], dict[str, Any]]
    """Method, bits and the options given -> all its options, defaults filled in."""
    learns: Callable[[str], bool]
    """Whether a method reconstructs anything. Those that do not run first; seeds change nothing in them."""


def standard_parts() -> Parts:
    """What a run is made of, outside tests."""
    return Parts(
        build=lambda name, chosen: build(name, chosen.variant, chosen.weights, chosen.dataset),
        load_data=load_data,
        quantize=quantize,
        resolve_options=resolve_options,
        learns=lambda method: find(method).reconstruction is not None,
    )
