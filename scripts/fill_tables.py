"""Write the tables of README.md and docs/settings.md from committed results, so that no number is typed.

    python scripts/fill_tables.py

results/reference/quick/cells.csv (a run of make reproduce-table) goes into README.md between its markers, a line a
detector and bit setting, results/reference/{reference,ranges,equalisation}/cells.csv into docs/findings.md, and
results/reference/quick-settings.csv (scripts/choose_settings.py) into docs/settings.md.
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import pandas as pd  # noqa: E402

from bench.whole_file import write_whole  # noqa: E402

REFERENCE = ROOT / "results" / "reference"


def between(path: Path, marker: str, text: str) -> None:
    """Replace what stands between ``<!-- marker -->`` and ``<!-- /marker -->`` in a file."""
    old = path.read_text(encoding="utf-8")
    pattern = rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)"
    new, count = re.subn(pattern, lambda m: f"{m[1]}{text.rstrip()}\n{m[2]}", old, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"{path}: expected one pair of <!-- {marker} --> markers, found {count}")
    write_whole(path, new.encode())


MEASURES = (
    ("f1", 100, 1, "F1 %, CULane's at IoU 0.5"),
    (
        "lds",
        1,
        1,
        "LDS, px: how far lanes moved from full precision's (pixels of a 1640-wide frame, at most 30)",
    ),
    ("reconstruction_s", 1, 0, "Seconds for ranges and reconstruction"),
)


def quick_tables(path: Path) -> str:
    """F1, LDS and seconds of every cell as Markdown: a table each, a column a method."""
    cells = pd.read_csv(path)
    parts = []
    for column, factor, digits, title in MEASURES:
        methods = list(dict.fromkeys(m for m in cells["method"] if column == "f1" or m != "fp32"))
        lines = ["| | | " + " | ".join(methods) + " |", "| --- | --- |" + " ---: |" * len(methods)]
        for detector in dict.fromkeys(cells["detector"]):
            own = cells[cells["detector"] == detector]
            for bits in dict.fromkeys(zip(own["w_bits"], own["a_bits"], strict=True)):
                if bits == (32, 32):
                    continue
                lines.append(
                    f"| {detector} | W{bits[0]}A{bits[1]} | "
                    + " | ".join(_cell(own, method, bits, column, factor, digits) for method in methods)
                    + " |"
                )
        parts.append(f"{title}:\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _cell(
    own: pd.DataFrame, method: str, bits: tuple[int, int], column: str, factor: int, digits: int
) -> str:
    """The mean over seeds of one method at one bit setting; empty where nothing was measured."""
    at = own["method"] == method
    if method != "fp32":
        at &= (own["w_bits"] == bits[0]) & (own["a_bits"] == bits[1])
    values = own[at][column].dropna()
    return f"{factor * values.mean():.{digits}f}" if len(values) else ""


REFERENCE_MEASURES = (("f1", 100, MEASURES[0][3]), ("lds", 1, "LDS, px"))
TUSIMPLE_MEASURES = (("accuracy", 100, "TuSimple's accuracy, %"), ("lds", 1, "LDS, px"))


def reference_tables(path: Path, halves: bool = False) -> str:
    """Accuracy and LDS of every cell as Markdown: the mean over seeds, with the least and largest of several.

    halves: Selective Focus and what is left of it without its halves, where those were run; else all but these.
    Raises ValueError for a table that mixes what must not be averaged.
    """
    cells = pd.read_csv(path)
    for column in ("variant", "weights", "dataset", "images", "device"):
        if (cells.groupby("detector")[column].nunique() > 1).any():
            raise ValueError(
                f"{path}: rows of one detector differ in {column}; expected one value to average over"
            )
    without = cells["method"].str.startswith("selective-focus-without")
    rows = zip(cells["detector"], cells["w_bits"], cells["a_bits"], strict=True)
    halved = set(zip(*(cells[without][name] for name in ("detector", "w_bits", "a_bits")), strict=True))
    full = (cells["method"] == "selective-focus") & pd.Series(
        [row in halved for row in rows], index=cells.index
    )
    cells = cells[without | full] if halves else cells[~without]
    if cells.empty:
        return "Not run yet."
    parts = []
    measures = TUSIMPLE_MEASURES if set(cells["dataset"]) == {"tusimple"} else REFERENCE_MEASURES
    for column, factor, title in measures:
        quantized = cells[cells["method"] != "fp32"]
        methods = list(dict.fromkeys(quantized["method"]))
        lines = ["| | | " + " | ".join(methods) + " |", "| --- | --- |" + " ---: |" * len(methods)]
        for (detector, w_bits, a_bits), own in quantized.groupby(
            ["detector", "w_bits", "a_bits"], sort=False
        ):
            values = [factor * own[own["method"] == method][column].dropna() for method in methods]
            lines.append(f"| {detector} | W{w_bits}A{a_bits} | " + " | ".join(map(_spread, values)) + " |")
        parts.append(f"{title}:\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _spread(values: pd.Series[float]) -> str:
    """ "85.2 (84.7 to 85.6)" of several values, "85.2" of one, nothing of none."""
    if not len(values):
        return ""
    mean = f"{values.mean():.1f}"
    return mean if len(values) == 1 else f"{mean} ({values.min():.1f} to {values.max():.1f})"


def settings_table(path: Path) -> str:
    """The trials as Markdown."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [
        "| detector | method | bits | learning rate | validation F1 % | validation LDS px | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        f1 = f"{100 * float(row['val_f1']):.1f}" if row["val_f1"] else ""
        lines.append(
            f"| {row['detector']} | {row['method']} | {row['bits'].upper()} | {row['weight_lr']} | {f1} | "
            f"{row['val_lds']} | {row['reconstruction_s']} |"
        )
    return "\n".join(lines)


def main() -> int:
    """The command line; returns the exit code."""
    try:
        between(ROOT / "README.md", "quick-table", quick_tables(REFERENCE / "quick" / "cells.csv"))
        findings = ROOT / "docs" / "findings.md"
        for name in ("reference", "ranges", "equalisation", "reference-lstr"):
            run = REFERENCE / name / "cells.csv"
            if run.exists():
                between(findings, name, reference_tables(run))
        between(findings, "halves", reference_tables(REFERENCE / "reference" / "cells.csv", halves=True))
        between(ROOT / "docs" / "settings.md", "settings", settings_table(REFERENCE / "quick-settings.csv"))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
