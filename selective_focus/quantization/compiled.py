"""A unit's forward pass through ``torch.compile``: fewer passes over memory, the same values but for rounding.

What changes from step to step comes in as tensors (weights, step sizes, masks), so that nothing is compiled twice. The
loss and the regulariser, with its beta, stay outside. Masks are drawn before the step, in the order in which an
uncompiled step draws them, so both see the same ones.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from selective_focus.quantization.affine import MaskLayout, MaskPool
from selective_focus.quantization.layers import ActivationQuantizer

_LOG = logging.getLogger(__name__)

BACKEND = "inductor"
"""Of ``torch.compile``: PyTorch's own, which needs a C++ compiler for a CPU."""


class StepMasks:
    """The masks of one step, in place of a ``MaskPool``. The first step draws them as it goes, the others before."""

    def __init__(self, pool: MaskPool) -> None:
        self.pool = pool
        self.layouts: list[MaskLayout] = []
        self.ready: list[Tensor] = []
        self.place = 0

    def record(self, like: Tensor) -> Tensor:
        """Draw a mask like ``like`` and remember its place in the step."""
        layout = MaskLayout.of(like)
        self.layouts.append(layout)
        return self.pool.cut(layout)

    def refill(self) -> None:
        """Draw a whole step's masks."""
        self.ready = [self.pool.cut(layout) for layout in self.layouts]
        self.place = 0

    def draw(self, like: Tensor) -> Tensor:
        """The step's next mask."""
        if not self.ready:
            return self.record(like)
        mask = self.ready[self.place]
        self.place += 1
        return mask


class CompiledUnit:
    """A unit as a function that is compiled at its second call, with what the first one showed of its masks.

    Where that fails (no C++ compiler on a CPU, say), one line is logged and the unit runs as it is.
    """

    def __init__(self, unit: Callable[..., Any], quantizers: Sequence[ActivationQuantizer]) -> None:
        self._unit = unit
        self._quantizers = quantizers
        self._masks: StepMasks | None = None
        self._calls = 0
        torch._dynamo.reset()  # blocks of one class share their code, and so the limit of its compiled versions
        self._compiled = torch.compile(unit, dynamic=False, backend=BACKEND)
        self.works = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The unit's own call, in a step."""
        self._calls += 1
        with self._drawn_before():
            if self._calls == 1 or not self.works:
                return self._unit(*args, **kwargs)
            try:
                return self._compiled(*args, **kwargs)
            except Exception as error:
                self.works = False
                reason = " ".join(str(error).split())[:120]
                _LOG.warning("compile: torch.compile failed (%s); the steps run uncompiled", reason)
            if self._masks is not None:
                self._masks.place = 0
            return self._unit(*args, **kwargs)

    @contextmanager
    def _drawn_before(self) -> Iterator[None]:
        """While entered, the quantizers take masks that were drawn for this step."""
        pools = [quantizer.masks for quantizer in self._quantizers]
        pool = next((pool for pool in pools if isinstance(pool, MaskPool)), None)
        if pool is None:
            yield
            return
        if self._masks is None or self._masks.pool is not pool:
            self._masks = StepMasks(pool)
        else:
            self._masks.refill()
        for quantizer in self._quantizers:
            quantizer.masks = self._masks
        try:
            yield
        finally:
            for quantizer, before in zip(self._quantizers, pools, strict=True):
                quantizer.masks = before
