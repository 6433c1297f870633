"""The affine quantizer: grids, fake quantization and its gradients.

q = clip(round(x / s) + z, qmin, qmax),  y = (q - z) * s,  with round = half to even. Rounding comes first and
the zero point is added after it: round(x / s + z) decides ties differently when z is odd. Because z is a
whole number the clip is done as clip(round(x / s), qmin - z, qmax - z), which gives the same values in fewer
passes over memory.

Scales and zero points are 0-d (one per tensor) or [C] (one per slice of the first dimension, i.e. per output
channel of a Conv or Linear weight).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SCALE_FLOOR = 1e-8
"""Smallest scale of a grid: a constant tensor must not divide by zero."""

SymmetricRule = Literal["full", "restricted"]


@dataclass(frozen=True, eq=False)
class Grid:
    """The values a quantized tensor may take: (q - zero_point) * scale for whole q in qmin..qmax.

    scale, zero_point: float32, 0-d or [C]; zero_point holds whole numbers.
    """

    scale: Tensor
    zero_point: Tensor
    qmin: int
    qmax: int

    def __post_init__(self) -> None:
        if self.qmin >= self.qmax:
            raise ValueError(f"a grid needs qmin < qmax, not qmin={self.qmin} and qmax={self.qmax}")
        if self.scale.ndim > 1 or self.zero_point.ndim > 1:
            raise ValueError(f"a grid's scale must be 0-d or [C], not {list(self.scale.shape)}")

    @property
    def per_channel(self) -> bool:
        """Whether each slice of the first dimension has its own scale."""
        return self.scale.ndim == 1

    def to(self, device: torch.device | str) -> Grid:
        """The same grid on another device."""
        return Grid(self.scale.to(device), self.zero_point.to(device), self.qmin, self.qmax)


def along_first(value: Tensor, x: Tensor) -> Tensor:
    """A per-channel [C] value shaped [C, 1, 1, ...] to broadcast against x; 0-d values pass unchanged."""
    return value if value.ndim == 0 else value.view(-1, *[1] * (x.ndim - 1))


def integer_range(bits: int, symmetric: bool, rule: SymmetricRule = "full") -> tuple[int, int]:
    """Smallest and largest code: 0..2^b-1, or signed -2^(b-1)..2^(b-1)-1 ('restricted' drops the lowest)."""
    if not 2 <= bits <= 16:
        raise ValueError(f"bits must be 2..16, not {bits}")
    if not symmetric:
        return 0, 2**bits - 1
    top = 2 ** (bits - 1) - 1
    return (-top if rule == "restricted" else -top - 1), top


def grid_from_range(
    lo: Tensor, hi: Tensor, bits: int, symmetric: bool = False, rule: SymmetricRule = "full"
) -> Grid:
    """The grid that covers lo..hi, widened to contain zero so that zero stays exact.

    lo, hi: 0-d or [C]. Asymmetric: s = (hi - lo) / (2^b - 1), z = round(-lo / s). Symmetric, with a =
    max(-lo, hi): rule 'full' is QDrop's s = a / ((2^b - 1) / 2) on -2^(b-1)..2^(b-1)-1, where +a lies half a
    step above the top code and is clipped; 'restricted' is s = a / (2^(b-1) - 1) on the range without its
    lowest code.
    """
    scale, zero_point = scale_and_zero_point(lo, hi, bits, symmetric, rule)
    return Grid(scale, zero_point, *integer_range(bits, symmetric, rule))


def scale_and_zero_point(
    lo: Tensor, hi: Tensor, bits: int, symmetric: bool = False, rule: SymmetricRule = "full"
) -> tuple[Tensor, Tensor]:
    """The rule of ``grid_from_range`` for ranges of any shape (a search tries many at once)."""
    qmin, qmax = integer_range(bits, symmetric, rule)
    lo, hi = lo.detach().float().clamp(max=0), hi.detach().float().clamp(min=0)
    if symmetric:
        half_width = (2**bits - 1) / 2 if rule == "full" else float(qmax)
        scale = (torch.maximum(-lo, hi) / half_width).clamp(min=SCALE_FLOOR)
        return scale, torch.zeros_like(scale)
    scale = ((hi - lo) / (qmax - qmin)).clamp(min=SCALE_FLOOR)
    return scale, (torch.round(-lo / scale) + 0.0).clamp(qmin, qmax)


def codes(x: Tensor, grid: Grid) -> Tensor:
    """The integer codes of x as int32, in qmin..qmax."""
    scale, zero_point = along_first(grid.scale, x), along_first(grid.zero_point, x)
    return torch.round(x.detach() / scale).add_(zero_point).clamp_(grid.qmin, grid.qmax).to(torch.int32)


def dequantize(q: Tensor, grid: Grid) -> Tensor:
    """The real values (q - zero_point) * scale of codes q."""
    return (q.to(grid.scale.dtype) - along_first(grid.zero_point, q)) * along_first(grid.scale, q)


def _reach(zero_point: Tensor, qmin: int, qmax: int) -> tuple[Any, Any]:
    """The smallest and largest multiple of the scale that a grid reaches around its zero point."""
    if zero_point.ndim == 0 and zero_point.device.type == "cpu" and not torch.compiler.is_compiling():
        # bounds as plain numbers: ten times faster on a processor than bounds as tensors
        offset = float(zero_point)
        return qmin - offset, qmax - offset
    return qmin - zero_point, qmax - zero_point


def _on_grid(x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int) -> Tensor:
    """clip(round(x / s)) * s, scale and zero point already shaped to broadcast."""
    return torch.div(x, scale).round_().clamp_(*_reach(zero_point, qmin, qmax)).mul_(scale)


class _FakeQuantize(torch.autograd.Function):
    """Fake quantization with gradients to x and the scale, optionally applied to the kept elements only.

    Saves x alone (which the layer before keeps anyway, unless x was equalised) and works out the rest again in the
    backward pass. Masks are floats of zeros and ones: torch's kernels that mix booleans and floats are many times
    slower than plain float arithmetic, on a processor by 10 and more (``where`` 8.5 ms, ``lerp`` 0.7 ms for 2 M
    elements).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        qmin: int,
        qmax: int,
        keep: Tensor | None,
        grad_factor: float,
        clip_first: bool,
    ) -> Tensor:
        ctx.save_for_backward(x, scale, zero_point, keep)
        ctx.constants = (qmin, qmax, grad_factor, clip_first)
        y = _on_grid(x, along_first(scale, x), along_first(zero_point, x), qmin, qmax)
        return y if keep is None else torch.lerp(x, y, keep, out=y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, zero_point, keep = ctx.saved_tensors
        qmin, qmax, grad_factor, clip_first = ctx.constants
        offset = along_first(zero_point, x)
        ratio = torch.div(x, along_first(scale, x))
        rounded = torch.round(ratio)
        reach = _reach(offset, qmin, qmax)
        clipped = torch.clamp(rounded, *reach)
        # 1.0 where the gradient passes, 0.0 elsewhere
        inside = torch.clamp(ratio, *reach).eq_(ratio) if clip_first else rounded.eq_(clipped)
        grad_x = grad_scale = None
        if ctx.needs_input_grad[1]:
            # d y / d s is round(x/s) - x/s inside the range and the clipped multiple outside (LSQ, eq. 3)
            slope = clipped.sub_(ratio.mul_(inside)).mul_(upstream)
            if keep is not None:
                slope.mul_(keep)
            total = slope.sum() if scale.ndim == 0 else slope.flatten(1).sum(1)
            grad_scale = total * grad_factor
        if ctx.needs_input_grad[0]:
            grad_x = inside.mul_(upstream)
            if keep is not None:
                torch.lerp(upstream, grad_x, keep, out=grad_x)
        return grad_x, grad_scale, None, None, None, None, None, None


def fake_quantize(x: Tensor, grid: Grid) -> Tensor:
    """x on the grid, same shape; straight-through gradient to x, none to the grid.

    The gradient passes where the unclipped code lies in the range, bounds included.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        return fake_quantize_drop(x, grid.scale.detach(), grid.zero_point, grid.qmin, grid.qmax, None)
    scale, zero_point = along_first(grid.scale.detach(), x), along_first(grid.zero_point, x)
    return _on_grid(x, scale, zero_point, grid.qmin, grid.qmax)


def fake_quantize_drop(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    qmin: int,
    qmax: int,
    keep_mask: Tensor | None,
    grad_factor: float = 1.0,
    clip_first: bool = False,
) -> Tensor:
    """QDrop's activation quantizer: x on the grid where ``keep_mask`` is true, x itself elsewhere.

    x: any shape; scale, zero_point: 0-d or [C], scale positive; keep_mask: shape of x, boolean or (faster)
    floats of zeros and ones, None for all. Gradient to x (straight-through) and to scale (LSQ's, times
    grad_factor, from kept elements only). Wei et al. 2022.
    """
    keep = None if keep_mask is None else keep_mask.to(x.dtype)
    if torch.compiler.is_compiling() and grad_factor == 1 and not clip_first:
        return _traceable(x, scale, zero_point, qmin, qmax, keep)
    arguments = (x, scale, zero_point, qmin, qmax, keep, grad_factor, clip_first)
    y: Tensor = _FakeQuantize.apply(*arguments)  # type: ignore[no-untyped-call]
    return y


def _traceable(
    x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, keep: Tensor | None
) -> Tensor:
    """``fake_quantize_drop`` in plain operations, which a compiler fuses: the same values and gradients."""
    offset, step = along_first(zero_point, x), along_first(scale, x)
    ratio = x / step
    rounded = ratio + (torch.round(ratio) - ratio).detach()
    y = torch.clamp(rounded, qmin - offset, qmax - offset) * step
    return y if keep is None else torch.lerp(x, y, keep)


def lsq_fake_quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    qmin: int,
    qmax: int,
    grad_factor: float = 1.0,
    clip_first: bool = False,
) -> Tensor:
    """Fake quantization with a learned scale (LSQ, Esser et al. 2020): gradient to x and to scale.

    grad_factor: ``lsq_grad_factor`` for LSQ and QDrop, 1 for BRECQ. clip_first: LSQ's own gradient, which
    treats x / s as clipped as soon as it leaves the range; QDrop and BRECQ (False) round it first, so that
    values less than half a step outside still count as inside. The forward value is the same.
    """
    return fake_quantize_drop(x, scale, zero_point, qmin, qmax, None, grad_factor, clip_first)


def lsq_grad_factor(numel: int, qmax: int) -> float:
    """1 / sqrt(numel * qmax), numel of the whole batch tensor (LSQ, section 2.2)."""
    return 1 / math.sqrt(numel * qmax)


def lsq_initial_scale(x: Tensor, qmax: int) -> Tensor:
    """LSQ's start 2 mean|x| / sqrt(qmax), 0-d."""
    return 2 * x.detach().abs().mean() / math.sqrt(qmax)


def mix_inputs(quantized: Tensor, full_precision: Tensor, keep_mask: Tensor | None) -> Tensor:
    """QDrop's unit input: the quantized network's value where kept (None: all), else the float network's."""
    if keep_mask is None:
        return quantized
    return torch.lerp(full_precision, quantized, keep_mask.to(quantized.dtype))


class MaskPool:
    """Random keep-masks (floats of zeros and ones) cut from one pre-drawn pool at a random offset.

    Fresh random numbers for every element and step cost more than the quantizer itself; a slice costs nothing
    and takes no memory of its own. keep_probability: share of elements that stay quantized (QDrop's p; 1
    means nothing is dropped). size: elements in the pool beyond those of the largest mask.
    """

    def __init__(self, keep_probability: float, seed: int, size: int = 1 << 22) -> None:
        if not 0 <= keep_probability <= 1:
            raise ValueError(f"keep_probability must be in 0..1, not {keep_probability}")
        self.keep_probability = keep_probability
        self._size = size
        self._offsets = random.Random(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._pool = torch.empty(0)

    def draw(self, like: Tensor) -> Tensor | None:
        """A mask with the shape, type, device and memory layout of ``like``; None when everything is kept."""
        return None if self.keep_probability >= 1 else self.cut(MaskLayout.of(like))

    def cut(self, layout: MaskLayout) -> Tensor:
        """The next mask of this layout."""
        count, place = layout.shape.numel(), (layout.device, layout.dtype)
        if self._pool.numel() < self._size + count or (self._pool.device, self._pool.dtype) != place:
            # a third of the time of bernoulli_ on a processor
            fresh = torch.empty(self._size + count).uniform_(generator=self._generator)
            self._pool = fresh.lt_(self.keep_probability).to(*place)
        offset = self._offsets.randrange(self._pool.numel() - count + 1)
        mask = self._pool[offset : offset + count]
        if layout.channels_last:
            n, c, h, w = layout.shape
            return mask.view(n, h, w, c).permute(0, 3, 1, 2)
        return mask.view(layout.shape)


class MaskLayout(NamedTuple):
    """What a mask has in common with the tensor that it is for."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    channels_last: bool

    @classmethod
    def of(cls, x: Tensor) -> MaskLayout:
        """The layout of x."""
        innermost = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
        return cls(x.shape, x.dtype, x.device, innermost)
