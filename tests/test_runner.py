"""The runner: order, resuming, every way in which a cell can end, and the same numbers however it is run."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import stand_ins
import torch
from toy import ToyDetector

from bench.cells import Cell, code_version, digest_of_state, metric_version
from bench.errors import BenchError
from bench.evaluate import NetworkInputs
from bench.full_precision import reference_key
from bench.limits import PeakMemory
from bench.parts import standard_parts
from bench.profile import load_profile
from bench.runner import combinations, run
from bench.store import Record, RunFolder
from bench.workers import Silent, helping
from datasets.errors import DatasetError
from lane_models.checkpoint import CheckpointError
from selective_focus.quantization.config import ConfigurationError


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def execute(folder: RunFolder, quantize: Any = stand_ins.noisy, **changes: Any) -> list[Record]:
    return run(stand_ins.profile(**changes), folder, stand_ins.parts(quantize), stand_ins.Listener())


def refusing(*args: Any, **options: Any) -> Any:
    raise AssertionError("this cell should not have run again")


def test_order_full_precision_then_cheap_then_seed_after_seed() -> None:
    profile = stand_ins.profile(methods={"selective-focus": {}, "minmax": {}, "fp32": {}})
    assert combinations(profile, stand_ins.parts().learns) == [
        ("fp32", "w32a32", 0),
        ("minmax", "w8a8", 0),
        ("minmax", "w4a4", 0),
        ("selective-focus", "w8a8", 0),
        ("selective-focus", "w4a4", 0),
        ("selective-focus", "w8a8", 1),
        ("selective-focus", "w4a4", 1),
    ]


def test_a_label_runs_its_method_and_is_remembered_under_its_name(folder: RunFolder) -> None:
    def quantize(*args: Any, method: str, **options: Any) -> Any:
        seen.append((method, options.pop("noise", 0.5)))
        return stand_ins.noisy(*args, method=method, **options)

    seen: list[tuple[str, float]] = []
    methods = {"minmax": {}, "minmax-quiet": {"method": "minmax", "noise": 0.1}}
    plain, label = execute(folder, quantize, methods=methods, bits=["w4a4"], seeds_at={"w4a4": [3, 4]})
    assert seen == [("minmax", 0.5), ("minmax", 0.1)]
    assert (label.cell["method"], label.cell["base_method"]) == ("minmax-quiet", "minmax")
    assert (label.cell["settings"], label.cell["seed"]) == ({"noise": 0.1}, 3)
    assert plain.cell["base_method"] == ""
    assert plain.key != label.key


def test_seeds_of_a_bit_setting() -> None:
    profile = stand_ins.profile(methods={"selective-focus": {}}, seeds_at={"w4a4": [0, 1, 2]}, seeds=[7])
    assert [cell[1:] for cell in combinations(profile, stand_ins.parts().learns)] == [
        ("w4a4", 0),
        ("w4a4", 1),
        ("w4a4", 2),
        ("w8a8", 7),
    ]


def test_scores_of_every_cell(folder: RunFolder) -> None:
    records = execute(folder)
    full = records[0].result
    assert full is not None
    assert (full.images, full.f1, full.lds) == (8, 1.0, 0.0)
    assert {name: item.images for name, item in full.categories.items()} == {"normal": 5, "night": 3}
    by_cell = {(r.cell["method"], r.cell["w_bits"], r.cell["seed"]): r.result for r in records}
    eight, four = by_cell["minmax", 8, 0], by_cell["minmax", 4, 0]
    assert eight is not None
    assert four is not None
    assert 0 < eight.lds < four.lds
    assert four.lds == pytest.approx(four.lds_displacement + four.lds_missing + four.lds_extra)
    assert four.tp is not None
    assert sum(four.frames["tp"]) == four.tp == sum(item.tp for item in four.categories.values())
    assert sum(four.frames["lds"]) / 8 == pytest.approx(four.lds, abs=1e-3)
    assert records[1].timing["reconstruction_s"] == 0.25
    assert records[1].timing["looking_s"] == 0.0
    assert set(records[1].examples) == {"frame 0", "frame 5"}


def test_a_second_run_measures_nothing(folder: RunFolder) -> None:
    first = execute(folder)
    listener = stand_ins.Listener()
    again = run(stand_ins.profile(), folder, stand_ins.parts(refusing), listener)
    assert again == first
    assert listener.total == 7
    assert all(reused for _, reused in listener.records)


def test_only_what_changed_runs_again(folder: RunFolder) -> None:
    execute(folder)
    listener = stand_ins.Listener()
    changed = stand_ins.profile(methods={"fp32": {}, "minmax": {"noise": 0.1}, "selective-focus": {}})
    run(changed, folder, stand_ins.parts(), listener)
    assert [cell.method for cell in listener.cells] == ["minmax", "minmax"]


def test_the_stored_full_precision_lanes_give_the_same_scores(folder: RunFolder, tmp_path: Path) -> None:
    together = execute(folder)
    apart = RunFolder(tmp_path / "apart")
    execute(apart, methods={"fp32": {}})
    assert len(list((apart.path / "fp32").glob("*.npz"))) == 1
    results = [record.result for record in execute(apart)]
    assert results == [record.result for record in together]


def test_damaged_full_precision_lanes_are_made_again(folder: RunFolder) -> None:
    first = execute(folder)
    for path in (folder.path / "fp32").iterdir():
        path.write_bytes(b"PK")
    for path in folder.records_path.iterdir():
        path.unlink()
    assert [record.result for record in execute(folder)] == [record.result for record in first]


def test_memory_changes_no_result_and_batches_only_rounding(folder: RunFolder, tmp_path: Path) -> None:
    first = [record.result for record in execute(folder)]
    streamed = [r.result for r in execute(RunFolder(tmp_path / "streamed"), input_cache_mb=0)]
    assert streamed == first
    for one, other in zip(first, execute(RunFolder(tmp_path / "batches"), batch_size=5), strict=True):
        assert one is not None
        assert other.result is not None
        assert other.result.f1 == one.f1
        assert other.result.lds == pytest.approx(one.lds, abs=1e-3)


def test_streamed_inputs_are_the_kept_ones() -> None:
    frames = [stand_ins.DrawnFrame(seed) for seed in range(7)]
    detector = stand_ins.toy_detector()
    kept = NetworkInputs(frames, detector, 100)
    streamed = NetworkInputs(frames, detector, 0)
    assert kept.kept
    assert not streamed.kept
    assert [len(batch) for batch in streamed.batches(2)] == [2, 2, 2, 1]
    assert torch.equal(torch.cat(list(kept.batches(3))), torch.cat(list(streamed.batches(2))))


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (RuntimeError("shapes differ"), "failed", "RuntimeError: shapes differ"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "out_of_memory", "out of memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            "out_of_memory",
            "fewer calibration images",
        ),
        (MemoryError(), "out_of_memory", "out of memory"),
        (NotImplementedError("needs a head of its own"), "skipped", "needs a head of its own"),
    ],
)
def test_a_failing_cell_is_recorded_and_the_others_go_on(
    folder: RunFolder, error: Exception, status: str, reason: str
) -> None:
    def failing(*args: Any, method: str, **options: Any) -> Any:
        if method == "minmax":
            raise error
        return stand_ins.noisy(*args, method=method, **options)

    records = execute(folder, failing)
    by_method = {record.cell["method"]: record for record in records}
    assert by_method["minmax"].status == status
    assert reason in by_method["minmax"].reason
    assert by_method["minmax"].result is None
    assert by_method["selective-focus"].status == "done"
    assert {r.status for r in execute(folder)} == {"done"}, "a failed cell has to be tried again"


def test_too_slow_a_cell(folder: RunFolder) -> None:
    def slow(*args: Any, **options: Any) -> Any:
        time.sleep(5)

    records = execute(folder, slow, cell_timeout_s=0.4, methods={"minmax": {}}, bits=["w4a4"])
    assert [record.status for record in records] == ["timeout"]
    assert "0.4 s" in records[0].reason


def test_bad_input_is_never_a_record(folder: RunFolder) -> None:
    def broken(*args: Any, **options: Any) -> Any:
        raise DatasetError("a.jpg: this image file ends too early")

    with pytest.raises(DatasetError, match="ends too early"):
        execute(folder, broken, methods={"minmax": {}})
    assert folder.records() == []


def test_a_run_that_fails_before_its_first_record_leaves_no_folder(folder: RunFolder) -> None:
    def no_such_option(method: str, bits: str, options: Any) -> Any:
        raise ConfigurationError(f"method {method!r} has no option 'typo'")

    def no_such_weights(name: str, profile: Any) -> Any:
        raise CheckpointError("half.pth: ends too early")

    def no_such_data(profile: Any, rendered: Any) -> Any:
        assert folder.path.is_dir(), "a folder that cannot be written is found out before the data is read"
        raise DatasetError("list/test.txt: is empty")

    for broken, kind in (
        ({"resolve_options": no_such_option}, ConfigurationError),
        ({"build": no_such_weights}, CheckpointError),
        ({"load_data": no_such_data}, DatasetError),
    ):
        with pytest.raises(kind):
            run(stand_ins.profile(), folder, replace(stand_ins.parts(), **broken), stand_ins.Listener())
        assert not folder.path.exists()
    folder.path.mkdir()
    (folder.path / "notes.txt").write_text("mine")
    with pytest.raises(DatasetError):
        run(
            stand_ins.profile(),
            folder,
            replace(stand_ins.parts(), load_data=no_such_data),
            stand_ins.Listener(),
        )
    assert (folder.path / "notes.txt").is_file(), "a folder that was there before is left alone"


def test_every_checkpoint_is_looked_at_before_the_first_cell(folder: RunFolder) -> None:
    def build(name: str, profile: Any) -> Any:
        if name == "second":
            raise CheckpointError("half.pth: ends too early")
        return stand_ins.toy_detector(), "embedded"

    parts = replace(stand_ins.parts(refusing), build=build)
    with pytest.raises(CheckpointError):
        run(stand_ins.profile(detectors=["first", "second"]), folder, parts, stand_ins.Listener())


def test_iterations_are_told_to_the_listener(folder: RunFolder) -> None:
    listener = stand_ins.Listener()
    run(stand_ins.profile(), folder, stand_ins.parts(), listener)
    assert listener.steps == 6 * 6


def test_interruption_is_recorded_and_the_rest_resumes(folder: RunFolder) -> None:
    def interrupted(*args: Any, method: str, **options: Any) -> Any:
        if method == "selective-focus":
            raise KeyboardInterrupt
        return stand_ins.noisy(*args, method=method, **options)

    with pytest.raises(KeyboardInterrupt):
        execute(folder, interrupted)
    assert sorted(r.status for r in folder.records()) == ["done", "done", "done", "interrupted"]
    listener = stand_ins.Listener()
    run(stand_ins.profile(), folder, stand_ins.parts(), listener)
    assert {cell.method for cell in listener.cells} == {"selective-focus"}


def stuck_process(folder: RunFolder) -> subprocess.Popen[str]:
    """A real process in the middle of the run's fourth cell, where it stays."""
    here = Path(__file__).parent
    script = (
        "import time, stand_ins\n"
        "from pathlib import Path\n"
        "from bench.runner import run\n"
        "from bench.store import RunFolder\n"
        "def slow(*args, method, **options):\n"
        "    if method == 'selective-focus':\n"
        "        print('in flight', flush=True); time.sleep(60)\n"
        "    return stand_ins.noisy(*args, method=method, **options)\n"
        f"run(stand_ins.profile(), RunFolder(Path({str(folder.path)!r})), stand_ins.parts(slow), "
        "stand_ins.Listener())\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "in flight"
    return process


def test_a_killed_run_loses_only_the_cell_in_flight(folder: RunFolder) -> None:
    process = stuck_process(folder)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [record.status for record in folder.records()] == ["done"] * 3
    listener = stand_ins.Listener()
    records = run(stand_ins.profile(), folder, stand_ins.parts(), listener)
    assert [record.status for record in records] == ["done"] * 7
    assert {cell.method for cell in listener.cells} == {"selective-focus"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no locks of single bytes")
def test_processes_share_the_cells_and_finish_those_of_a_killed_one(
    folder: RunFolder, tmp_path: Path
) -> None:
    process = stuck_process(folder)
    finished: list[Record] = []

    class Killing(stand_ins.Listener):
        def finished(self, record: Record, reused: bool) -> None:
            finished.append(record)
            if len(finished) == 6:  # all but the one that the other process is at
                assert record.cell["method"] == "selective-focus"
                process.send_signal(signal.SIGKILL)
                process.wait()

    listener = Killing()
    records = run(stand_ins.profile(), folder, stand_ins.parts(), listener)
    assert [record.status for record in records] == ["done"] * 7
    assert len(listener.cells) == 4
    assert listener.cells[-1].key == finished[-1].key == records[3].key
    alone = execute(RunFolder(tmp_path / "alone"))
    assert [record.result for record in records] == [record.result for record in alone]


def test_what_another_process_failed_at_is_not_tried_again(folder: RunFolder) -> None:
    def failing(*args: Any, **options: Any) -> Any:
        raise RuntimeError("no")

    [failed, *_] = [r for r in execute(folder, failing) if r.status == "failed"]
    assert folder.attempted(failed.key, since=failed.finished) == failed
    assert folder.attempted(failed.key, since="9999") is None


class Waiting(Silent):
    """Stays at its first cell until another process has finished one."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.cells: list[str] = []

    def started(self, cell: Cell) -> None:
        self.cells.append(cell.key)
        until = time.monotonic() + 120
        while not self.folder.records() and len(self.cells) == 1:
            assert time.monotonic() < until, "no other process took part"
            time.sleep(0.1)


@pytest.mark.skipif(os.name != "posix", reason="no locks of single bytes: one process does all")
def test_workers_give_the_same_records(tmp_path: Path) -> None:
    """Real processes and real parts: LaneATT on two frames."""
    methods = ["fp32", "minmax", "omse"]
    chosen = load_profile(
        "quick", detectors=["laneatt"], methods=methods, calibration_images=2, limit=2, workers=2
    )
    threads = torch.get_num_threads()
    folder = RunFolder(tmp_path / "two")
    listener = Waiting(folder)
    records = run(chosen, folder, standard_parts(), listener, partial(helping, chosen, folder))
    assert torch.get_num_threads() == threads
    assert 0 < len(listener.cells) < len(records)
    alone = run(chosen, RunFolder(tmp_path / "one"), standard_parts(), Silent())
    assert [record.key for record in records] == [record.key for record in alone]
    for one, other in zip(records, alone, strict=True):
        assert one.status == "done"
        assert one.result is not None
        assert other.result is not None
        assert one.result.lds == pytest.approx(other.result.lds, abs=0.5)  # threads round differently
        assert one.environment["processes"] == 2


def test_one_process_on_an_accelerator() -> None:
    assert load_profile("quick", workers=3, device="cuda").processes == 1


def test_key_changes_with_everything_that_decides(folder: RunFolder) -> None:
    cell = Cell(**execute(folder)[1].cell)
    changes: dict[str, Any] = {
        "seed": 1,
        "w_bits": 3,
        "settings": {"noise": 0.4},
        "weights_digest": "x",
        "data_digest": "x",
        "code": "x",
        "metric": "x",
        "calibration_images": 3,
        "calibration_digest": "x",
        "device": "cuda",
    }
    keys = {Cell(**{**cell.to_dict(), name: value}).key for name, value in changes.items()}
    assert len(keys | {cell.key}) == len(changes) + 1
    assert Cell(**{**cell.to_dict(), "weights": "the same under another file name"}).key == cell.key
    other_method = Cell(**{**cell.to_dict(), "method": "x", "seed": 5})
    assert reference_key(other_method) == reference_key(cell)


def test_weights_digest_knows_every_value() -> None:
    detector = ToyDetector(1)
    before = digest_of_state(detector.model)
    assert digest_of_state(detector.model) == before
    detector.model.exists.bias.data[0] += 1e-6
    assert digest_of_state(detector.model) != before


def test_code_version_ignores_plots_and_knows_the_library(tmp_path: Path) -> None:
    for name in (
        "selective_focus/a.py",
        "lane_models/toy/model.py",
        "bench/plots.py",
        "bench/metrics/culane.py",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1\n")
    for name in ("bench/evaluate.py", "bench/scorers.py", "selective_focus/lane_distortion.py"):
        (tmp_path / name).write_text("1\n")

    def versions() -> tuple[str, str]:
        code_version.cache_clear()
        metric_version.cache_clear()
        return code_version("toy", tmp_path), metric_version(tmp_path)

    first = versions()
    (tmp_path / "bench/plots.py").write_text("2\n")
    assert versions() == first
    (tmp_path / "selective_focus/a.py").write_bytes(b"1\r\n")
    assert versions() == first, "line ends are no change"
    (tmp_path / "lane_models/toy/model.py").write_text("2\n")
    second = versions()
    assert second[0] != first[0]
    assert second[1] == first[1]
    (tmp_path / "bench/metrics/culane.py").write_text("2\n")
    assert versions()[1] != first[1]
    code_version.cache_clear()
    metric_version.cache_clear()


def test_peak_memory_sees_a_large_array() -> None:
    """Fresh pages from the system (an allocator may hand out ones that already count), looked at until they show."""
    with PeakMemory("cpu", every_s=0.005) as memory:
        while memory.peak_mb == 0:
            time.sleep(0.005)
        before = memory.peak_mb
        with mmap.mmap(-1, 128 * 2**20) as block:
            block.write(b"1" * len(block))
            waited_until = time.monotonic() + 30
            while memory.peak_mb < before + 64 and time.monotonic() < waited_until:
                time.sleep(0.05)
    assert memory.peak_mb > before + 64


def test_an_unknown_device_is_one_line() -> None:
    from bench.runner import check_device

    with pytest.raises(BenchError, match="try cpu"):
        check_device("nonsense")
