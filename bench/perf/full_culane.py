"""Scores lane files of the size of CULane's test set: ``python -m bench.perf.full_culane [--images N] [--workers N]``.

Writes generated annotations and predictions (about four lanes each, of 24 and 20 points) into a temporary folder, runs
``python -m bench score`` on them, and prints seconds, processor seconds and the peak memory of all its processes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from tests.road_lanes import road_image

TEST_IMAGES = 34_680
DIFFERENT = 500
"""Images that are really different; every copy of one is moved by another few hundredths of a pixel."""


@dataclass(frozen=True)
class Cost:
    """What one command took, its child processes included."""

    seconds: float
    processor_s: float
    peak_mb: float
    output: str


def write_pairs(root: Path, images: int) -> None:
    """``annotations``, ``predictions`` and ``test.txt`` under ``root``."""
    rng = np.random.default_rng(0)
    some = [road_image(rng) for _ in range(min(images, DIFFERENT))]
    names = [f"driver_{i // 5000}/clip_{i // 100:05d}.MP4/{i:05d}.jpg" for i in range(images)]
    for number, name in enumerate(names):
        shift = np.round(rng.normal(0, 0.05, 2), 2)
        for folder, lanes in zip(("predictions", "annotations"), some[number % len(some)], strict=True):
            path = root / folder / Path(name).with_suffix(".lines.txt")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                "".join(" ".join(map(str, (lane + shift).round(2).ravel().tolist())) + "\n" for lane in lanes)
            )
    (root / "test.txt").write_text("".join(f"/{name}\n" for name in names))


def cost_of(command: list[str], every_s: float = 0.5) -> Cost:
    """Runs a command and watches its processes, seldom, because looking costs the machine something as well.

    Memory that they share is counted once (proportional set size).
    """
    began, peak, processor = time.perf_counter(), 0.0, 0.0
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    watched = psutil.Process(running.pid)
    while running.poll() is None:
        peak = max(peak, _memory_mb(watched))
        time.sleep(every_s)
    seconds = time.perf_counter() - began
    output = running.stdout.read() if running.stdout else ""
    if running.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {running.returncode}")
    children = os.times()
    processor = children.children_user + children.children_system
    return Cost(seconds, processor, peak, output)


def _memory_mb(process: psutil.Process) -> float:
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            memory = one.memory_full_info()
            total += getattr(memory, "pss", memory.uss)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=TEST_IMAGES)
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[0], help="0: as many as score takes itself"
    )
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        began = time.perf_counter()
        write_pairs(root, chosen.images)
        print(f"{chosen.images} pairs written in {time.perf_counter() - began:.0f} s", flush=True)
        before = 0.0
        for workers in chosen.workers:
            command = [sys.executable, "-m", "bench", "score", "--annotations", str(root / "annotations")]
            command += ["--predictions", str(root / "predictions"), "--list", str(root / "test.txt")]
            cost = cost_of([*command, *(["--workers", str(workers)] if workers else [])])
            print(
                f"workers {workers or 'auto'}: {cost.seconds:.1f} s, {cost.processor_s - before:.1f} s of processor, "
                f"{chosen.images / cost.seconds:.0f} images/s, peak memory {cost.peak_mb:.0f} MB, "
                f"{json.loads(cost.output)}",
                flush=True,
            )
            before = cost.processor_s


if __name__ == "__main__":
    main()
