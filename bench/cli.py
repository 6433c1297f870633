"""The command line: ``python -m bench VERB``; ``--help`` lists the verbs."""

from __future__ import annotations

import json
import re
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from bench import ablate, catalogue, cluster, housekeeping, noise, plots, prediction, table
from bench import doctor as health
from bench.claims import verb as claims
from bench.detectors import build, check, profile_for_folder
from bench.errors import (
    EXIT_BAD_INPUT,
    EXIT_FAILED_CELLS,
    EXIT_INTERRUPTED,
    BenchError,
    bad_input_errors,
    one_line,
)
from bench.metrics.culane import WIDTH
from bench.metrics.score import score_folders
from bench.parts import standard_parts
from bench.profile import DATASETS, Profile, load_profile, profile_names
from bench.progress import ConsoleListener
from bench.report import verb as report
from bench.runner import check_device, run
from bench.store import RUNS, RunFolder, run_names
from bench.usage import EXIT_CODES, completion, epilog
from bench.workers import helping
from selective_focus.methods import find, methods

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Benchmark of quantized lane detectors.",
    epilog=EXIT_CODES,
    pretty_exceptions_enable=False,
)
TABLE_WIDTH = 100
FETCHED = Path("weights")
"""Where ``make weights`` puts released checkpoints."""
app.add_typer(claims.app)
app.add_typer(housekeeping.app)
app.add_typer(report.app)

ResultsOption = Annotated[Path, typer.Option("--results", help="Folder of all runs.")]
NameOption = Annotated[str, typer.Option("--name", help="Name of the run: a folder in --results.")]
ProfileOption = Annotated[str, typer.Option("--profile", help="One that list names, or a TOML file.")]
CalibrationOption = Annotated[
    int | None,
    typer.Option("--calibration-images", help="At most so many unlabelled images for methods."),
]
LimitOption = Annotated[
    int | None, typer.Option("--limit", help="At most so many test frames, drawn with seed 0.")
]
DeviceOption = Annotated[str | None, typer.Option("--device", help="cpu or cuda.")]
ClusterOption = Annotated[
    str | None, typer.Option("--cluster", help="Address of a Ray cluster, or local: docs/cluster.md.")
]
CellCpusOption = Annotated[
    int, typer.Option("--cell-cpus", min=1, help="With --cluster: CPUs that a cell takes.")
]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", help="Processes that share the cells, each with its part of the cores."),
]


@app.command("list", epilog=epilog("list"))
def list_things(
    as_csv: Annotated[bool, typer.Option("--csv", help="The detectors as CSV; nothing else.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The detectors as JSON; nothing else.")] = False,
) -> None:
    """Detectors with sizes, heads, weights and F1; methods, data sets, profiles and runs."""
    entries = catalogue.catalogue()
    if as_csv or as_json:
        print(
            json.dumps(catalogue.plain(entries), indent=2) if as_json else catalogue.as_csv(entries).rstrip()
        )
        return
    console = _console()
    for part in catalogue.tables(entries):
        console.print(part, highlight=False)
    console.print("methods:   ", ", ".join(methods()), markup=False)
    console.print("data sets: ", ", ".join(DATASETS), markup=False)
    console.print("profiles:  ", ", ".join(profile_names()), markup=False)
    console.print("runs:      ", ", ".join(run_names(RUNS)) or "none yet; python -m bench run", markup=False)


