"""``python -m bench report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.errors import BenchError
from bench.report import content, page
from bench.store import RUNS
from bench.usage import epilog

REFERENCE = Path("results/reference")
app = typer.Typer()


@app.command("report", epilog=epilog("report"))
def make_report(
    name: Annotated[str | None, typer.Option("--name", help="A run in --results.")] = None,
    records: Annotated[
        Path | None, typer.Option("--records", help="A run's folder, or a folder of runs.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option("--root", help="Folder of the test frames, for the gallery of real data.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The page.")] = Path("results/report.html"),
    results: Annotated[Path, typer.Option("--results", help="Folder of all runs.")] = RUNS,
    with_files: Annotated[
        bool, typer.Option("--files/--no-files", help="Figures and tables for papers beside the page.")
    ] = True,
) -> None:
    """One page of what happened: verdicts, table, figures, and frames with the lanes of every method.

    It needs no network. Beside it lie all figures (PNG, SVG, PDF) and tables (CSV, Markdown, LaTeX).
    """
    if name is not None and records is not None:
        raise BenchError("--name and --records both say what to report; give one of them")
    if out.suffix != ".html":
        raise BenchError(f"{out}: the page has to be named like report.html")
    folder = records or (results / name if name is not None else REFERENCE)
    report = content.gather_report(folder, root)
    written = page.write(report, out, with_files)
    size = out.stat().st_size / 2**20
    print(
        f"{out}: {size:.1f} MB, {len(report.rows)} rows"
        + (f"; {len(written) - 1} files in {out.with_suffix('')}" if with_files else "")
    )
