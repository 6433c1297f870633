"""Bias correction in lane space: the shift of the output layers' biases that brings decoded lanes back. Ours.

A curve's coefficients may cancel (LSTR's b2 y - b3), so the mean error of each says little of where the lane is. Here
the biases d of the output layers solve, over all calibration images,

    min over d of  sum w (x_full - x_quantized(d))^2,       x_quantized(d) = x_quantized + J d

with x the coordinates and w the full-precision weights that the detector's ``geometry`` declares, and J = dx / dd. The
problem is linear, so its solution is closed-form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from selective_focus.job import QuantizationJob
from selective_focus.quantization.config import ConfigurationError
from selective_focus.quantization.layers import quantized_layers

RIDGE = 1e-6
"""Share of each bias's own curvature that is added to it: biases that only move together stay small."""

ROWS_AT_ONCE = 65536
"""Rows of the Jacobian that are in float64 at a time."""

Shifts = dict[str, Tensor]
"""A change [C] of the bias of each output layer."""


def lane_shifts(job: QuantizationJob, fallback: Shifts) -> Shifts:
    """The least-squares shifts of the biases that move lanes; for the others, and where they do not help, ``fallback``.

    Raises:
        ConfigurationError: the detector declares no geometry.
    """
    names = list(fallback)
    sizes = [len(shift) for shift in fallback.values()]
    curvature, slope = _normal_equations(job, names, sizes)
    moving = curvature.diagonal() > 0
    if not moving.any():
        return fallback
    reach = curvature.diagonal()[moving].sqrt()
    scaled = curvature[moving][:, moving] / (reach[:, None] * reach)
    ridge = RIDGE * torch.eye(len(reach), dtype=scaled.dtype, device=scaled.device)
    solved = torch.cat(list(fallback.values())).to(curvature)
    solved[moving] = torch.linalg.solve(scaled + ridge, slope[moving] / reach) / reach
    shifts = dict(zip(names, torch.split(solved, sizes), strict=True))
    return min((fallback, shifts), key=lambda tried: lane_error(job, tried))


def lane_error(job: QuantizationJob, shifts: Shifts) -> float:
    """Mean squared error of the lanes of all calibration images with these shifts, in squared pixels."""
    total = weights = 0.0
    with torch.no_grad():
        for found, expected, weight in _lanes(job, shifts):
            total += float((weight * (found - expected).square()).sum())
            weights += float(weight.sum())
    return total / max(weights, 1e-12)


def _normal_equations(job: QuantizationJob, names: list[str], sizes: list[int]) -> tuple[Tensor, Tensor]:
    """sum w J^T J [P, P] and sum w J^T (x_full - x_quantized) [P] for P biases, in float64.

    Image by image, and without the coordinates that have no weight: the Jacobian of a dense geometry is large.
    """
    layers = quantized_layers(job.model)
    shifts = {
        name: layers[name].float_weight.new_zeros(size).requires_grad_()
        for name, size in zip(names, sizes, strict=True)
    }
    count, device = sum(sizes), next(iter(shifts.values())).device
    curvature = torch.zeros(count, count, dtype=torch.float64, device=device)
    slope = torch.zeros(count, dtype=torch.float64, device=device)
    with torch.enable_grad():
        for found, expected, weight in _lanes(job, shifts, images_at_once=1):
            counts = weight != 0
            x = found[counts]
            error, w = (expected[counts] - x.detach()).double(), weight[counts].double()
            columns = _columns(x, list(shifts.values()))
            for rows in torch.split(torch.arange(len(x), device=device), ROWS_AT_ONCE):
                jacobian = torch.stack([column[rows] for column in columns], dim=1).double()
                curvature += jacobian.T @ (w[rows, None] * jacobian)
                slope += jacobian.T @ (w[rows] * error[rows])
    return curvature, slope


def _columns(x: Tensor, shifts: list[Tensor]) -> list[Tensor]:
    """The P columns of the Jacobian of coordinates x [K] with respect to all shifts, [K] each.

    Backward twice: J^T u is linear in u, so the derivative of its p-th element with respect to u is column p of J. Both
    passes end at the output layers.
    """
    u = torch.zeros_like(x, requires_grad=True)
    rows = torch.autograd.grad(x, shifts, u, create_graph=True, materialize_grads=True)
    columns = []
    for element in torch.cat(rows):
        found = None
        if element.requires_grad:
            (found,) = torch.autograd.grad(element, u, retain_graph=True, allow_unused=True)
        columns.append(torch.zeros_like(x) if found is None else found)
    return columns


def _lanes(
    job: QuantizationJob, shifts: Shifts, images_at_once: int | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For each chunk: coordinates of the quantized network with shifted biases, of the full one, and weights.

    images_at_once: size of a chunk; None: the job's.
    """
    full, start = job.float_heads(), 0
    chunks = job.chunks() if images_at_once is None else torch.split(job.images, images_at_once)
    with shifted(job.model, shifts):
        for chunk in chunks:
            declared = job.detector.geometry(
                {name: h[start : start + len(chunk)] for name, h in full.items()}
            )
            found = job.detector.geometry(job.model(chunk))
            if declared is None or found is None:
                raise ConfigurationError(
                    f"{job.log.method}: space='lanes': detector {job.detector.name!r} declares no geometry; "
                    f"expected space='heads'"
                )
            start += len(chunk)
            yield found[0], declared[0].detach(), declared[1].expand_as(declared[0])


@contextmanager
def shifted(model: nn.Module, shifts: Shifts) -> Iterator[None]:
    """While entered, each named layer's output has its shift [C] added, as if its bias had changed."""

    def add(shift: Tensor) -> Callable[..., Tensor]:
        def after(module: Any, args: Any, output: Tensor) -> Tensor:
            linear = isinstance(module.layer, nn.Linear)
            return output + shift.to(output).view(-1, *[1] * (0 if linear else output.ndim - 2))

        return after

    with ExitStack() as stack:
        for name, shift in shifts.items():
            stack.callback(model.get_submodule(name).register_forward_hook(add(shift)).remove)
        yield
