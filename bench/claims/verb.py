"""``python -m bench claims``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.claims import figures, report
from bench.claims.evidence import gather
from bench.claims.examine import examine
from bench.claims.timing import time_to_reach
from bench.errors import BenchError
from bench.store import RUNS
from bench.usage import epilog
from bench.whole_file import write_whole

app = typer.Typer()


@app.command("claims", epilog=epilog("claims"))
def judge_claims(
    results: Annotated[
        list[Path] | None,
        typer.Option(
            "--results", help="A run, or a folder of runs; may be given again. Default: the committed runs."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for claims.csv, claims.md, plots.")] = RUNS
    / "claims",
    plot_too: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw the plots.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="The findings as JSON; writes nothing.")] = False,
) -> None:
    """The paper's claims against the records of finished runs: value, 95 % interval, verdict. Runs nothing."""
    evidence = gather(results or [Path("results/reference")])
    findings = examine(evidence)
    if as_json:
        print(report.json_text(findings))
        return
    times = [time for subject in evidence.subjects for time in time_to_reach(subject)]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchError(
            f"{out}: cannot be written ({error.strerror}); choose another with --out DIR"
        ) from error
    write_whole(out / "claims.csv", report.csv_text(findings).encode())
    write_whole(out / "claims.md", report.markdown(findings, evidence, times).encode())
    console = Console()
    if not console.is_terminal:
        console = Console(width=100)
    console.print(report.terminal(findings))
    for note in evidence.left_out:
        console.print(f"left out: {note}", markup=False, highlight=False)
    drawn = figures.draw_all(out, findings, evidence, times) if plot_too else []
    console.print(f"{out / 'claims.md'}, claims.csv, {len(drawn)} plots", markup=False, highlight=False)
