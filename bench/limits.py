"""What a cell may take and what it took: time and memory."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

import psutil
import torch

from bench.errors import CellTimeout


class PeakMemory:
    """Largest memory while the block runs, in MB: of the process (sampled), or what PyTorch took on the accelerator.

    All that the process holds counts, the network inputs of the test frames included.
    """

    def __init__(self, device: str, every_s: float = 0.05) -> None:
        self.peak_mb = 0.0
        self._device = torch.device(device)
        self._cuda = self._device.type == "cuda"
        self._every_s = every_s
        self._stop = threading.Event()
        self._process = psutil.Process()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(self._device)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._cuda:
            self.peak_mb = torch.cuda.max_memory_allocated(self._device) / 2**20

    def _watch(self) -> None:
        while True:
            self.peak_mb = max(self.peak_mb, self._process.memory_info().rss / 2**20)
            if self._stop.wait(self._every_s):
                return


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raises CellTimeout inside the block after ``seconds`` (None: never); on Unix, in the main thread."""
    usable = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    if seconds is None or not usable:
        yield
        return

    def expire(*_: object) -> None:
        raise CellTimeout(f"not finished after {seconds:g} s; raise cell_timeout_s in the profile")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
