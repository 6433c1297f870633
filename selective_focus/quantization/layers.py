"""Modules that stand in for a model's own layers: the same call, with quantized weight and input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from selective_focus.detector import MatMul
from selective_focus.quantization.affine import Grid, fake_quantize, fake_quantize_drop
from selective_focus.quantization.config import FLOAT_BITS, ConfigurationError, Rounding
from selective_focus.quantization.rounding import (
    floor_codes,
    hard_weight,
    initial_v,
    soft_weight,
    straight_through_weight,
    unsettled_share,
    v_of_rounded,
)


class Masks(Protocol):
    """Where an activation quantizer gets its masks from."""

    def draw(self, like: Tensor) -> Tensor | None:
        """A mask for ``like``: floats, 1 where it is quantized; None: everywhere."""
        ...


class Observer(Protocol):
    """What looks at an activation to find its range."""

    def update(self, x: Tensor) -> None:
        """One more batch, a tensor of any shape."""
        ...


class ActivationQuantizer(nn.Module):
    """Per-tensor quantizer of an activation: unsigned codes 0..2^bits-1 with a zero point.

    The step size is stored as its logarithm, so one learning rate suits every layer. Until a grid is set, and
    while ``enabled`` is False, tensors pass unchanged.
    """

    log_scale: Tensor
    zero_point: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.qmin, self.qmax = 0, 2**bits - 1
        self.log_scale = nn.Parameter(torch.zeros(()), requires_grad=False)
        self.register_buffer("zero_point", torch.zeros(()))
        self.enabled = bits != FLOAT_BITS
        self.calibrated = False
        self.observer: Observer | None = None
        self.masks: Masks | None = None
        """While set, elements are quantized with the pool's probability only (QDrop)."""

    @property
    def scale(self) -> Tensor:
        """The step size, always positive."""
        return self.log_scale.exp()

    def get_extra_state(self) -> Tensor:
        """What a state dict must hold beside the grid: bits, calibrated, enabled."""
        return torch.tensor([self.bits, int(self.calibrated), int(self.enabled)])

    def set_extra_state(self, state: Tensor) -> None:
        """Take over a saved quantizer's switches.

        Raises:
            ConfigurationError: it was saved for another number of bits.
        """
        bits, calibrated, enabled = _whole_numbers(state, 3, "an activation quantizer")
        if bits != self.bits:
            raise ConfigurationError(f"the saved activation quantizer has {bits} bits: expected {self.bits}")
        self.calibrated, self.enabled = bool(calibrated), bool(enabled)

    def set_grid(self, grid: Grid) -> None:
        """Use this range from now on."""
        if (grid.qmin, grid.qmax) != (self.qmin, self.qmax):
            raise ValueError(f"activation codes {grid.qmin}..{grid.qmax}: expected {self.qmin}..{self.qmax}")
        self.log_scale.data.copy_(grid.scale.log())
        self.zero_point.copy_(grid.zero_point)
        self.calibrated = True

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape -> the same shape, on the grid."""
        if self.observer is not None:
            seen = x.view_as(x)  # its gradient is what comes through this place alone
            self.observer.update(seen)
            return seen
        if not (self.enabled and self.calibrated):
            return x
        if torch.is_grad_enabled() or self.masks is not None:
            keep = None if self.masks is None else self.masks.draw(x)
            return fake_quantize_drop(x, self.scale, self.zero_point, self.qmin, self.qmax, keep)
        return fake_quantize(x, Grid(self.scale, self.zero_point, self.qmin, self.qmax))


class QuantizedLayer(nn.Module):
    """A convolution, linear or other layer with one ``weight``, its weight and first input quantized.

    Between reconstructions ``layer.weight`` is a plain tensor on the grid; nothing is quantized again in the
    forward pass. While its rounding is learned, ``live_weight`` holds this step's differentiable weight.
    """

    layer: nn.Module
    float_weight: Tensor
    weight_scale: Tensor
    weight_zero_point: Tensor
    input_scale: Tensor | None
    """What each channel of the input is divided by before it is quantized [C]; the weight has been multiplied by it.
    None: not at all (``equalise.py``)."""

    def __init__(
        self, layer: nn.Module, weight_bits: int, activation_bits: int, equalisable: bool = False
    ) -> None:
        super().__init__()
        self.layer = layer
        self.input = ActivationQuantizer(activation_bits)
        self.weight_bits = weight_bits
        self.channel_axis = 1 if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d) else 0
        self.register_buffer("float_weight", weight_of(layer).detach().clone(), persistent=False)
        self.register_buffer("weight_scale", torch.ones(()))
        self.register_buffer("weight_zero_point", torch.zeros(()))
        ones = self.float_weight.new_ones(self._input_channels) if equalisable else None
        self.register_buffer("input_scale", ones)
        self._codes: tuple[int, int] | None = None
        self.rounding: nn.Parameter | None = None
        self._floor: Tensor | None = None
        self.live_weight: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        # a model may read an attribute of its own layer (out_features, kernel_size, ...)
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)

    def forward(self, x: Tensor, *rest: Any) -> Any:
        """The layer's own call, its first argument quantized."""
        if self.input_scale is not None:
            x = x / self.input_scale.view(-1, *[1] * (-self.input_axis - 1))
        x = self.input(x)
        if self.live_weight is None:
            return self.layer(x, *rest)
        return torch.func.functional_call(self.layer, {"weight": self.live_weight}, (x, *rest))

    @property
    def weight_grid(self) -> Grid | None:
        """The grid of the weight, for its rows; None where it is not quantized."""
        return None if self._codes is None else Grid(self.weight_scale, self.weight_zero_point, *self._codes)

    def get_extra_state(self) -> Tensor:
        """What a state dict must hold beside scales and zero points: bits, whether there is a grid, its codes."""
        qmin, qmax = self._codes or (0, 0)
        return torch.tensor([self.weight_bits, int(self._codes is not None), qmin, qmax])

    def set_extra_state(self, state: Tensor) -> None:
        """Take over a saved grid; a rounding that was being learned is given up.

        Raises:
            ConfigurationError: it was saved for another number of bits.
        """
        bits, quantized, qmin, qmax = _whole_numbers(state, 4, "a quantized layer")
        if bits != self.weight_bits:
            raise ConfigurationError(f"the saved weight has {bits} bits: expected {self.weight_bits}")
        self._codes = (qmin, qmax) if quantized else None
        self.rounding = self._floor = self.live_weight = None

    @property
    def _input_channels(self) -> torch.Size:
        """[C], of a layer of one group."""
        return self.float_weight.movedim(1 - self.channel_axis, 0).shape[:1]

    @property
    def input_axis(self) -> int:
        """Where a convolution's input has its channels, with a batch dimension or without."""
        return 1 - self.float_weight.ndim

    def divide_input(self, scale: Tensor) -> None:
        """Divide the input by ``scale`` [C] as well from now on, channel by channel, and multiply the float weight.

        For a convolution of one group that was given an ``input_scale``, before its weight has a grid.
        """
        assert self.input_scale is not None
        self._multiply_float_weight(scale)
        self.use_float_weight()
        self.input_scale.mul_(scale)

    def _multiply_float_weight(self, scale: Tensor) -> None:
        columns = self.float_weight.movedim(1 - self.channel_axis, -1)
        self.float_weight = (columns * scale).movedim(-1, 1 - self.channel_axis).contiguous()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Make room first for what a quantized layer has and a freshly wrapped one has not.

        That is a scale for every output channel, one for every channel of the input where they were equalised, and the
        bias that bias correction may have added.
        """
        divided = state_dict.get(f"{prefix}input_scale")
        if isinstance(divided, Tensor) and self.input_scale is None and divided.shape == self._input_channels:
            self.input_scale = self.float_weight.new_ones(self._input_channels)
        shapes = (torch.Size(), self.rows(self.float_weight).shape[:1])
        for name in ("weight_scale", "weight_zero_point"):
            stored = state_dict.get(prefix + name)
            if isinstance(stored, Tensor) and stored.shape in shapes:
                setattr(self, name, getattr(self, name).new_empty(stored.shape))
        bias = state_dict.get(f"{prefix}layer.bias")
        if isinstance(bias, Tensor) and bias.ndim == 1 and self.layer.bias is None:
            self.layer.bias = nn.Parameter(self.float_weight.new_empty(bias.shape), requires_grad=False)
        before = None if self.input_scale is None else self.input_scale.clone()
        super()._load_from_state_dict(state_dict, prefix, *rest)
        if before is not None and self.input_scale is not None:
            self._multiply_float_weight(self.input_scale / before)

    def rows(self, weight: Tensor) -> Tensor:
        """The weight with its output channels first."""
        return weight.movedim(self.channel_axis, 0)

    def set_weight_grid(self, grid: Grid) -> None:
        """Use this grid and round every weight to its nearest point."""
        self._codes = grid.qmin, grid.qmax
        self.weight_scale = grid.scale.detach().clone()
        self.weight_zero_point = grid.zero_point.detach().clone()
        self._store(fake_quantize(self.rows(self.float_weight), grid))

    def use_float_weight(self) -> None:
        """Put the float weight back (its grid is kept)."""
        weight_of(self.layer).data.copy_(self.float_weight)

    def learn_rounding(self, go_on: bool = False) -> nn.Parameter | None:
        """Start to learn up or down for every weight; None where the weight is not quantized.

        Args:
            go_on: start from the rounding that the weight has now, not from the nearest one.
        """
        grid = self.weight_grid
        if grid is None:
            return None
        rows = self.rows(self.float_weight)
        self._floor = floor_codes(rows, grid)
        v = initial_v(rows, grid)
        if go_on:
            v = v_of_rounded(v, self.rows(weight_of(self.layer)).detach(), self._floor, grid)
        self.rounding = nn.Parameter(v)
        return self.rounding

    def prepare_step(self, rounding: Rounding) -> None:
        """Compute this step's differentiable weight once, however often the layer is called in it."""
        grid = self.weight_grid
        if self.rounding is None or grid is None or self._floor is None:
            return
        weigh = straight_through_weight if rounding == "straight-through" else soft_weight
        weight = weigh(self.rounding, self._floor, grid)
        self.live_weight = weight.movedim(0, self.channel_axis)

    def use_hard_weight(self) -> None:
        """Store the weight as the learned rounding has it now, as a plain tensor on the grid."""
        self.live_weight = None
        grid = self.weight_grid
        if self.rounding is not None and grid is not None and self._floor is not None:
            self._store(hard_weight(self.rounding, self._floor, grid))

    def settle(self) -> float:
        """Finish learning: keep the hard weight; give the share of roundings that were not yet 0 or 1."""
        if self.rounding is None:
            return 0.0
        self.use_hard_weight()
        share = unsettled_share(self.rounding)
        self.rounding = self._floor = None
        return share

    @torch.no_grad()
    def _store(self, rows: Tensor) -> None:
        weight_of(self.layer).data.copy_(rows.detach().movedim(0, self.channel_axis))


