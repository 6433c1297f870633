"""Processes that share the cells of a run: small networks leave most cores of a machine idle when run one by one."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import warnings
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from bench.errors import bad_input_errors
from bench.parts import standard_parts
from bench.profile import Profile
from bench.runner import run
from bench.store import RunFolder
from datasets.synthetic.workers import end_with_parent


class Silent:
    """A listener that shows nothing: the process that was started by the user shows every record."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


@contextlib.contextmanager
def helping(profile: Profile, folder: RunFolder) -> Iterator[None]:
    """As many processes at a run as its profile has, this one included, each with its share of the cores."""
    before = torch.get_num_threads()
    threads = max(1, (os.cpu_count() or 1) // profile.processes)
    since = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    context = multiprocessing.get_context("spawn")
    others = [
        context.Process(target=_help, args=(profile, folder.path, threads, since))
        for _ in range(profile.processes - 1)
    ]
    if others:
        torch.set_num_threads(threads)
    for process in others:
        process.start()
    try:
        yield
        for process in others:
            process.join()
            if process.exitcode:
                warnings.warn(
                    f"a process that shared the cells ended with {process.exitcode}; the others did its cells",
                    stacklevel=2,
                )
    finally:
        for process in others:
            process.terminate()
        torch.set_num_threads(before)


def _help(profile: Profile, path: Path, threads: int, since: str) -> None:
    """Take part in a run until nothing is left. What goes wrong here is tried again, and told, by the first process."""
    end_with_parent()
    torch.set_num_threads(threads)
    with contextlib.suppress(KeyboardInterrupt, *bad_input_errors()):
        run(profile, RunFolder(path), standard_parts(), Silent(), since=since)
