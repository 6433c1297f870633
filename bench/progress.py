"""What the person at the terminal sees while cells run: a bar, or plain lines where there is no terminal."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from bench.cells import Cell
from bench.store import Record

SECONDS_BETWEEN_LINES = 60
"""Of plain lines about one reconstruction."""


class ConsoleListener:
    """One bar over the cells and one inside the cell, with the time left; a line for every finished cell."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._rendering: TaskID | None = None
        self._tenths = 0
        self._cells: TaskID | None = None
        self._frames: TaskID | None = None
        self._cell: Cell | None = None
        self._phase_began: float | None = None
        self._first_step = 0
        self._steps = 0
        self._told = 0.0
        self._total = 0
        self._finished = 0
        self._reused = 0
        self._ends: list[float] = []
        """When measuring began and when each cell was done, by whichever process."""

    def __enter__(self) -> ConsoleListener:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def rendered(self, frames: int, of: int) -> None:
        """The synthetic frames are being made: a bar, or a line each tenth."""
        if self._rendering is None:
            self._console.print(f"rendering {of} synthetic frames, once", highlight=False)
            self._rendering = self._bars.add_task("frames", total=of, left="")
        self._bars.update(self._rendering, completed=frames)
        tenth = 10 * frames // of
        if tenth > self._tenths and not self._console.is_terminal:
            self._console.print(f"{frames} of {of} frames rendered", highlight=False)
        self._tenths = tenth

    def planned(self, cells: int) -> None:
        self._total = cells
        self._ends.append(time.monotonic())
        if self._rendering is not None:
            self._bars.remove_task(self._rendering)
        self._cells = self._bars.add_task("cells", total=cells, left="")
        self._frames = self._bars.add_task("", total=None, left="")

    def started(self, cell: Cell) -> None:
        self._cell = cell
        self._phase_began = None
        if self._frames is not None:
            self._bars.reset(self._frames, total=None, description=cell.label, left="")

    def reconstructed(self, steps: int, of: int) -> None:
        """Iterations of a method that learns: the bar, or a line a minute where there is none."""
        now = time.monotonic()
        if steps <= self._steps or self._phase_began is None:
            self._phase_began, self._first_step, self._told = now, steps, now
        self._steps = steps
        done = steps - self._first_step
        left = (now - self._phase_began) / done * (of - steps) if done else None
        words = "iterations" + (f", about {duration(left)} left" if left is not None else "")
        if self._frames is not None:
            self._bars.update(self._frames, completed=steps, total=of, left=words)
        if (
            not self._console.is_terminal
            and now - self._told >= SECONDS_BETWEEN_LINES
            and self._cell is not None
        ):
            self._told = now
            self._console.print(f"{self._cell.label}: {steps} of {of} {words}", highlight=False, markup=False)

    def evaluated(self, frames: int, of: int) -> None:
        if self._frames is not None:
            self._bars.update(self._frames, completed=frames, total=of, left="frames")

    def finished(self, record: Record, reused: bool) -> None:
        self._finished += 1
        self._reused += reused
        if not reused:
            self._ends.append(time.monotonic())
            self._console.print(
                f"[{self._finished}/{self._total}] {describe(record)}{self._left()}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        if self._cells is not None:
            self._bars.update(self._cells, completed=self._finished, left=self._left().strip(", "))

    @property
    def measured(self) -> int:
        """Cells that have been measured now."""
        return self._finished - self._reused

    def summary(self) -> str:
        """How much was measured now and how much was there already."""
        return f"{self.measured} cells measured now, {self._reused} taken from earlier records"

    def _left(self) -> str:
        """A rough guess: the cells to come cost what the last three did (reconstruction comes last)."""
        remaining = self._total - self._finished
        if not remaining or len(self._ends) < 2:
            return ""
        recent = self._ends[-4:]
        return f", about {duration(remaining * (recent[-1] - recent[0]) / (len(recent) - 1))} left"


def describe(record: Record) -> str:
    """One finished cell in one line."""
    cell = record.cell
    seed = f" seed {cell['seed']}" if cell["seed"] else ""
    bits = "" if cell["method"] == "fp32" else f" w{cell['w_bits']}a{cell['a_bits']}"
    name = f"{cell['detector']} {cell['method']}{bits}{seed}"
    if record.result is None:
        return f"{name}: {record.status} ({record.reason})"
    result = record.result
    accuracy = f"accuracy {100 * result.accuracy:.2f} %, " if result.accuracy is not None else ""
    f1 = "undefined" if result.f1 is None else f"{100 * result.f1:.2f} %"
    seconds = record.timing["reconstruction_s"], record.timing["evaluation_s"]
    spent = f"reconstruction {duration(seconds[0])}, evaluation {duration(seconds[1])}"
    if "images_per_s" in record.timing:
        spent += f" ({record.timing['images_per_s']:.0f} images/s)"
    return f"{name}: {accuracy}F1 {f1}, LDS {result.lds:.2f} px, {spent}"


def duration(seconds: float) -> str:
    """Seconds in words: "0.4 s", "12 s", "3 min", "1.5 h"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
