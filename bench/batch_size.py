"""How many frames go through a network at a time: as many as the free memory allows."""

from __future__ import annotations

from typing import Any

import psutil
import torch
from torch import Tensor, nn

from bench.evaluate import NetworkInputs
from selective_focus import LaneDetector

SHARE = 0.6
"""Of the free memory that a batch may take: other processes want some too."""

QUANTIZED = 2
"""Rounded copies of what layers read come on top of what full precision needs."""


def fitting(
    detector: LaneDetector, inputs: NetworkInputs, largest: int, device: str, processes: int = 1
) -> int:
    """``largest`` frames, halved until they fit this process's part of the free memory by what one frame took.

    Halved, and not cut to what fits exactly: a network may round differently in batches of another size, so the size
    should not follow every change of the free memory.
    """
    if largest == 1 or not len(inputs):
        return 1
    frame = next(inputs.batches(1)).to(device)
    needed = QUANTIZED * (_peak_on_cuda if torch.device(device).type == "cuda" else _sum_of_outputs)(
        detector, frame
    )
    size, room = largest, SHARE * free_bytes(device) / processes
    while size > 1 and size * needed > room:
        size //= 2
    return size


def free_bytes(device: str) -> int:
    """Memory that is free on the device."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _peak_on_cuda(detector: LaneDetector, frame: Tensor) -> int:
    torch.cuda.reset_peak_memory_stats(frame.device)
    before = torch.cuda.memory_allocated(frame.device)
    with torch.inference_mode():
        detector.heads(frame)
    return int(torch.cuda.max_memory_allocated(frame.device)) - before


def _sum_of_outputs(detector: LaneDetector, frame: Tensor) -> int:
    """Bytes of all that the layers put out: more than lives at any one time, so an upper estimate."""
    total = 0

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal total
        total += output.nbytes if isinstance(output, Tensor) else 0

    leaves = [module for module in detector.model.modules() if not list(module.children())]
    hooks = [module.register_forward_hook(count) for module in leaves]
    try:
        with torch.inference_mode():
            detector.heads(frame)
    finally:
        for hook in hooks:
            hook.remove()
    return total
