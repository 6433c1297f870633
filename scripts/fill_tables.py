"""Write the tables of README.md and docs/settings.md from committed results, so that no number is typed.

    python scripts/fill_tables.py

results/reference/quick/table.md (a run of make reproduce-table) goes into README.md between its markers, and
results/reference/quick-settings.csv (scripts/choose_settings.py) into docs/settings.md.
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

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
        table = (REFERENCE / "quick" / "table.md").read_text(encoding="utf-8")
        between(ROOT / "README.md", "quick-table", table)
        between(ROOT / "docs" / "settings.md", "settings", settings_table(REFERENCE / "quick-settings.csv"))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
