"""A network's forward pass over many images, stopped before each reconstruction unit.

Block-wise methods need, for every unit, the inputs it gets from all calibration images once the units before it
are finished. Running the network again from the image for every unit costs O(units^2). Here every chunk of
images has its own thread with one unfinished forward pass in it: all chunks are advanced to a unit, the unit is
reconstructed, and the passes go on through the finished unit. Each part of the network runs once, whatever
connects the units (sums, pyramids, loops), and only tensors that are still needed stay alive.

One thread at a time ever runs, so results do not depend on scheduling.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn


def give_back_freed_memory(at_once: bool) -> None:
    """Have the C library return tensors of a MiB and more to the system as soon as they are freed, or not (glibc).

    Passes that stop in the middle leave holes between what they keep and what they have finished with; the holes of
    many threads' heaps came to a tenth of a 4 GiB budget and grew from unit to unit. It costs page faults, so the steps
    of an optimisation keep what they free, and what they kept goes back when they have ended.
    """
    if _C_LIBRARY is None:
        return
    set_option = getattr(_C_LIBRARY, "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, 1 << 20 if at_once else 1 << 25)
    if at_once:
        release_free_memory()


def release_free_memory() -> None:
    """Ask the C library to give pages that it holds for nobody back to the system, where it can (glibc)."""
    trim = getattr(_C_LIBRARY, "malloc_trim", None)
    if trim is not None:
        trim(0)


class _Reached(BaseException):
    """Ends a forward pass that has reached its unit."""

    def __init__(self, call: UnitCall) -> None:
        self.call = call


class _Abandoned(BaseException):
    """Unwinds a forward pass that nobody waits for any more."""


_C_LIBRARY = ctypes.CDLL(None) if sys.platform == "linux" else None
_M_MMAP_THRESHOLD = -3
"""malloc.h"""


@dataclass
class UnitCall:
    """The arguments of one call of a unit, for one chunk of images."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass
class _Pass:
    """One chunk's forward pass."""

    chunk: Tensor
    resume: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    paused: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    unit: str | None = None
    call: UnitCall | None = None
    error: BaseException | None = None
    thread: threading.Thread | None = None


class Lockstep:
    """Forward passes of all chunks through ``model``, advanced together from unit to unit.

    Use as a context manager; call ``advance_to`` with the units in the order in which they run. ``tidy``: give
    free memory back to the system after every part of a pass (some milliseconds each).
    """

    def __init__(
        self,
        model: nn.Module,
        chunks: Sequence[Tensor],
        units: Mapping[str, nn.Module],
        *,
        tidy: bool = False,
    ) -> None:
        self._model = model
        self._tidy = tidy
        self._passes = [_Pass(chunk) for chunk in chunks]
        self._units = units
        self._local = threading.local()
        self._abandoned = False
        self._handles: list[Any] = []

    def __enter__(self) -> Lockstep:
        for name, module in self._units.items():
            hook = self._gate(name)
            self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        for one in self._passes:
            one.thread = threading.Thread(target=self._forward, args=(one,), daemon=True)
            one.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._abandoned = True
        for one in self._passes:
            one.resume.release()
            if one.thread is not None:
                one.thread.join()
        for handle in self._handles:
            handle.remove()

    def advance_to(self, unit: str) -> list[UnitCall]:
        """Run every chunk up to its call of ``unit``; give the calls, in the order of the chunks.

        Raises:
            RuntimeError: a pass ended, or met another unit first (units not in running order).
            Whatever the model itself raised.
        """
        return [self._advance(one, unit) for one in self._passes]

    def _advance(self, one: _Pass, unit: str) -> UnitCall:
        one.unit = one.call = None
        one.resume.release()
        one.paused.acquire()
        if self._tidy:
            release_free_memory()
        if one.error is not None:
            raise one.error
        if one.unit != unit or one.call is None:
            met = f"unit {one.unit!r}" if one.unit else "the end of the network"
            raise RuntimeError(f"the network met {met} where unit {unit!r} was expected")
        return one.call

    def _forward(self, one: _Pass) -> None:
        self._local.current = one
        one.resume.acquire()
        try:
            if not self._abandoned:
                with torch.no_grad():
                    self._model(one.chunk)
        except _Abandoned:
            pass
        except BaseException as error:
            one.error = error
        finally:
            one.paused.release()

    def _gate(self, name: str) -> Any:
        def pause(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            one: _Pass | None = getattr(self._local, "current", None)
            if one is None:
                return  # called from outside the passes: somebody is reconstructing the unit
            one.unit, one.call = name, UnitCall(args, kwargs)
            one.paused.release()
            one.resume.acquire()
            if self._abandoned:
                raise _Abandoned

        return pause


class Restarted:
    """As ``Lockstep``, but nothing waits: every unit's calls are computed from the images again, one by one.

    For networks whose unfinished passes would not fit into memory. Costs O(units^2); the calls are the same
    bit for bit.
    """

    def __init__(
        self,
        model: nn.Module,
        chunks: Sequence[Tensor],
        units: Mapping[str, nn.Module],
        *,
        tidy: bool = False,
    ) -> None:
        self._model = model
        self._chunks = chunks
        self._units = units
        self._tidy = tidy

    def __enter__(self) -> Restarted:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def advance_to(self, unit: str) -> Iterator[UnitCall]:
        """Each chunk's call of ``unit``, computed when it is asked for.

        Raises:
            RuntimeError: the network does not run the unit.
        """
        for chunk in self._chunks:
            yield self._call(chunk, unit)

    def _call(self, chunk: Tensor, unit: str) -> UnitCall:
        def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            raise _Reached(UnitCall(args, kwargs))

        handle = self._units[unit].register_forward_pre_hook(stop, with_kwargs=True)
        try:
            with torch.no_grad():
                self._model(chunk)
        except _Reached as reached:
            return reached.call
        finally:
            handle.remove()
            if self._tidy:
                release_free_memory()
        raise RuntimeError(f"the network met its end where unit {unit!r} was expected")
