"""What it costs to update every parameter 1,000 times, block by block and for the whole network at once.

python -m bench.perf.updates [DETECTOR ...]

Every detector's embedded variant (or its first), one thread. In a unit's optimizer step all of its roundings and step
sizes are updated, so 1,000 updates of each parameter take 1,000 steps of every unit: block-wise the steps of all units
add up, network-wise there is one unit. QDrop runs both ways, and Selective Focus network-wise with its loss on heads.
Processor time is counted, the median of a few steps a unit; caching, ranges and looks are left out.
Writes results/reference/engine/updates.csv and .md.
"""

from __future__ import annotations

import csv
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

import torch

import lane_models
from selective_focus import quantize

FOLDER = Path(__file__).resolve().parents[2] / "results" / "reference" / "engine"
IMAGES, BATCH, STEPS = 8, 8, 6
UPDATES = 1000
WAYS = {
    "block": ("qdrop", {"unit": "block"}),
    "network": ("qdrop", {"unit": "network"}),
    "selective_focus": ("selective-focus", {"measure_every": UPDATES, "measure_images": 1}),
}
RANGES = {"weight_range": "min-max", "activation_range": "min-max"}
"""No search: how long a step takes does not depend on where the ranges are."""


def step_seconds(name: str, way: str) -> list[float]:
    """Processor seconds of one step of each unit."""
    detector = lane_models.build(name)
    images = torch.rand(IMAGES, 3, *detector.input_size, generator=torch.Generator().manual_seed(0))
    ended: list[float] = []
    method, options = WAYS[way]
    quantize(
        detector,
        images,
        method,
        "w4a4",
        progress=lambda done, total: ended.append(time.process_time()),
        iterations=STEPS,
        batch_size=BATCH,
        rounding="straight-through",
        **options,
        **RANGES,
    )
    units: dict[int, list[float]] = defaultdict(list)
    for step in range(1, len(ended)):
        if step % STEPS:  # what lies before a unit's first step is no step
            units[step // STEPS].append(ended[step] - ended[step - 1])
    return [median(taken) for taken in units.values()]


def row(name: str) -> dict[str, str | int | float]:
    """One line of the table."""
    detector = lane_models.build(name)
    height, width = detector.input_size
    found: dict[str, str | int | float] = {
        "detector": name,
        "variant": detector.variant,
        "input": f"{height}x{width}",
        "batch": BATCH,
        "parameters": sum(p.numel() for p in detector.model.parameters()),
    }
    for way in WAYS:
        steps = step_seconds(name, way)
        if way == "block":
            found["blocks"] = len(steps)
        found[f"{way}_s"] = round(UPDATES * sum(steps), 1)
    found["block_by_network"] = round(float(found["block_s"]) / float(found["network_s"]), 2)
    return found


def table(rows: list[dict[str, str | int | float]]) -> str:
    """The rows in Markdown, with what they mean."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(str(one[column]) for column in columns) + " |" for one in rows]
    return (
        "# Seconds for 1,000 updates of every parameter\n\n"
        f"`python -m bench.perf.updates`; processor seconds on one thread, batches of {BATCH}, W4A4, dropping 0.5; "
        "`block_s` and `network_s` are QDrop, `selective_focus_s` its loss on the heads (network-wise).\n\n"
        + "\n".join(lines)
        + "\n"
    )


def main(names: list[str]) -> None:
    """Measure, and write what was measured so far after every detector."""
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in names or lane_models.names():
        rows.append(row(name))
        print(rows[-1], flush=True)
        with (FOLDER / "updates.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        (FOLDER / "updates.md").write_text(table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