@app.command("run", epilog=epilog("run"))
def run_profile(
    profile: ProfileOption = "quick",
    detectors: Annotated[str | None, typer.Option(help="a,b: names, or name:variant.")] = None,
    variant: Annotated[str | None, typer.Option(help="Variant of the detectors.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Checkpoint file, or a folder of checkpoints.")] = None,
    dataset: Annotated[str | None, typer.Option(help="synthetic, culane or tusimple.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the data set.")] = None,
    split: Annotated[str | None, typer.Option(help="test, or val to choose settings.")] = None,
    method_names: Annotated[str | None, typer.Option("--methods", help="a,b: see list.")] = None,
    bits: Annotated[str | None, typer.Option(help="w4a4,w8a8")] = None,
    seeds: Annotated[str | None, typer.Option(help="0,1,2")] = None,
    calibration_images: CalibrationOption = None,
    frames_per_category: Annotated[int | None, typer.Option(help="At most so many of each category.")] = None,
    limit: LimitOption = None,
    device: DeviceOption = None,
    workers: WorkersOption = None,
    address: ClusterOption = None,
    cell_cpus: CellCpusOption = 1,
    name: Annotated[str | None, typer.Option(help="Name of the run; default: profile or data set.")] = None,
    results: ResultsOption = RUNS,
    plot_too: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw the plots at the end.")] = True,
) -> None:
    """Run what has no record yet; print the table, write cells.csv, table.md and plots."""
    chosen = load_profile(
        profile,
        detectors=_words(detectors),
        variant=variant,
        weights=weights,
        dataset=dataset,
        root=root,
        split=split,
        methods=_words(method_names),
        bits=_words(bits),
        seeds=_words(seeds),
        calibration_images=calibration_images,
        frames_per_category=frames_per_category,
        limit=limit,
        device=device,
        workers=workers,
        name=name or (dataset if dataset not in (None, "synthetic") else None),
    )
    _run(chosen, results, plot_too, address, cell_cpus)


@app.command("culane", epilog=epilog("culane"))
def run_culane(
    root: Annotated[str, typer.Option(help="CULane's folder: list/, driver_.../")],
    weights: Annotated[str, typer.Option(help="Folder of official checkpoints.")] = "",
    profile: ProfileOption = "quick",
    calibration_images: CalibrationOption = None,
    limit: LimitOption = None,
    device: DeviceOption = None,
    workers: WorkersOption = None,
    address: ClusterOption = None,
    cell_cpus: CellCpusOption = 1,
    name: NameOption = "culane",
    results: ResultsOption = RUNS,
) -> None:
    """The table on real CULane: official weights where --weights has them, else the small embedded ones."""
    if not root:
        raise BenchError("no CULane folder was given; make bench-culane CULANE=DIR [WEIGHTS=DIR]")
    base = load_profile(
        profile,
        dataset="culane",
        root=Path(root),
        weights=Path(weights) if weights else FETCHED if FETCHED.is_dir() else None,
        calibration_images=calibration_images,
        limit=limit,
        device=device,
        workers=workers,
        name=name,
    )
    for line in health.before_culane(base, Path(root)):
        _tell(line)
    chosen, notes = profile_for_folder(base)
    for note in notes:
        _tell(note)
    _run(chosen, results, True, address, cell_cpus)


@app.command("ablate", epilog=epilog("ablate"))
def run_ablation(
    grids: Annotated[str, typer.Option("--grid", help="a,b: grids of the profile, or all.")],
    profile: Annotated[str, typer.Option("--profile", help="A profile with grids.")] = "ablations",
    detectors: Annotated[str | None, typer.Option(help="a,b: names, or name:variant.")] = None,
    bits: Annotated[str | None, typer.Option(help="w4a4,w3a3")] = None,
    seeds: Annotated[str | None, typer.Option(help="0,1,2")] = None,
    split: Annotated[str | None, typer.Option(help="val (the profile's) or test.")] = None,
    calibration_images: CalibrationOption = None,
    limit: LimitOption = None,
    device: DeviceOption = None,
    workers: WorkersOption = None,
    address: ClusterOption = None,
    cell_cpus: CellCpusOption = 1,
    name: Annotated[str | None, typer.Option(help="Name of the run; default: the profile's.")] = None,
    results: ResultsOption = RUNS,
) -> None:
    """Readings of Selective Focus, one option at a time, each beside the unchanged method; on validation frames."""
    base = load_profile(
        profile,
        detectors=_words(detectors),
        bits=_words(bits),
        seeds=_words(seeds),
        split=split,
        calibration_images=calibration_images,
        limit=limit,
        device=device,
        workers=workers,
        name=name,
    )
    chosen = ablate.with_grids(base, list(base.grids) if grids == "all" else _words(grids) or [])
    try:
        _run(chosen, results, False, address, cell_cpus)
    finally:
        if any((results / chosen.name / "records").glob("*.json")):
            _show_ablation(RunFolder(results / chosen.name))


