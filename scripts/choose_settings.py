"""Choose a profile's learning rates on the validation split, with the same number of trials for every method.

    python scripts/choose_settings.py [--profile quick] [--bits w3a3] [--detectors laneatt,bezierlanenet]

Every learning method of the profile is tried with its own settings and each learning rate of the roundings below;
everything else stays as the profile has it. Prints a table and writes it to results/runs/choose-PROFILE/settings.csv;
the rate of highest validation F1 (mean over the detectors) is for a person to write into the profile. Resumable, like
every run.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections import defaultdict
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402

from bench.errors import BenchError  # noqa: E402
from bench.parts import standard_parts  # noqa: E402
from bench.profile import Profile, load_profile  # noqa: E402
from bench.progress import ConsoleListener  # noqa: E402
from bench.runner import run  # noqa: E402
from bench.store import RUNS, Record, RunFolder  # noqa: E402
from bench.whole_file import write_whole  # noqa: E402
from bench.workers import helping  # noqa: E402
from selective_focus.methods import find  # noqa: E402

WEIGHT_RATES = (3e-3, 1e-2, 3e-2)


def trial(base: Profile, rate: float) -> Profile:
    """The profile's learning methods on the validation split, all with this learning rate of the roundings."""
    methods = {
        name: {**options, "weight_lr": rate}
        for name, options in base.methods.items()
        if find(base.method_of(name)).reconstruction is not None
    }
    return base.model_copy(
        update={
            "methods": methods,
            "split": "val",
            "name": f"choose-{base.name}",
            "frames_per_category": None,  # all of them; the validation list has no categories
        }
    )


def row(rate: float, record: Record) -> dict[str, object]:
    """One line of the table."""
    cell, result = record.cell, record.result
    return {
        "detector": cell["detector"],
        "method": cell["method"],
        "bits": f"w{cell['w_bits']}a{cell['a_bits']}",
        "seed": cell["seed"],
        "weight_lr": rate,
        "val_f1": "" if result is None or result.f1 is None else round(result.f1, 4),
        "val_lds": "" if result is None else round(result.lds, 3),
        "reconstruction_s": round(record.timing.get("reconstruction_s", 0.0), 1),
        "status": record.status,
    }


def best_rates(rows: list[dict[str, object]]) -> dict[str, float]:
    """For each method the rate of highest validation F1, mean over detectors and bit settings."""
    found: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in rows:
        if one["val_f1"] != "":
            found[str(one["method"])][float(str(one["weight_lr"]))].append(float(str(one["val_f1"])))
    return {
        method: max(rates, key=lambda rate: sum(rates[rate]) / len(rates[rate]))
        for method, rates in found.items()
    }


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--bits", default="w3a3", help="w4a4,w3a3")
    parser.add_argument("--detectors", help="a,b; default: the profile's")
    parser.add_argument("--workers", type=int, help="processes; default: the profile's")
    given = parser.parse_args()
    detectors = given.detectors.split(",") if given.detectors else None
    try:
        base = load_profile(
            given.profile, bits=given.bits.split(","), detectors=detectors, workers=given.workers
        )
        folder = RunFolder(RUNS / f"choose-{base.name}")
        rows = []
        for rate in WEIGHT_RATES:
            chosen = trial(base, rate)
            with ConsoleListener(Console()) as listener:
                shared = partial(helping, chosen, folder)
                rows += [
                    row(rate, record) for record in run(chosen, folder, standard_parts(), listener, shared)
                ]
    except (BenchError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows.sort(key=lambda r: (r["detector"], r["bits"], r["method"], r["weight_lr"]))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_whole(folder.path / "settings.csv", text.getvalue().encode())
    for one in rows:
        print("  ".join(f"{name} {value}" for name, value in one.items()))
    for method, best in best_rates(rows).items():
        print(f"{method}: weight_lr = {best:g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
