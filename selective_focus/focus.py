"""Semantic Guided Focus (SGF): the reconstruction loss of the heads, weighted towards the lanes.

Certain of the paper: the weights follow a practical proxy for the foreground, not labels. The formula is our
reading (docs/method.md).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from selective_focus.detector import Heads, LaneDetector
from selective_focus.quantization.config import ConfigurationError

Normalisation = Literal["variance", "channels", "none"]

_FLAT = 1e-6  # of a head's mean square: the least variance that a head is scaled by
_TINY = 1e-12


def focused_loss(
    quantized_heads: Mapping[str, Tensor],
    reference_heads: Mapping[str, Tensor],
    foreground: Mapping[str, Tensor] | None,
    head_weights: Mapping[str, float] | None = None,
    *,
    confidence_heads: Collection[str] = (),
    epsilon: float = 0.1,
    normalisation: Normalisation | Mapping[str, float] = "variance",
    soft: bool = True,
    threshold: float = 0.5,
    weight_floor: float = 1e-6,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch: sum over heads of (head weight) x L_k, and the L_k of each head.

        L_k = sum_p w_k(p) ||Q_k(p) - O_k(p)||^2 / (c_k sum_p w_k(p))
        w_k = m(p) for geometry heads,  m(p) + epsilon for confidence heads

    quantized_heads Q, reference_heads O: [N, ...]; no gradient flows into O.
    foreground m: for each head a weight in [0, 1] that broadcasts against it. Its own elements are the
        positions p, of all N images together; along dimensions where it has size 1 (but never along the
        batch) the head's elements are the vector of one position: [N, A, 1] against [N, A, 72] makes N x A
        positions of 72 values, [N, 1, H, W] against [N, 5, H, W] makes N x H x W positions of 5.
        None is the loss without focus: w = 1, and every element is a position of its own;
        ``without_focus(foreground)`` keeps vectors together, which differs for normalisation "none" only.
    head_weights: from selection; None is 1 for all. A head of weight 0 is reported but gets no gradient.
    confidence_heads, epsilon: without epsilon > 0 false positives in the background would go unseen.
    normalisation: c_k, see ``head_scale``; or c_k by head, e.g. computed once on all calibration images.
    soft, threshold: weights m as they are, or 1 where m >= threshold and 0 elsewhere.
    weight_floor: least value of sum_p w_k(p). A batch without any foreground has the loss 0, not 0 / 0.

    Returns a scalar that can be differentiated, and detached scalars L_k. Raises ValueError when heads,
    weights and foreground do not fit.
    """
    scales = normalisation if isinstance(normalisation, Mapping) else None
    by_head = {"foreground": foreground, "head_weights": head_weights, "normalisation": scales}
    _check(quantized_heads, reference_heads, by_head)
    if not epsilon >= 0 or not weight_floor > 0:
        raise ValueError(f"epsilon {epsilon} must be at least 0 and weight_floor {weight_floor} positive")

    terms: list[Tensor] = []
    per_head: dict[str, Tensor] = {}
    for name, quantized in quantized_heads.items():
        reference = reference_heads[name].detach()
        weight = torch.ones_like(reference) if foreground is None else _positions(reference, foreground[name])
        scale = (
            head_scale(reference, weight, normalisation)
            if isinstance(normalisation, str)
            else normalisation[name]
        )
        weight = _single(weight if soft or foreground is None else weight >= threshold)
        if name in confidence_heads and foreground is not None:
            weight = weight + epsilon
        importance = 1.0 if head_weights is None else head_weights[name]
        with torch.set_grad_enabled(torch.is_grad_enabled() and importance != 0):
            error = _single(quantized) - _single(reference)
            squared_norm = error.square().sum_to_size(weight.shape)
            loss = (weight * squared_norm).sum() / (scale * weight.sum().clamp(min=weight_floor))
        if importance != 0:
            terms.append(importance * loss)
        per_head[name] = loss.detach()
    return torch.stack(terms).sum(), per_head


