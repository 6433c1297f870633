"""Show that two versions of the code give the same numbers, and write it down for the tables.

    python scripts/same_code.py OLD_RUN NEW_RUN

Both are run folders (with records/). Every cell that both have must be equal in every score of every frame; then a line
a detector goes to results/reference/same-code.csv, and tables and claims take records of both versions together. Where
any cell differs nothing is written.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.errors import BenchError  # noqa: E402
from bench.same_code import COLUMNS, TABLE, equal_cells, rows_of  # noqa: E402
from bench.store import RunFolder  # noqa: E402
from bench.whole_file import write_whole  # noqa: E402


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    given = parser.parse_args()
    try:
        for folder in (given.old, given.new):
            if not (folder / "records").is_dir():
                raise BenchError(f"{folder}: no records; expected a run's folder, such as results/runs/quick")
        old, new = (RunFolder(folder).records() for folder in (given.old, given.new))
        pairs, differences = equal_cells(old, new)
        if differences or not pairs:
            reason = "\n".join(differences) or "no cell is in both"
            print(f"error: nothing written; {reason}", file=sys.stderr)
            return 1
        rows = rows_of(pairs)
        add(rows)
    except (BenchError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for row in rows:
        print(
            f"{row['detector']}: {row['cells']} cells equal, {row['code'][:12]} is as {row['same_as'][:12]}"
        )
    return 0


def add(rows: list[dict[str, str]]) -> None:
    """Put the rows at the end of the table. A code that has a line already is in none of them."""
    kept: list[dict[str, str]] = []
    if TABLE.is_file():
        with TABLE.open(encoding="utf-8", newline="") as file:
            kept = list(csv.DictReader(file))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows([*kept, *rows])
    write_whole(TABLE, text.getvalue().encode())


if __name__ == "__main__":
    sys.exit(main())
