"""Is everything here that a run needs? Each finding says what to do when it is not."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import torch

import lane_models
from bench import environment
from bench.data import SYNTHETIC_ROOT
from bench.errors import BenchError
from bench.profile import load_profile
from bench.runner import check_device
from bench.store import RUNS
from datasets.synthetic import frames_on_disk
from selective_focus.methods import methods

DISK_NEEDED_GB = 2.0
MEMORY_NEEDED_GB = 4.0


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    good: bool
    text: str


def examine(device: str) -> list[Finding]:
    """Looks at the interpreter, processor, device, disk, weights and methods."""
    return [*_machine(device), *_room(), *_parts()]


def _machine(device: str) -> Iterator[Finding]:
    known = (3, 10) <= sys.version_info[:2] <= (3, 13)
    versions = environment.versions()
    yield Finding(known, f"Python {sys.version.split()[0]} (3.10 to 3.13 are tested)")
    yield Finding(True, ", ".join(f"{name} {version}" for name, version in versions.items()))
    yield Finding(True, f"{environment.describe('cpu')['processor']}, {os.cpu_count()} cores")
    memory_gb = psutil.virtual_memory().available / 2**30
    enough = memory_gb >= MEMORY_NEEDED_GB
    advice = "" if enough else f"; {MEMORY_NEEDED_GB:.0f} GB are wanted, lower input_cache_mb in the profile"
    yield Finding(enough, f"{memory_gb:.1f} GB of memory free{advice}")
    try:
        check_device(device)
        yield Finding(True, f"device {device}: {environment.device_name(device)}")
    except BenchError as error:
        yield Finding(False, str(error))
    if device == "cpu" and torch.cuda.is_available():
        yield Finding(True, f"{torch.cuda.get_device_name(0)} is here too: --device cuda")


def _room() -> Iterator[Finding]:
    folder = next(path for path in (RUNS, *RUNS.parents) if path.exists())
    free_gb = shutil.disk_usage(folder).free / 2**30
    advice = (
        "" if free_gb >= DISK_NEEDED_GB else f"; {DISK_NEEDED_GB:.0f} GB are needed for frames and records"
    )
    yield Finding(free_gb >= DISK_NEEDED_GB, f"{free_gb:.1f} GB of disk free{advice}")
    writable = os.access(folder, os.W_OK)
    yield Finding(writable, f"{RUNS} is {'' if writable else 'not '}writable")


def _parts() -> Iterator[Finding]:
    for name in lane_models.names():
        shipped = [v for v in lane_models.variants(name) if lane_models.shipped_weights(name, v)]
        words = (
            f"embedded weights ({', '.join(shipped)})"
            if shipped
            else "no embedded weights, needs --weights FILE"
        )
        yield Finding(bool(shipped) or name not in load_profile("quick").detectors, f"{name}: {words}")
    missing = sorted(set(load_profile("quick").methods) - set(methods()))
    text = f"methods that profile quick needs and are not here: {', '.join(missing)}; reinstall the checkout"
    yield Finding(not missing, text if missing else f"{len(methods())} methods")
    cached, needed = frames_on_disk(SYNTHETIC_ROOT, ("test", "calibration"))
    rest = "" if cached == needed else "; a run renders those of the others that it looks at"
    yield Finding(True, f"synthetic road frames: {cached} of {needed} cached{rest}")