@app.command("noise", epilog=epilog("noise"))
def disturb_heads(
    profile: ProfileOption = "quick",
    detectors: Annotated[str | None, typer.Option(help="a,b: names, or name:variant.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Checkpoint file, or a folder of checkpoints.")] = None,
    dataset: Annotated[str | None, typer.Option(help="synthetic, culane or tusimple.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the data set.")] = None,
    calibration_images: CalibrationOption = None,
    device: DeviceOption = None,
    name: Annotated[str | None, typer.Option(help="Name of the run; default: the profile's.")] = None,
    results: ResultsOption = RUNS,
) -> None:
    """Noise of equal norm on the foreground and on the background of each head: how far lanes move (claim C5)."""
    chosen = load_profile(
        profile,
        detectors=_words(detectors),
        weights=weights,
        dataset=dataset,
        root=root,
        calibration_images=calibration_images,
        device=device,
        name=name,
    )
    check_device(chosen.device)
    folder = RunFolder(results / chosen.name)
    for detector in chosen.detectors:
        for found in noise.measure(chosen, detector, folder, ConsoleListener(_console())):
            for line in found.lines():
                _tell(line)
    _tell(f"{folder.path / 'noise'}; python -m bench claims --results {folder.path} judges it")


@app.command("table", epilog=epilog("table"))
def show_table(
    name: NameOption = "quick",
    results: ResultsOption = RUNS,
    as_json: Annotated[bool, typer.Option("--json", help="The cells as JSON; nothing else.")] = False,
) -> None:
    """Print the table of a run again, and write cells.csv and table.md from its records."""
    folder = _existing(results / name)
    if as_json:
        print(table.csv_frame(folder.records()).to_json(orient="records", indent=2))
        return
    _show(folder, _console())


@app.command("plot", epilog=epilog("plot"))
def draw_plots(name: NameOption = "quick", results: ResultsOption = RUNS) -> None:
    """Draw the plots of a run again, and write its tables, from its records."""
    folder = _existing(results / name)
    _show(folder, _console())
    for path in plots.draw_all(folder):
        _console().print(str(path), markup=False, highlight=False)


@app.command("score", epilog=epilog("score"))
def score_predictions(
    annotations: Annotated[Path, typer.Option(help="Folder of annotated .lines.txt files.")],
    predictions: Annotated[Path, typer.Option(help="Folder of predicted .lines.txt files.")],
    list_file: Annotated[Path, typer.Option("--list", help="Image names, one a line.")],
    iou: Annotated[float, typer.Option(help="Threshold of a match, between 0 and 1.")] = 0.5,
    width: Annotated[int, typer.Option(help="Width of the drawn lanes, pixels.")] = WIDTH,
    image_size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of the frames.")] = "1640x590",
    workers: Annotated[int | None, typer.Option(help="Processes; default: one a core.", min=1)] = None,
) -> None:
    """CULane's F1 of lane files, equal to the C++ evaluator, as one JSON object."""
    size = _image_size(image_size)
    print(json.dumps(score_folders(annotations, predictions, list_file, iou, width, size, workers)))


@app.command("doctor", epilog=epilog("doctor"))
def check_setup(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    culane: Annotated[Path | None, typer.Option(help="A folder in CULane's layout, to be checked.")] = None,
    tusimple: Annotated[Path | None, typer.Option(help="A TuSimple folder, to be checked.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Checkpoints to be recognised.")] = None,
    profile: ProfileOption = "quick",
) -> None:
    """Versions, processor, memory, disk, data and weights, and what to do. Exit code 1 when something will fail."""
    failing = 0
    for finding in health.examine(device, profile, culane, tusimple, weights):
        _tell(finding.line)
        failing += finding.level == "BAD"
    if failing:
        raise typer.Exit(EXIT_FAILED_CELLS)


