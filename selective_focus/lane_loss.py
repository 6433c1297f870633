"""Losses in what a decoder makes of the heads: probabilities of lanes, and their x in pixels. Ours, not the paper's.

A mean squared error of raw outputs cannot see that two coefficients of a curve cancel, or that a logit is far from
any decision. These can. They still differentiate network outputs only: no threshold, no suppression.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_LEAST_WEIGHT = 1e-6


def class_divergence(quantized: Tensor, reference: Tensor, weight: Tensor, axis: int | None) -> Tensor:
    """Mean Kullback-Leibler divergence of the classes, KL(reference || quantized), in nats.

    quantized, reference: logits of the same shape; no gradient flows into the reference.
    weight: of each position; broadcasts against the logits, with size 1 along ``axis``.
    axis: the dimension of the classes, of which one is true (softmax); None: every logit is a yes or no of its own
        (sigmoid).
    """
    expected = reference.detach().float()
    logits = quantized.float()
    if axis is None:
        yes, no = expected.sigmoid(), (-expected).sigmoid()
        divergence = yes * (F.logsigmoid(expected) - F.logsigmoid(logits))
        divergence = divergence + no * (F.logsigmoid(-expected) - F.logsigmoid(-logits))
    else:
        log_p = expected.log_softmax(axis)
        divergence = (log_p.exp() * (log_p - logits.log_softmax(axis))).sum(axis, keepdim=True)
    return _weighted_mean(divergence, weight)


def lane_displacement(quantized: Tensor, reference: Tensor, weight: Tensor, delta: float) -> Tensor:
    """Mean Huber distance of lanes' coordinates, in units of ``delta``: about 1 where a point is lost.

    quantized, reference: coordinates in pixels, of the same shape; weight broadcasts against them.
    delta: pixels up to which the distance is quadratic; beyond, it is linear, so that a lane that jumped elsewhere
        does not outweigh all others.
    """
    distance = F.huber_loss(quantized.float(), reference.detach().float(), reduction="none", delta=delta)
    return _weighted_mean(distance / delta**2, weight)


def _weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    weight = torch.broadcast_to(weight.detach().float(), values.shape)
    return (weight * values).sum() / weight.sum().clamp(min=_LEAST_WEIGHT)
