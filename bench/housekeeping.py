"""``python -m bench ls`` and ``python -m bench gc``: what there is of runs, and what may go."""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from bench.errors import BenchError
from bench.leftovers import Leftover, Run, leftovers, remove, runs_in
from bench.progress import duration
from bench.store import RUNS, RunFolder
from bench.usage import epilog
from bench.whole_file import cannot_write

app = typer.Typer()

ResultsOption = Annotated[Path, typer.Option("--results", help="Folder of all runs.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON array, nothing else.")]


@app.command("ls", epilog=epilog("ls"))
def list_runs(results: ResultsOption = RUNS, as_json: JsonOption = False) -> None:
    """Runs with their cells by status, their size and age."""
    runs = runs_in(results)
    if as_json:
        print(json.dumps([dataclasses.asdict(run) for run in runs], indent=2))
        return
    if not runs:
        print(f"no runs in {results}; start one with python -m bench run")
        return
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("run", "cells", "by status", "size", "last record"):
        table.add_column(name, justify="left" if name in ("run", "by status") else "right")
    for run in runs:
        table.add_row(*_texts(run))
    console = Console()
    (console if console.is_terminal else Console(width=100)).print(table, highlight=False)


@app.command("gc", epilog=epilog("gc"))
def collect_garbage(
    results: ResultsOption = RUNS,
    name: Annotated[str | None, typer.Option("--name", help="Only this run.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, only say what would go.")] = False,
    as_json: JsonOption = False,
) -> None:
    """What is stale in runs: records of other code, weights or data, damaged ones, temporary files, orphaned caches."""
    names = [run.name for run in runs_in(results)]
    if name is not None and name not in names:
        raise BenchError(f"{results / name}: no records of a run there; python -m bench ls shows the runs")
    found = [item for run in names if name in (None, run) for item in leftovers(RunFolder(results / run))]
    if as_json:
        print(json.dumps([{**dataclasses.asdict(item), "path": str(item.path)} for item in found], indent=2))
    else:
        print("\n".join(_summary(found, yes)))
    if yes:
        try:
            remove(found)
        except OSError as error:
            raise BenchError(cannot_write(Path(error.filename or results), error)) from error


def _texts(run: Run) -> list[str]:
    words = [f"{count} {status}" for status, count in sorted(run.cells.items(), key=lambda item: -item[1])]
    words += [f"{run.damaged} damaged"] if run.damaged else []
    age = f"{duration(time.time() - run.newest)} ago" if run.newest else ""
    return [run.name, str(sum(run.cells.values())), ", ".join(words), in_words(run.size), age]


def _summary(found: list[Leftover], deleted: bool) -> list[str]:
    if not found:
        return ["nothing is stale"]
    lines = [f"{item.path}  {in_words(item.size)}  {item.why}" for item in found]
    total = in_words(sum(item.size for item in found))
    counts = Counter(item.why for item in found)
    lines += [f"{count} times: {why}" for why, count in counts.most_common()]
    verb = "deleted" if deleted else "would go; delete them with --yes"
    return [*lines, f"{len(found)} files and folders, {total}, {verb}"]


def in_words(size: int) -> str:
    """Bytes as "512 B", "3.4 kB" or "12 MB"."""
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 10 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
