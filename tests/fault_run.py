"""A small real run in a process of its own, and the faults that are put into it: each at a marker, none at a time.

Rendering, quantization, evaluation and writing are the benchmark's own; only the detector is a toy. ``run_with`` is
what the process does: its exit code is that of the command line.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import psutil
import stand_ins
import torch
import torch._dynamo  # an optimizer imports it: once here, not in every process

from bench import data, runner, table
from bench.errors import EXIT_BAD_INPUT, EXIT_FAILED_CELLS, EXIT_INTERRUPTED, bad_input_errors
from bench.parts import Parts, standard_parts
from bench.profile import Profile
from bench.store import RunFolder

FOCUS = {"iterations": 4, "batch_size": 2, "measure_images": 2, "measure_every": 2}
PROFILE = Profile(
    name="toy",
    detectors=["toy"],
    methods={"fp32": {}, "minmax": {}, "selective-focus": FOCUS},
    bits=["w4a4"],
    seeds=[0],
    calibration_images=2,
    limit=3,
    batch_size=2,
)
CELLS = 3


class Markers:
    """The listener of the run, which calls the fault when a marker is reached."""

    def __init__(self, at: dict[str, Callable[[], None]]) -> None:
        self._at = at
        self._cell = ""

    def reach(self, marker: str) -> None:
        self._at.get(marker, lambda: None)()

    def rendered(self, frames: int, of: int) -> None:
        self.reach("rendered")

    def planned(self, cells: int) -> None:
        assert cells == CELLS

    def started(self, cell: Any) -> None:
        self._cell = cell.method
        self.reach(f"{self._cell} started")

    def reconstructed(self, steps: int, of: int) -> None:
        self.reach(f"{self._cell} step {steps}")

    def evaluated(self, frames: int, of: int) -> None:
        self.reach(f"{self._cell} evaluated {frames}")

    def finished(self, record: Any, reused: bool) -> None:
        self.reach(f"{record.cell['method']} finished")


def run_with(fault: str, place: Path) -> None:
    """The run in ``place`` with a fault ("" for none). Ends the process."""
    data.SYNTHETIC_ROOT = Path("frames")  # not at import: tests of the same process would render here
    os.chdir(place)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    processors = os.cpu_count
    os.cpu_count = lambda: 1  # rendering in this process
    markers: dict[str, Callable[[], None]] = {}
    if fault:
        FAULTS[fault](markers)
    if fault == "render worker killed":
        os.cpu_count = processors
    folder = RunFolder(place / "run")
    try:
        records = runner.run(PROFILE, folder, parts(), Markers(markers))
        table.write_csv(folder, folder.records())
        table.write_markdown(folder, folder.records())
        code = EXIT_FAILED_CELLS if any(record.status != "done" for record in records) else 0
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except bad_input_errors() as error:
        with contextlib.suppress(OSError):  # the disk may be what is wrong
            (place / "filler").unlink(missing_ok=True)
            (place / "error.txt").write_text(str(error))
        code = EXIT_BAD_INPUT
    os._exit(code)


def parts() -> Parts:
    real = standard_parts()
    return Parts(
        build=lambda name, profile: (stand_ins.toy_detector(), "embedded"),
        load_data=real.load_data,
        quantize=real.quantize,
        resolve_options=real.resolve_options,
        learns=real.learns,
    )


def kill() -> None:
    """What `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def at_marker(marker: str, act: Callable[[], None] = kill) -> Callable[[dict[str, Any]], None]:
    return lambda markers: markers.update({marker: act})


def at_rename(suffix: str, count: int, before: bool = True) -> Callable[[dict[str, Any]], None]:
    """Killed at the ``count``-th rename of a file whose name ends so: everything is written, nothing has its name."""

    def prepare(_: dict[str, Any]) -> None:
        rename, seen = os.replace, [0]

        def replace(source: Any, target: Any) -> None:
            seen[0] += str(target).endswith(suffix)
            if before and seen[0] == count:
                kill()
            rename(source, target)
            if seen[0] == count:
                kill()

        os.replace = replace

    return prepare


def half_written(_: dict[str, Any]) -> None:
    """Killed when half of the second record is in its temporary file."""
    sync, seen = os.fsync, [0]

    def fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        seen[0] += path.parent.name == "records" and ".json." in path.name
        if seen[0] == 2:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            kill()
        sync(descriptor)

    os.fsync = fsync


def calibration(_: dict[str, Any]) -> None:
    """Killed with the calibration images read and nothing quantized yet."""
    images = runner.Subject.calibration_images

    def read_then_die(subject: Any) -> Any:
        images(subject)
        kill()

    runner.Subject.calibration_images = read_then_die


def render_worker(_: dict[str, Any]) -> None:
    """One of the processes that render is killed as soon as it is there."""

    def hunt() -> None:
        while True:
            for child in psutil.Process().children():
                if "spawn_main" in " ".join(child.cmdline()):
                    child.kill()
                    return
            time.sleep(0.005)

    threading.Thread(target=hunt, daemon=True).start()


def not_a_number(_: dict[str, Any]) -> None:
    """The first step of the optimizer leaves NaN behind, so the next loss is NaN."""
    step = torch.optim.Adam.step

    def poisoned(optimizer: Any, *args: Any, **options: Any) -> Any:
        loss = step(optimizer, *args, **options)
        optimizer.param_groups[0]["params"][0].data.fill_(torch.nan)
        return loss

    torch.optim.Adam.step = poisoned


def fill_the_disk() -> None:
    """Writes until the system says that the device is full."""
    with open("filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(2**16))
        except OSError:
            return


def interrupt() -> None:
    """What Ctrl-C does."""
    os.kill(os.getpid(), signal.SIGINT)


FAULTS: dict[str, Callable[[dict[str, Any]], None]] = {
    "kill -9, rendering": at_rename(".jpg", 3),
    "kill -9, full precision": at_marker("fp32 evaluated 2"),
    "kill -9, writing full-precision lanes": at_rename(".npz", 1),
    "kill -9, calibration": calibration,
    "kill -9, reconstruction": at_marker("selective-focus step 3"),
    "kill -9, evaluation": at_marker("selective-focus evaluated 2"),
    "kill -9, half a record written": half_written,
    "kill -9, record written but not named": at_rename(".json", 4),
    "kill -9, record just named": at_rename(".json", 4, before=False),
    "kill -9, writing the table": at_rename("cells.csv", 1),
    "render worker killed": render_worker,
    "Ctrl-C, evaluation": at_marker(
        "selective-focus evaluated 2", lambda: os.kill(os.getpid(), signal.SIGINT)
    ),
    "NaN loss": not_a_number,
    "disk full, evaluation": at_marker("minmax evaluated 2", fill_the_disk),
}
