"""Everything that two papers' "W4A4" may differ in, in one typed place, printed into every record."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

from selective_focus.quantization.aciq import Density
from selective_focus.quantization.affine import SymmetricRule

WeightRange = Literal["min-max", "mse", "mse-grid", "golden-section"]
ActivationRange = Literal["min-max", "average-min-max", "mse", "golden-section", "percentile", "aciq"]
ActivationImportance = Literal["uniform", "lanes"]
Rounding = Literal["straight-through", "soft"]
UnitKind = Literal["layer", "block", "network"]
KeptState = Literal["last", "best-loss", "best-lds"]
BatchSampling = Literal["without-replacement", "with-replacement"]
ScaleSteps = Literal["relative", "absolute"]

FLOAT_BITS = 32


class ConfigurationError(ValueError):
    """An option that does not exist or has an impossible value."""


def parse_bits(bits: str) -> tuple[int, int]:
    """ "w4a8" -> (4, 8). 32 means floating point.

    Raises:
        ConfigurationError: for anything but w<2..8 or 32>a<2..8 or 32>.
    """
    match = re.fullmatch(r"w(\d+)a(\d+)", bits.strip().lower())
    widths = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(2 <= width <= 8 or width == FLOAT_BITS for width in widths):
        raise ConfigurationError(
            f"bits {bits!r}: expected w<bits>a<bits> with 2 to 8 or 32, such as w4a4 or w8a8"
        )
    return widths


_CHOICES: dict[str, Any] = {
    "weight_range": WeightRange,
    "activation_range": ActivationRange,
    "activation_importance": ActivationImportance,
    "symmetric_rule": SymmetricRule,
    "aciq_density": Density,
    "unit": UnitKind,
    "rounding": Rounding,
    "kept_state": KeptState,
    "batch_sampling": BatchSampling,
    "scale_steps": ScaleSteps,
}


def _check_choices(config: Any) -> None:
    """Refuse a word that is none of a field's choices."""
    for name, choices in _CHOICES.items():
        value = getattr(config, name, None)
        if value is not None and value not in get_args(choices):
            raise ConfigurationError(f"{name}={value!r}: expected one of: {', '.join(get_args(choices))}")


@dataclass(frozen=True)
class QuantizationConfig:
    """What is quantized, where, and how its range is found.

    Every convolution, linear layer and attention product has its *inputs* quantized per tensor and its weight
    per output channel. Sums, and with them residual connections, are made in floating point from what layers
    give; a residual block's branches each quantize their common input. Our reading of "first and last layer":
    the image itself is not quantized (its pixels are 8 bits already), the first layer's weight and the output
    layers' weights and inputs are 8 bits.
    """

    weight_bits: int
    activation_bits: int
    first_layer_bits: int = 8
    output_layer_bits: int = 8
    weight_symmetric: bool = False
    symmetric_rule: SymmetricRule = "full"
    """Of symmetric weights: all codes (QDrop), or without the lowest one (``grid_from_range``)."""
    weight_per_channel: bool = True
    weight_range: WeightRange = "mse"
    """"mse": the extremes shrunk together (BRECQ); "mse-grid": every width and zero point (QDrop)."""
    weight_power: float = 2.4
    """The p of the mean |error|^p that the range search minimises (2: OMSE; 2.4: BRECQ, QDrop)."""
    activation_range: ActivationRange = "mse"
    """"mse": every width and zero point (QDrop), on a histogram; "average-min-max": mean of the chunks' extremes."""
    activation_power: float = 2.4
    activation_importance: ActivationImportance = "uniform"
    """Of the values that a range is searched on: all the same, or each by what an error in it does to the heads where
    lanes are ("lanes": ``lane_importance.py``; ours)."""
    activation_equalisation: float = 0.0
    """How far the channels of a convolution's input are brought together before they are quantized, their differences
    taken over by the weight (``equalise.py``): 0 not at all, 1 until their largest values are about the same."""
    percentile: float = 99.99
    aciq_density: Density = "laplace"
    histogram_bins: int = 2048
    quantize_image: bool = False
    quantize_products: bool = True

    def __post_init__(self) -> None:
        _check_choices(self)
        if not 0.0 <= self.activation_equalisation <= 1.0:
            raise ConfigurationError(
                f"activation_equalisation={self.activation_equalisation}: expected a value in 0..1"
            )

    def weight_bits_for(self, *, first: bool, output: bool) -> int:
        """Bits of one layer's weight; the exceptions never lower the width that was asked for."""
        if self.weight_bits == FLOAT_BITS:
            return FLOAT_BITS
        bits = self.weight_bits
        if first:
            bits = max(bits, self.first_layer_bits)
        if output:
            bits = max(bits, self.output_layer_bits)
        return bits

    def activation_bits_for(self, *, first: bool, output: bool) -> int:
        """Bits of one layer's input; 32 where it stays in floating point."""
        if self.activation_bits == FLOAT_BITS or (first and not self.quantize_image):
            return FLOAT_BITS
        if first:
            return max(self.activation_bits, 8)
        return max(self.activation_bits, self.output_layer_bits) if output else self.activation_bits


