"""Cells on a Ray cluster of separate processes: the same records as a local run, also when a node is lost."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stand_ins

from bench import cluster, runner
from bench.cells import Cell
from bench.errors import BenchError
from bench.store import RunFolder

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'ray>=2.40' (docs/cluster.md)")
pytestmark = pytest.mark.slow

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
QUICK_TO_NOTICE = {"health_check_period_ms": 1000, "health_check_failure_threshold": 10}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A head without CPUs and three nodes with one each, all processes of their own."""
    from ray.cluster_utils import Cluster

    here = Path(__file__).parent
    before = dict(os.environ)
    os.environ |= {"PYTHONPATH": f"{here}{os.pathsep}{here.parent}", "RAY_USAGE_STATS_ENABLED": "0"}
    head = {**NODE, "num_cpus": 0, "include_dashboard": False, "_system_config": QUICK_TO_NOTICE}
    started = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(3):
        started.add_node(**NODE)
    try:
        yield started
    finally:
        started.shutdown()
        os.environ.clear()
        os.environ.update(before)


def failing(*args: Any, method: str, bits: str, **options: Any) -> Any:
    """One cell fails; the others are noisy."""
    if (method, bits) == ("minmax", "w8a8"):
        raise RuntimeError("no luck")
    return stand_ins.noisy(*args, method=method, bits=bits, **options)


def stumbling(*args: Any, marker: Path, **options: Any) -> Any:
    """The first call leaves the name of its node in a file and waits to be lost with it."""
    try:
        with marker.open("x") as file:
            file.write(ray.get_runtime_context().get_node_id())
    except FileExistsError:
        return failing(*args, **options)
    time.sleep(600)


def end_the_node_in(marker: Path, nodes: Any) -> None:
    while not (marker.is_file() and marker.read_text()):
        time.sleep(0.05)
    lost = next(node for node in nodes.worker_nodes if node.node_id == marker.read_text())
    nodes.remove_node(lost, allow_graceful=False)


def test_one_of_three_nodes_is_lost(nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = RunFolder(tmp_path / "local")
    runner.run(stand_ins.profile(), local, stand_ins.parts(failing), stand_ins.Listener())
    monkeypatch.setattr(cluster, "SHARD", 5)  # 8 frames in batches of 3: shards of 3, 3 and 2
    folder, listener, marker = RunFolder(tmp_path / "run"), stand_ins.Listener(), tmp_path / "marker"
    parts = stand_ins.parts(functools.partial(stumbling, marker=marker))
    ending = threading.Thread(target=end_the_node_in, args=(marker, nodes), daemon=True)
    ending.start()
    records = cluster.run(stand_ins.profile(), folder, parts, listener, nodes.address)
    ending.join()
    assert len(nodes.worker_nodes) == 2
    assert [record.status for record in records] == ["done", "failed", *["done"] * 5]
    assert stand_ins.untimed_csv(folder) == stand_ins.untimed_csv(local)
    assert [path.name for path in folder.path.glob("fp32/*")] == [p.name for p in local.path.glob("fp32/*")]
    assert (listener.total, len(listener.records)) == (7, 7)


def other_on_nodes(detector: str, profile: Any, driver: int) -> Any:
    found = stand_ins.toy_detector()
    if os.getpid() != driver:
        found.model.exists.bias.data[0] += 1
    return found, "embedded"


def test_a_node_with_other_weights_is_refused(nodes: Any, tmp_path: Path) -> None:
    parts = replace(stand_ins.parts(), build=functools.partial(other_on_nodes, driver=os.getpid()))
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(BenchError, match="has another weights_digest than the driver"):
        cluster.run(
            stand_ins.profile(methods={"fp32": {}}), folder, parts, stand_ins.Listener(), nodes.address
        )
    assert not folder.path.exists()


def test_no_cluster_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no Ray cluster answers there") as caught:
        cluster.run(
            stand_ins.profile(),
            RunFolder(tmp_path / "run"),
            stand_ins.parts(),
            stand_ins.Listener(),
            "nonsense address",
        )
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def cell(seed: int) -> Cell:
    words = dict.fromkeys(Cell.__dataclass_fields__, "x")
    return Cell(**{**words, "w_bits": 4, "a_bits": 4, "settings": {}, "seed": seed, "images": 1})  # type: ignore[arg-type]


def test_progress_of_several_cells_is_shown_one_at_a_time() -> None:
    class Shown(stand_ins.Listener):
        def evaluated(self, frames: int, of: int) -> None:
            told.append((frames, of))

    told: list[tuple[int, int]] = []
    listener = Shown()
    progress = cluster._Progress(listener)
    for seed, steps in ((0, None), (1, None), (0, ("evaluated", 2, 8)), (1, ("evaluated", 3, 8))):
        progress.news(cell(seed), steps)
    progress.ended(cell(0).key)
    progress.news(cell(1), ("evaluated", 4, 8))
    progress.ended(cell(1).key)
    assert [c.seed for c in listener.cells] == [0, 1]
    assert told == [(2, 8), (4, 8)]
    assert progress.running == {}