@app.command("predict", epilog=epilog("predict"))
def predict_lanes(
    image: Annotated[Path, typer.Option(help="An image, a folder of images, or a video.")],
    out: Annotated[Path, typer.Option(help="PNG or video to write; a folder when --image is one.")],
    detector: Annotated[str, typer.Option(help="Name, or name:variant.")] = "laneatt",
    weights: Annotated[Path | None, typer.Option(help="Checkpoint; default: embedded weights.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Draw the lanes that a detector sees, with scores; print how long preprocessing, network and decoding took."""
    check_device(device)
    model, _ = build(detector, None, weights)
    for line in prediction.predict(model, image, out, device):
        _console().print(line, markup=False, highlight=False, soft_wrap=True)


@app.command("completion", epilog=epilog("completion"))
def print_completion() -> None:
    """A script for Bash that defines the short command bench and completes its verbs and options."""
    print(completion(typer.main.get_command(app)))


def _tell(line: str) -> None:
    _console().print(line, markup=False, highlight=False, soft_wrap=True)


def _run(profile: Profile, results: Path, plot_too: bool, address: str | None, cell_cpus: int) -> None:
    if address is None:
        check_device(profile.device)
    for label in profile.methods:
        find(profile.method_of(label))
        if label in methods() and profile.method_of(label) != label:
            raise BenchError(f"{label!r} is a method of its own; give its options under another label")
    for name in profile.detectors:
        check(name, profile.variant, profile.weights)
    folder = RunFolder(results / profile.name)
    console = _console()
    with ConsoleListener(console) as listener:
        helpers = partial(helping, profile, folder)
        if address is None:
            records = run(profile, folder, standard_parts(), listener, helpers)
        else:
            records = cluster.run(profile, folder, standard_parts(), listener, address, cell_cpus)
    _show(folder, console)
    console.print(listener.summary(), markup=False, highlight=False)
    if plot_too and (listener.measured or not any((folder.path / "plots").glob("*"))):
        drawn = plots.draw_all(folder)
        console.print(f"{len(drawn)} plots in {folder.path / 'plots'}", markup=False, highlight=False)
    unfinished = [record for record in records if record.status not in ("done", "skipped")]
    if unfinished:
        first = unfinished[0]
        print(
            f"{len(unfinished)} cells have no score; the first: {first.status}, {first.reason}",
            file=sys.stderr,
        )
        raise typer.Exit(EXIT_FAILED_CELLS)


def _show(folder: RunFolder, console: Console) -> None:
    records = folder.records()
    table.write_csv(folder, records)
    table.write_markdown(folder, records)
    for part in table.sections(records):
        console.print(table.terminal(part))
    for path in folder.set_aside:
        print(
            f"warning: {path}: a damaged record, which does not count; run again to measure its cell",
            file=sys.stderr,
        )
    console.print(f"{folder.path / 'cells.csv'}", markup=False, highlight=False)


def _show_ablation(folder: RunFolder) -> None:
    rows, left_out = ablate.compare(folder.records())
    ablate.write(folder, rows, left_out)
    _console().print(ablate.terminal(rows))
    _console().print(f"{folder.path / 'ablation.md'}, ablation.csv", markup=False, highlight=False)


def _existing(path: Path) -> RunFolder:
    folder = RunFolder(path)
    if not any(folder.records_path.glob("*.json")):
        raise BenchError(
            f"{path}: no records of a run there; start one with python -m bench run --name {path.name}"
        )
    return folder


def _image_size(text: str) -> tuple[int, int]:
    """ "1640x590" -> (590, 1640)"""
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text.strip().lower())
    if match is None:
        raise BenchError(f"image size {text!r}: expected WIDTHxHEIGHT in pixels, such as 1640x590")
    return int(match[2]), int(match[1])


def _words(text: str | None) -> list[Any] | None:
    if text is None:
        return None
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise BenchError(f"{text!r}: expected names separated by commas")
    return words


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=TABLE_WIDTH, soft_wrap=False)


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    """Warnings of the readers are for the person at the terminal: one line, without a source line."""
    print(f"warning: {one_line(Warning(str(message)))}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> None:
    """Runs a verb. Bad input: one line on stderr and exit code 2; Ctrl-C: 130."""
    warnings.showwarning = _warn
    try:
        code = app(args=arguments, standalone_mode=False)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except bad_input_errors() as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
    except Exception as error:
        if not hasattr(error, "format_message"):  # a mistake of ours: show where
            raise
        print(f"error: {error.format_message()} (see python -m bench --help)", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
    sys.exit(code or 0)