@dataclass(frozen=True)
class ReconstructionConfig:
    """How roundings and step sizes are learned. The same fields for every method; a method sets its defaults.

    ``rounding``: "straight-through" uses hard-rounded weights in the forward pass and the gradient of the
    rectified sigmoid; "soft" is the classical AdaRound schedule (soft weights and a regulariser), which needs
    thousands of iterations to settle.
    """

    unit: UnitKind = "block"
    iterations: int = 20_000
    """Optimizer steps for each unit."""
    batch_size: int = 32
    batch_sampling: BatchSampling = "without-replacement"
    """Whether an image may be in one batch twice: not in AdaRound's and BRECQ's loops, but in QDrop's."""
    rounding: Rounding = "soft"
    weight_lr: float = 1e-3
    weight_lr_end: float = 1.0
    """The learning rate of the roundings falls along a cosine to this share of itself."""
    scale_lr: float = 4e-5
    """Learning rate of the activation step sizes; falls along a cosine to 0."""
    scale_steps: ScaleSteps = "relative"
    """"relative": ``scale_lr`` is that of a step size's logarithm, so one value suits every layer. "absolute": that of
    the step size itself, as in the authors' loops of BRECQ and QDrop."""
    keep_probability: float = 1.0
    """QDrop: the probability that an element keeps its *quantized* value (1: no dropping)."""
    regulariser_weight: float = 0.01
    warmup: float = 0.2
    beta_start: float = 20.0
    beta_end: float = 2.0
    kept_state: KeptState = "last"
    """"last": the state after the last iteration. Else, of the states looked at (``looks`` times and the start), the
    best one with hard rounding and nothing dropped: "best-loss", of least loss on all calibration images; "best-lds",
    of least Lane Distortion Score on the held-back images, through the detector's own decode, with all that is
    quantized by then and the units still to come in float. The same rule for every method that is compared."""
    looks: int = 8
    held_back: int = 0
    """Calibration images, spread evenly, that nothing is learned from and no range is found on; for "best-lds"."""
    chunk_size: int = 16
    """Images per forward pass where nothing is learned."""
    compile: bool = False
    """Run each unit's forward and backward pass through ``torch.compile`` (``compiled.py``): the same result but for
    rounding. Takes up to minutes a unit first, for long reconstructions; without a compiler, a line says so."""
    memory_budget_mb: float | None = None
    """MiB for the activations of all calibration images that block-wise methods keep; None: no limit. Over it they
    go to temporary files, with the same result (``cache_plan.py``)."""

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.batch_size < 1:
            raise ConfigurationError(
                f"iterations={self.iterations}, batch_size={self.batch_size}: expected both to be at least 1"
            )
        _check_choices(self)
        if self.looks < 1 or self.held_back < 0:
            raise ConfigurationError(
                f"looks={self.looks}, held_back={self.held_back}: expected at least 1 look and at least 0 images"
            )
        if self.memory_budget_mb is not None and not self.memory_budget_mb > 0:
            raise ConfigurationError(
                f"memory_budget_mb={self.memory_budget_mb}: expected a number above 0, or none for no limit"
            )
        if self.kept_state == "best-lds" and self.held_back == 0:
            raise ConfigurationError(
                "kept_state='best-lds' with held_back=0: expected images to measure on, such as held_back=32"
            )
        if not 0.0 <= self.keep_probability <= 1.0:
            raise ConfigurationError(f"keep_probability={self.keep_probability}: expected a value in 0..1")
