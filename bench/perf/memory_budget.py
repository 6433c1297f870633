"""Peak memory of QDrop on the whole of LaneATT-R18 at its official input, with and without a memory budget.

python -m bench.perf.memory_budget [--images 256] [--budget 4096] [--iterations 2]

Each run has a process of its own, so that peaks do not mix. Prints both runs and whether the quantized networks
are equal bit for bit, and writes results/reference/engine/memory.json. Random weights and images: memory does not
depend on them. Needs about 6 GiB of disk in TMPDIR, and the memory that the run without a budget takes (``--alone``
leaves it out).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import lane_models
from selective_focus import quantize

FOLDER = Path(__file__).resolve().parents[2] / "results" / "reference" / "engine"


def run(images: int, budget: float | None, iterations: int) -> dict[str, Any]:
    """Quantize in this process; what it took."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    detector = lane_models.untrained("laneatt", "r18")
    batch = torch.rand(images, 3, *detector.input_size, generator=torch.Generator().manual_seed(1))
    started = time.perf_counter()
    quantized, log = quantize(
        detector,
        batch,
        "qdrop",
        "w4a4",
        iterations=iterations,
        batch_size=4,
        chunk_size=4,
        rounding="straight-through",
        scale_steps="relative",
        memory_budget_mb=budget,
        weight_range="min-max",
        activation_range="min-max",
    )
    digest = hashlib.sha256()
    for name, value in sorted(quantized.model.state_dict().items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return {
        "images": images,
        "iterations": iterations,
        "budget_mb": budget,
        "peak_memory_mb": round(log.peak_memory_mb, 1),
        "images_mb": round(batch.nbytes / 2**20, 1),
        "caches": log.caches,
        "seconds": round(time.perf_counter() - started, 1),
        "state_sha256": digest.hexdigest(),
    }


def in_its_own_process(arguments: argparse.Namespace, budget: float | None) -> dict[str, Any]:
    """``run`` in a fresh process."""
    command = [sys.executable, "-m", "bench.perf.memory_budget", "--one", "--images", str(arguments.images)]
    command += ["--iterations", str(arguments.iterations), "--budget", str(budget or 0)]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Parse, run, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--budget", type=float, default=4096.0, help="MiB; 0 for none")
    parser.add_argument("--iterations", type=int, default=2, help="of every unit")
    parser.add_argument("--alone", action="store_true", help="the run with a budget only")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(run(arguments.images, arguments.budget or None, arguments.iterations)))
        return
    runs = [in_its_own_process(arguments, arguments.budget)]
    print(runs[0], flush=True)
    if not arguments.alone:
        runs.append(in_its_own_process(arguments, None))
        print(runs[1], flush=True)
        print("equal bit for bit:", runs[0]["state_sha256"] == runs[1]["state_sha256"])
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "memory.json").write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
