"""Faults put into real runs in real processes: afterwards the same command ends in the undisturbed table.

`make faults` writes the list of them, with what became of each, to docs/faults.md.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import fault_run
import pytest
import stand_ins
from test_download import CONTENT, Server, server  # noqa: F401 - server is a fixture

from bench import download
from bench.download import Wanted
from bench.errors import EXIT_BAD_INPUT, EXIT_FAILED_CELLS, EXIT_INTERRUPTED
from bench.store import RunFolder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="needs fork"),
]
KILLED = -signal.SIGKILL
MB = 2**20
ENDS = {
    **{fault: KILLED for fault in fault_run.FAULTS if fault.startswith("kill -9")},
    "render worker killed": EXIT_BAD_INPUT,
    "Ctrl-C, evaluation": EXIT_INTERRUPTED,
    "NaN loss": EXIT_FAILED_CELLS,
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one fault."""

    fault: str
    ended: str
    records_before: int
    records_lost: int
    same_table: bool


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Iterator[list[Outcome]]:
    """The list of faults, printed at the end and written where FAULTS_TO says."""
    found: list[Outcome] = []
    yield found
    lines = report(found)
    terminal = request.config.pluginmanager.getplugin("terminalreporter")
    terminal.write("\n" + "\n".join(lines) + "\n")
    if os.environ.get("FAULTS_TO"):
        Path(os.environ["FAULTS_TO"]).write_text("\n".join([*INTRODUCTION, *lines]) + "\n")


INTRODUCTION = (
    "# Faults",
    "",
    "Written by `make faults` (tests/test_faults.py). Each line is a fault put into a real run (rendering, full",
    "precision, min-max and Selective Focus on a toy detector) in a process of its own, at a marker and not at a time.",
    "Then the same command runs again, undisturbed. *Records lost*: finished records that the second run did not find",
    "byte for byte. *Same table*: `cells.csv`, seconds and memory aside, equals that of a run without a fault.",
    "",
)


def report(found: list[Outcome]) -> list[str]:
    survived = sum(outcome.same_table and not outcome.records_lost for outcome in found)
    lost = sum(outcome.records_lost for outcome in found)
    rows = [
        f"| {o.fault} | {o.ended} | {o.records_before} | {o.records_lost} | {'yes' if o.same_table else 'NO'} |"
        for o in found
    ]
    header = "| Fault | The run ended with | Finished records | Records lost | Same table |"
    total = f"{len(found)} faults injected, {survived} survived, {lost} records lost."
    return [header, "| --- | --- | ---: | ---: | --- |", *rows, "", total]


class Place:
    """A folder with a run in it, started as often as a test needs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = RunFolder(folder / "run")

    def start(self, fault: str = "") -> multiprocessing.process.BaseProcess:
        process = CONTEXT.Process(target=fault_run.run_with, args=(fault, self.folder))
        process.start()
        return process

    def ended(self, fault: str = "") -> int | None:
        process = self.start(fault)
        process.join()
        return process.exitcode

    def finished(self) -> dict[str, bytes]:
        """The finished records, as they lie on the disk."""
        done = [record.file_name for record in self.run.records() if record.status == "done"]
        return {name: (self.run.records_path / name).read_bytes() for name in done}

    def again(self, fault: str, ended: str, expected: str, before: dict[str, bytes]) -> Outcome:
        """The same command without the fault, and the outcome."""
        assert self.ended() == 0
        after = self.finished()
        assert len(after) == fault_run.CELLS
        lost = sum(after.get(name) != content for name, content in before.items())
        table = stand_ins.untimed_csv(self.run)
        assert (self.run.path / "cells.csv").read_text().count("\n") == fault_run.CELLS + 1
        return Outcome(fault, ended, len(before), lost, table == expected)


CONTEXT = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A run without a fault. One server process imports everything, then forks for every run."""
    here = Path(__file__).parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{here}{os.pathsep}{here.parent}")
        patch.setenv("OMP_NUM_THREADS", "1")
        CONTEXT.set_forkserver_preload(["fault_run"])
        place = Place(tmp_path_factory.mktemp("undisturbed"))
        assert place.ended() == 0
    assert len(place.finished()) == fault_run.CELLS
    return place


@pytest.fixture(scope="module")
def expected(undisturbed: Place) -> str:
    return stand_ins.untimed_csv(undisturbed.run)


@pytest.fixture
def place(tmp_path: Path, undisturbed: Place) -> Place:
    """A place where the frames are rendered already."""
    shutil.copytree(undisturbed.folder / "frames", tmp_path / "frames")
    return Place(tmp_path)


def check(outcome: Outcome, outcomes: list[Outcome]) -> None:
    outcomes.append(outcome)
    assert outcome.same_table
    assert outcome.records_lost == 0


