"""The library's front door."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selective_focus.detector import LaneDetector, QuantizationLog
from selective_focus.job import Progress, QuantizationJob
from selective_focus.methods import Method, find
from selective_focus.quantization.config import (
    FLOAT_BITS,
    ConfigurationError,
    QuantizationConfig,
    ReconstructionConfig,
    parse_bits,
)
from selective_focus.quantization.equalise import equalise_inputs
from selective_focus.quantization.wrap import example_input, twin_models


@dataclasses.dataclass(frozen=True)
class ResolvedOptions:
    """Every setting of one quantization, defaults filled in."""

    quantization: QuantizationConfig
    reconstruction: ReconstructionConfig
    method: Any

    def to_dict(self, method: Method) -> dict[str, Any]:
        """Plain data for a record."""
        plain: dict[str, Any] = {"quantization": dataclasses.asdict(self.quantization)}
        if method.reconstruction is not None:
            plain["reconstruction"] = dataclasses.asdict(self.reconstruction)
        if self.method is not None:
            plain["options"] = dataclasses.asdict(self.method)
        return plain


def resolve_options(
    method: str, bits: str = "w4a4", options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """All settings that ``quantize`` would use, as plain data: the defaults of a method, or a check of options."""
    found = find(method)
    return _resolve(found, bits, options or {}).to_dict(found)


def quantize(
    detector: LaneDetector,
    images: Tensor | Sequence[Tensor],
    method: str = "selective-focus",
    bits: str = "w4a4",
    seed: int = 0,
    progress: Progress = lambda done, total: None,
    **options: Any,
) -> tuple[LaneDetector, QuantizationLog]:
    """Quantize a lane detector with unlabelled images.

    Args:
        detector: any ``LaneDetector``; it is not changed.
        images: calibration images as network inputs, [M, 3, H, W] or M tensors [3, H, W].
        method: see ``selective_focus.methods.methods()``.
        bits: "w4a4", "w8a8", ...; 32 leaves weights or activations in floating point.
        seed: decides batches and dropping. On a CPU the same seed gives the same bits.
        progress: told (steps done, steps of this phase) after every step of a method that learns.
        options: any field of QuantizationConfig, of ReconstructionConfig or of the method's own options.

    Returns:
        a detector with the same decode on a quantized network, and the log.

    Raises:
        ConfigurationError: an unknown method, option or bit width; images that are no network inputs; a detector that
            does not fit its own heads.
    """
    found = find(method)
    settings = _resolve(found, bits, options)
    log = QuantizationLog(method=method, bits=bits.lower(), config=settings.to_dict(found))
    if method == "fp32":
        return detector, log
    stacked = network_inputs(images, detector)
    started = time.perf_counter()
    twins = twin_models(detector.model, example_input(stacked), settings.quantization, detector.output_layers)
    log.float_operations = twins.left_in_float
    job = QuantizationJob(
        detector,
        stacked,
        settings.quantization,
        settings.reconstruction,
        twins,
        seed,
        log,
        settings.method,
        progress,
    )
    log.equalised_inputs = equalise_inputs(
        job.model, job.chunks(), settings.quantization.activation_equalisation
    )
    found.run(job)
    log.looking_s = sum(unit.get("looking_seconds", 0.0) for unit in log.units)
    log.reconstruction_s = time.perf_counter() - started - log.looking_s
    log.peak_memory_mb = peak_memory_mb()
    return job.finish(), log


def network_inputs(images: Tensor | Sequence[Tensor], detector: LaneDetector) -> Tensor:
    """Calibration images as one tensor [M, 3, H, W] that the detector's model takes.

    Raises:
        ConfigurationError: none, or of another shape or type than ``detector.transform`` makes, or not finite.
    """
    height, width = detector.input_size
    expected = (
        f"expected network inputs [M, 3, {height}, {width}] as detector.transform makes them of camera frames"
    )
    if not isinstance(images, Tensor):
        foreign = [type(image).__name__ for image in images if not isinstance(image, Tensor)]
        if foreign:
            raise ConfigurationError(f"calibration images of type {foreign[0]}: {expected}")
        shapes = sorted({tuple(image.shape) for image in images})
        if len(shapes) != 1:
            found = " and ".join(str(list(shape)) for shape in shapes[:2]) or "none at all"
            raise ConfigurationError(f"calibration images of shapes {found}: {expected}")
        images = torch.stack(list(images))
    if images.ndim != 4 or len(images) == 0 or tuple(images.shape[1:]) != (3, height, width):
        raise ConfigurationError(
            f"calibration images of shape {list(images.shape)}: {expected}, with at least one image"
        )
    dtype = next((p.dtype for p in detector.model.parameters() if p.is_floating_point()), torch.float32)
    if images.dtype != dtype:
        raise ConfigurationError(f"calibration images of type {images.dtype}: {expected}, in {dtype}")
    if not images.isfinite().all():
        raise ConfigurationError(f"calibration images hold values that are not finite: {expected}")
    return images


def peak_memory_mb() -> float:
    """The most memory this process has ever held, in MiB; 0 where the system does not tell.

    Linux: the high-water mark of this program alone. The older ``ru_maxrss`` starts from the peak of the process
    that started it.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except (OSError, ValueError):
        pass
    try:
        import resource
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def _resolve(method: Method, bits: str, options: Mapping[str, Any]) -> ResolvedOptions:
    """Sort options into the three places where they belong.

    Raises:
        ConfigurationError: an option that none of them has.
    """
    weight_bits, activation_bits = parse_bits(bits)
    quantization: dict[str, Any] = {
        "weight_bits": weight_bits,
        "activation_bits": activation_bits,
        **method.quantization,
    }
    reconstruction: dict[str, Any] = dict(method.reconstruction or {})
    own: dict[str, Any] = {}
    places = [(_names(QuantizationConfig) - {"weight_bits", "activation_bits"}, quantization)]
    if method.reconstruction is not None:
        places.append((_names(ReconstructionConfig), reconstruction))
    if method.options is not None:
        places.append((_names(method.options), own))
    for name, value in options.items():
        place = next((place for names, place in places if name in names), None)
        if place is None:
            known = sorted(set().union(*(names for names, _ in places)))
            raise ConfigurationError(
                f"method {method.name!r} has no option {name!r}; expected one of: {', '.join(known)}"
            )
        place[name] = value
    return ResolvedOptions(
        QuantizationConfig(**quantization),
        ReconstructionConfig(**reconstruction),
        method.options(**own) if method.options is not None else None,
    )


def _names(kind: type[Any]) -> set[str]:
    return {one.name for one in dataclasses.fields(kind)}


__all__ = ["FLOAT_BITS", "peak_memory_mb", "quantize", "resolve_options"]