class QuantizedMatMul(nn.Module):
    """A product of two activations, both quantized."""

    def __init__(self, activation_bits: int) -> None:
        super().__init__()
        self.left = ActivationQuantizer(activation_bits)
        self.right = ActivationQuantizer(activation_bits)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """As ``MatMul``."""
        product: Tensor = self.left(left) @ self.right(right)
        return product


@contextmanager
def float_weights(layers: Iterable[QuantizedLayer]) -> Iterator[None]:
    """While entered, the layers use their float weights; what they had comes back afterwards."""
    stored = [(layer, weight_of(layer.layer).detach().clone()) for layer in layers]
    try:
        for layer, _ in stored:
            layer.use_float_weight()
        yield
    finally:
        for layer, weight in stored:
            weight_of(layer.layer).data.copy_(weight)


@contextmanager
def not_quantizing(quantizers: Iterable[ActivationQuantizer]) -> Iterator[None]:
    """While entered, activations pass these quantizers unchanged."""
    before = [(quantizer, quantizer.enabled) for quantizer in quantizers]
    try:
        for quantizer, _ in before:
            quantizer.enabled = False
        yield
    finally:
        for quantizer, enabled in before:
            quantizer.enabled = enabled


def is_quantizable(module: nn.Module) -> bool:
    """Whether a module has one weight of two or more dimensions, applied to its first argument.

    Convolutions, transposed convolutions and linear layers; any other module says so with an attribute
    ``quantizable = True`` (a deformable convolution, say). It is then linear in that argument, with the channels of
    both where a layer of its kind has them.
    """
    kinds = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear)
    return isinstance(module, kinds) or bool(getattr(module, "quantizable", False))


def is_product(module: nn.Module) -> bool:
    """Whether a module multiplies two activations."""
    return isinstance(module, MatMul)


def quantized_modules(model: nn.Module) -> list[str]:
    """Names of the quantized layers and products inside ``model``."""
    return [name for name, m in model.named_modules() if isinstance(m, QuantizedLayer | QuantizedMatMul)]


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLayer]:
    """The quantized layers inside ``model`` by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, QuantizedLayer)}


def activation_quantizers(model: nn.Module) -> dict[str, ActivationQuantizer]:
    """The activation quantizers inside ``model`` by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, ActivationQuantizer)}


def _whole_numbers(state: Any, count: int, what: str) -> list[int]:
    """The numbers of a saved ``_extra_state``.

    Raises:
        ConfigurationError: it is not ``count`` whole numbers.
    """
    if not isinstance(state, Tensor) or state.dtype != torch.int64 or state.shape != (count,):
        raise ConfigurationError(f"the saved state of {what}: expected {count} whole numbers")
    numbers: list[int] = state.tolist()
    return numbers


def weight_of(layer: nn.Module) -> Tensor:
    """A layer's weight, as the tensor that its forward pass uses."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight
