"""The page as a file, and beside it every figure and table for papers."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bench.claims.verdicts import RULES
from bench.errors import BenchError
from bench.plot_style import FORMATS, Plot, encoded
from bench.report import content, results
from bench.report.gallery import as_script
from bench.report.svg import for_page
from bench.whole_file import write_whole

TEMPLATES = Path(__file__).parent
MOST_MB = 15
"""More than this no mail server and no phone likes."""


def write(report: content.Report, out: Path, with_files: bool = True, title: str = "") -> list[Path]:
    """Writes the page, and into a folder of its name every figure (PNG, SVG, PDF) and table (CSV, Markdown, LaTeX).

    Gives the paths. Raises BenchError when the page grows beyond 15 MB, StoreError when it cannot be written.
    """
    folder = out.with_suffix("")
    formats = FORMATS if with_files else ("svg",)
    figures, written = {}, []
    for plot in _all_plots(report):
        files = encoded(plot, formats)
        figures[plot.name] = Markup(for_page(files["svg"], plot.name, plot.alt))
        for name, bytes_ in files.items() if with_files else ():
            written.append(folder / "figures" / f"{plot.name}.{name}")
            write_whole(written[-1], bytes_)
    tables = dict(_tables(report))
    for name, text in tables.items() if with_files else ():
        written.append(folder / "tables" / name)
        write_whole(written[-1], text.encode())
    page = render(report, figures, tables, title, folder.name if with_files else "").encode()
    if len(page) > MOST_MB * 2**20:
        raise BenchError(
            f"{out}: would have {len(page) / 2**20:.0f} MB, more than {MOST_MB}; report one run: --name RUN"
        )
    write_whole(out, page)
    return [out, *written]


def render(
    report: content.Report, figures: dict[str, Markup], tables: dict[str, str], title: str, files: str
) -> str:
    """The HTML. files: name of the folder that lies beside the page, empty where there is none."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["download"] = _as_link
    environment.filters["settings"] = lambda value: json.dumps(value, indent=1)
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    return environment.get_template("page.html").render(
        title=title or "Selective Focus Bench",
        report=report,
        claims=content.claims(report),
        rules=_paragraphs(RULES),
        headlines=content.headlines_of(report.runs),
        columns=results.shown_columns(report.rows),
        choices=_choices(report.rows),
        figures=figures,
        kinds=content.KINDS,
        plots=_all_plots(report),
        missing={run.name: content.missing(run) for run in report.runs},
        galleries=Markup(as_script(_galleries(report))),
        environments=content.environments(report),
        tables=tables,
        files=files,
        style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _all_plots(report: content.Report) -> list[Plot]:
    """Claims first, then run by run; with several runs a figure's name begins with the run's."""
    several = len(report.runs) > 1
    named = [
        Plot(f"{run.name}-{plot.name}" if several else plot.name, plot.kind, plot.alt, plot.draw)
        for run in report.runs
        for plot in run.plots
    ]
    return [*report.claim_plots, *named]


def _tables(report: content.Report) -> Iterator[tuple[str, str]]:
    """File's name and text of every table."""
    names = ("subject", "bits", "what", "paper", "measured", "verdict", "why")
    claims = [["claim", *names]]
    for claim in content.claims(report):
        claims += [[claim.key, *(finding[name] for name in names)] for finding in claim.findings]
    writers: dict[str, Callable[[Sequence[Sequence[str]]], str]] = {
        "csv": results.as_csv,
        "md": results.as_markdown,
        "tex": results.as_latex,
    }
    for name, lines in (("results", results.texts(report.rows)), ("claims", claims)):
        for ending, text_of in writers.items():
            yield f"{name}.{ending}", text_of(lines)


def _galleries(report: content.Report) -> dict[str, object]:
    several = len(report.runs) > 1
    subjects, pictures = [], {}
    for run in report.runs:
        for subject in run.gallery["subjects"]:
            subjects.append(
                {**subject, "name": f"{run.name}: {subject['name']}" if several else subject["name"]}
            )
        pictures |= run.gallery["pictures"]
    return {"subjects": subjects, "pictures": pictures}


def _choices(rows: Sequence[results.ResultRow]) -> dict[str, list[str]]:
    """The values that the table can be filtered by, in the order of the rows."""
    wanted = {"Run", "Data", "Detector", "Method", "Bits"}
    shown = [column for column in results.shown_columns(rows) if column.name in wanted]
    return {column.name: list(dict.fromkeys(column.text(row) for row in rows)) for column in shown}


def _as_link(text: str) -> str:
    """A table as the target of a download link."""
    return "data:text/plain;base64," + base64.b64encode(text.encode()).decode()


def _paragraphs(text: str) -> list[str | list[str]]:
    """Markdown of paragraphs and lists, as strings and lists of strings without their marks."""
    plain = [part.strip().replace("**", "").replace("`", "") for part in text.split("\n\n") if part.strip()]
    joined = [
        [" ".join(item.split()) for item in part.removeprefix("- ").split("\n- ")]
        if part.startswith("- ")
        else part
        for part in plain
    ]
    return [part if isinstance(part, list) else " ".join(part.split()) for part in joined]