def head_scale(reference: Tensor, foreground: Tensor, normalisation: Normalisation = "variance") -> Tensor:
    """c_k, the scale of one head: the squared norm that an error at one position is measured against.

    reference: the full-precision head O_k [N, ...].
    foreground: m of this head, whose elements are the positions; C = the head's elements per position.

        "variance"  C x the variance of all elements of O_k: L_k is an error relative to the head's spread
        "channels"  C: L_k is a mean square over elements
        "none"      1: L_k is the plain squared norm

    One number a head, never one a channel: channels that hardly vary would drown all others. The variance is
    at least a millionth of the mean square, so that a constant head has a scale.
    """
    if normalisation not in get_args(Normalisation):
        choices = ", ".join(get_args(Normalisation))
        raise ValueError(f"normalisation must be one of {choices} or one scale a head, not {normalisation!r}")
    values = _single(reference.detach())
    if normalisation == "none":
        return values.new_ones(())
    channels = values.numel() / max(1, _positions(reference, foreground).numel())
    if normalisation == "channels":
        return values.new_tensor(channels)
    variance = torch.maximum(values.var(correction=0), _FLAT * values.square().mean())
    return channels * variance.clamp(min=_TINY)


def without_focus(foreground: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same positions, all of weight 1: the ablation without Semantic Guided Focus."""
    return {name: torch.ones_like(weight) for name, weight in foreground.items()}


def checked_foreground(detector: LaneDetector, heads: Heads) -> dict[str, Tensor]:
    """``detector.foreground(heads)``, once it and ``confidence_heads`` speak of the model's own heads.

    Raises:
        ConfigurationError: a head that does not exist, one that has no weight, a weight that does not fit its head.
    """
    who = f"detector {detector.name!r}"
    unknown = sorted(set(detector.confidence_heads) - set(heads))
    if unknown:
        raise ConfigurationError(
            f"{who}: confidence_heads names {unknown[0]!r}, which the model does not give; "
            f"expected names out of {', '.join(heads)}"
        )
    foreground = detector.foreground(heads)
    for name, head in heads.items():
        if name not in foreground:
            raise ConfigurationError(
                f"{who}: foreground(heads) has no weight for head {name!r}, only for "
                f"{', '.join(foreground) or 'none'}; return a tensor in [0, 1] for every head"
            )
        weight = foreground[name]
        if not broadcasts(weight, head):
            raise ConfigurationError(
                f"{who}: foreground(heads)[{name!r}] has shape {list(weight.shape)}, which does not broadcast against "
                f"the head's {list(head.shape)}; expected its dimensions, each of the head's size or 1"
            )
        if not ((weight >= 0) & (weight <= 1)).all():
            raise ConfigurationError(
                f"{who}: foreground(heads)[{name!r}] has values from {float(weight.min()):g} to "
                f"{float(weight.max()):g}; expected weights in [0, 1], for instance a sigmoid of the confidence"
            )
    return foreground


def broadcasts(weight: Tensor, head: Tensor) -> bool:
    """Whether a weight has, counted from the last, the dimensions of a head, each of the same size or 1."""
    sizes = zip(reversed(weight.shape), reversed(head.shape), strict=False)
    return weight.dim() <= head.dim() and all(m in (1, size) for m, size in sizes)


def _positions(reference: Tensor, foreground: Tensor) -> Tensor:
    """m with the head's number of dimensions and its batch size, without gradient."""
    if not broadcasts(foreground, reference):
        raise ValueError(
            f"foreground of shape {list(foreground.shape)} does not broadcast against its head of shape "
            f"{list(reference.shape)}"
        )
    shape = (1,) * (reference.dim() - foreground.dim()) + tuple(foreground.shape)
    return foreground.detach().reshape(shape).expand(reference.shape[0], *shape[1:])


def _single(tensor: Tensor) -> Tensor:
    """In single precision at least: sums of squares overflow half precision."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _check(
    quantized: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    by_head: Mapping[str, Mapping[str, Any] | None],
) -> None:
    """ValueError where the heads, or what is given for each of them, do not fit together."""
    heads = sorted(quantized)
    if not heads or heads != sorted(reference):
        raise ValueError(f"quantized heads {heads} must be the full-precision ones, {sorted(reference)}")
    for what, given in by_head.items():
        lacking = [] if given is None else [name for name in heads if name not in given]
        if lacking:
            raise ValueError(f"{what} lacks head {lacking[0]!r}; it must name every head of {heads}")
    for name in heads:
        if quantized[name].shape != reference[name].shape:
            raise ValueError(
                f"head {name!r} has shape {list(quantized[name].shape)} quantized but "
                f"{list(reference[name].shape)} in full precision; both must see the same images"
            )
    weights = by_head["head_weights"]
    if weights is None:
        return
    if not all(weights[name] >= 0 for name in heads) or not any(weights[name] > 0 for name in heads):
        raise ValueError(f"head_weights must be at least 0 and one of them positive, not {dict(weights)}")
