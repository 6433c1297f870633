"""Is everything here that a run needs? Each finding says what to do when it is not."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

import lane_models
from bench import environment
from bench.checkpoint_check import check_weights
from bench.data import SYNTHETIC_ROOT
from bench.dataset_check import LISTED, check_culane, check_tusimple
from bench.detectors import usable_variants
from bench.errors import BenchError
from bench.finding import Finding, bad, good, good_if, note
from bench.metrics.routes import compiled_loops
from bench.profile import Profile, load_profile
from bench.runner import check_device, combinations
from bench.store import RUNS
from datasets.synthetic import frames_on_disk
from selective_focus.methods import find, methods

GIB = 2**30
PROCESS_GB = 1.0
"""Python, PyTorch and the metric before any frame is read."""
LARGEST_INPUT = (384, 800)
"""(H, W) of the detectors' network inputs, to estimate with."""
FRAME_KB = 12
"""Of a test frame's lanes, strokes and scores while a run works on it."""
RECORD_BYTES = 32
"""Of a test frame in each record."""
LANES_KB = 5
"""Of a test frame's full-precision lanes, which a run keeps for each detector."""
SPARE_DISK_GB = 0.5


def examine(
    device: str,
    profile: str = "quick",
    culane: Path | None = None,
    tusimple: Path | None = None,
    weights: Path | None = None,
) -> Iterator[Finding]:
    """Looks at the interpreter, processor, device, disk, memory and methods, and at the data and weights given."""
    chosen = load_profile(profile)
    yield from _machine(device)
    yield from room(chosen, LISTED["test"] if culane else 1800)
    yield from _parts()
    if culane is not None:
        yield from check_culane(culane)
    if tusimple is not None:
        yield from check_tusimple(tusimple)
    if weights is not None:
        yield from check_weights(weights)


def before_culane(profile: Profile, root: Path) -> Iterator[str]:
    """A short look at a CULane folder and at the room for a run: lines worth reading, none if all is as published.

    Raises BenchError for what is missing from the folder.
    """
    findings = list(check_culane(root, True, profile.calibration_images))
    failing = [finding for finding in findings if finding.level == "BAD"]
    if failing:
        more = (
            f" (and {len(failing) - 1} more: python -m bench doctor --culane {root})" if failing[1:] else ""
        )
        raise BenchError(f"{failing[0].text}{more}")
    frames = min(profile.limit or LISTED["test"], LISTED["test"])
    yield from (finding.line for finding in [*findings, *room(profile, frames)] if finding.level != "ok")


def memory_needed_gb(profile: Profile, frames: int) -> float:
    """An estimate for a run on so many test frames, all its processes; weights and activations come on top."""
    height, width = LARGEST_INPUT
    inputs = 3 * height * width * 4
    kept = (
        frames * inputs
        if frames * inputs <= profile.input_cache_mb * 2**20
        else 4 * profile.batch_size * inputs
    )
    each = PROCESS_GB + (kept + profile.calibration_images * inputs + frames * FRAME_KB * 1024) / GIB
    return profile.processes * each


def disk_needed_gb(profile: Profile, frames: int) -> float:
    """An estimate for the records, full-precision lanes and plots of a run on so many test frames."""
    cells = len(combinations(profile, lambda method: find(method).reconstruction is not None))
    per_frame = cells * RECORD_BYTES + LANES_KB * 1024
    return SPARE_DISK_GB + len(profile.detectors) * frames * per_frame / GIB


def room(profile: Profile, frames: int) -> Iterator[Finding]:
    """Free memory and disk against what a run of the profile on so many test frames takes."""
    have, want = psutil.virtual_memory().available / GIB, memory_needed_gb(profile, frames)
    yield good_if(
        have >= want,
        f"{have:.1f} GB of memory free, about {want:.1f} GB wanted by profile {profile.name} on {frames:,} frames",
        "; lower input_cache_mb or calibration_images in the profile, or take --limit",
    )
    folder = next(path for path in (RUNS.absolute(), *RUNS.absolute().parents) if path.exists())
    have, want = shutil.disk_usage(folder).free / GIB, disk_needed_gb(profile, frames)
    yield good_if(
        have >= want,
        f"{have:.1f} GB of disk free, about {want:.1f} GB wanted for records",
        "; free some room or choose another folder with --results DIR",
    )
    yield good_if(
        os.access(folder, os.W_OK), f"{RUNS}: can be written", " only by others; choose --results DIR"
    )


def _machine(device: str) -> Iterator[Finding]:
    yield good_if(
        (3, 10) <= sys.version_info[:2] <= (3, 13),
        f"Python {sys.version.split()[0]} (3.10 to 3.13 are tested)",
    )
    yield good(", ".join(f"{name} {version}" for name, version in environment.versions().items()))
    if compiled_loops() is None:
        yield note(
            "numba is not installed: the CULane metric gives the same numbers more slowly; pip install numba"
        )
    else:
        yield good("numba is installed: the CULane metric runs as compiled loops")
    yield good(f"{environment.describe('cpu')['processor']}, {os.cpu_count()} cores")
    try:
        check_device(device)
        yield good(f"device {device}: {environment.device_name(device)}")
    except BenchError as error:
        yield bad(str(error))
    if device == "cpu" and torch.cuda.is_available():
        yield note(f"{torch.cuda.get_device_name(0)} is here too: --device cuda")


def _parts() -> Iterator[Finding]:
    for name in lane_models.names():
        try:
            shipped = [v for v in usable_variants(name) if lane_models.shipped_weights(name, v)]
        except BenchError as error:
            yield bad(str(error))
            continue
        words = (
            f"embedded weights ({', '.join(shipped)})"
            if shipped
            else f"no embedded weights, needs --weights FILE (make weights DETECTOR={name})"
        )
        if not shipped and name in load_profile("quick").detectors:
            yield bad(f"{name}: {words}")
        else:
            yield good(f"{name}: {words}") if shipped else note(f"{name}: {words}")
    missing = sorted(set(load_profile("quick").methods) - set(methods()))
    text = f"methods that profile quick needs and are not here: {', '.join(missing)}; reinstall the checkout"
    yield good_if(not missing, text if missing else f"{len(methods())} methods")
    cached, needed = frames_on_disk(SYNTHETIC_ROOT, ("test", "calibration"))
    rest = "" if cached == needed else "; a run renders those of the others that it looks at"
    yield good(f"synthetic road frames: {cached} of {needed} cached{rest}")