@pytest.mark.parametrize("fault", ENDS)
def test_a_run_that_was_stopped(fault: str, place: Place, expected: str, outcomes: list[Outcome]) -> None:
    if "render" in fault:
        shutil.rmtree(place.folder / "frames")
    code = place.ended(fault)
    assert code == ENDS[fault]
    before = place.finished()
    statuses = Counter(record.status for record in place.run.records())
    assert statuses["failed"] == (fault == "NaN loss")
    assert statuses["interrupted"] == (code == EXIT_INTERRUPTED)
    ended = "signal 9" if code == KILLED else f"exit code {code}"
    check(place.again(fault, ended, expected, before), outcomes)


@pytest.fixture
def small_disk(undisturbed: Place) -> Iterator[Place]:
    """A file system of 40 MB of its own."""
    folder = Path(tempfile.mkdtemp(prefix="small-disk-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40m", "small-disk", str(folder)], capture_output=True
    )
    if mounted.returncode != 0:
        folder.rmdir()
        pytest.skip("a file system of one's own needs the rights to mount one")
    try:
        shutil.copytree(undisturbed.folder / "frames", folder / "frames")
        yield Place(folder)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


def test_a_disk_that_is_full(small_disk: Place, expected: str, outcomes: list[Outcome]) -> None:
    code = small_disk.ended("disk full, evaluation")
    assert code == EXIT_BAD_INPUT
    assert "the disk is full" in (small_disk.folder / "error.txt").read_text()
    before = small_disk.finished()
    assert len(before) == 1
    assert not list(small_disk.run.path.rglob("*.tmp"))
    check(small_disk.again("disk full, evaluation", f"exit code {code}", expected, before), outcomes)


def test_a_folder_that_became_read_only(small_disk: Place, expected: str, outcomes: list[Outcome]) -> None:
    def mount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(small_disk.folder)], check=True)

    assert small_disk.ended("kill -9, reconstruction") == KILLED
    before = small_disk.finished()
    mount("ro")
    try:
        code = small_disk.ended()
    finally:
        mount("rw")
    assert code == EXIT_BAD_INPUT
    check(small_disk.again("folder became read-only", f"exit code {code}", expected, before), outcomes)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


DAMAGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "damaged record": ("run/records/*.json", cut),
    "damaged full-precision lanes": ("run/fp32/*.npz", flip),
    "damaged list of rendered frames": ("frames/manifest/test.json", cut),
    "rendered frame cut short": ("frames/driver_*/*/*.jpg", cut),
    "damaged shown frames": ("run/examples/*/frames.json", cut),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_is_damaged_between_two_runs(
    damage: str, place: Place, expected: str, outcomes: list[Outcome]
) -> None:
    assert place.ended("kill -9, reconstruction") == KILLED
    pattern, spoil = DAMAGES[damage]
    spoil(sorted(place.folder.glob(pattern))[0])
    before = place.finished()  # a damaged record is lost by the fault itself, and is set aside here
    assert len(place.run.set_aside) == (damage == "damaged record")
    check(place.again(damage, "signal 9", expected, before), outcomes)


def test_a_damaged_image_of_the_user(place: Place, expected: str, outcomes: list[Outcome]) -> None:
    """A file that is not ours to make again: one line, no score, and the table once it is repaired."""
    image = next(place.folder.glob("frames/driver_*/*/*.jpg"))
    whole = image.read_bytes()
    image.write_bytes(whole[:-2] + b"\0\0")  # as long as before, so that no manifest notices
    assert place.ended() == EXIT_BAD_INPUT
    assert "ends too early" in (place.folder / "error.txt").read_text()
    assert not place.run.path.exists()
    image.write_bytes(whole)
    check(place.again("damaged image", f"exit code {EXIT_BAD_INPUT}", expected, {}), outcomes)


def test_two_runs_at_once(place: Place, expected: str, outcomes: list[Outcome]) -> None:
    together = [place.start(), place.start()]
    for process in together:
        process.join()
    assert [process.exitcode for process in together] == [0, 0]
    check(place.again("two runs at once", "exit code 0, twice", expected, place.finished()), outcomes)


def fetch_and_die(address: str, target: Path) -> None:
    def progress(done: int, total: int | None) -> None:
        if done >= len(CONTENT) // 2:
            fault_run.kill()

    download.CHUNK = len(CONTENT) // 8
    download.fetch(Wanted(address, target), progress=progress)


def test_a_download_is_killed(
    tmp_path: Path,
    undisturbed: Place,
    outcomes: list[Outcome],
    server: Server,  # noqa: F811
) -> None:
    target = tmp_path / "file.bin"
    process = CONTEXT.Process(target=fetch_and_die, args=(server.address(), target))
    process.start()
    process.join()
    assert process.exitcode == KILLED
    assert not target.exists()
    assert download.fetch(Wanted(server.address(), target))
    check(Outcome("kill -9, download", "signal 9", 0, 0, target.read_bytes() == CONTENT), outcomes)
