"""A memory budget for cached activations: estimated beforehand, respected, and without effect on a single bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn
from toy import ToyDetector, ToyNet

import lane_models
from selective_focus import quantize
from selective_focus.quantization.cache_plan import UnitSize, plan_caches, unit_sizes
from selective_focus.quantization.config import ConfigurationError
from selective_focus.quantization.lockstep import Lockstep, Restarted
from selective_focus.quantization.rows import MappedRows, MemoryRows

ROOT = Path(__file__).resolve().parents[1]
BLOCKWISE = ["adaround", "brecq", "qdrop"]
SETTINGS = {"iterations": 5, "batch_size": 8, "rounding": "straight-through", "weight_lr": 1e-2}


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(37, 3, 16, 32, generator=torch.Generator().manual_seed(3))


def parts(dtype: torch.dtype, layout: torch.memory_format) -> list[torch.Tensor]:
    """Chunks of 4, 4 and 1: the last one is partial."""
    generator = torch.Generator().manual_seed(0)
    whole = (torch.randn(9, 5, 3, 2, generator=generator) * 10).to(dtype)
    return [part.contiguous(memory_format=layout) for part in whole.split(4)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_rows_read_as_if_concatenated(dtype, layout):
    chunks = parts(dtype, layout)
    expected = torch.cat(chunks)
    for rows in (MappedRows(), MemoryRows(9)):
        for chunk in chunks:
            rows.append(chunk)
        found = rows.finish()
        for index in (torch.tensor([8, 0, 3, 3]), torch.arange(9)):
            assert torch.equal(found[index], expected[index])
            assert found[index].stride() == expected[index].stride()


def test_rows_of_a_file_are_copies():
    rows = MappedRows()
    rows.append(torch.zeros(3, 2))
    found = rows.finish()
    found[torch.arange(3)].fill_(1)
    assert float(found[torch.arange(3)].sum()) == 0
    rows.close()


class Branches(nn.Module):
    """What the first layer gives is needed again by the last."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 4, 1, stride=2), nn.Conv2d(4, 8, 1)
        self.up = nn.Upsample(scale_factor=2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        first = self.a(x[:, :])  # a view of the image
        last = self.c(self.b(first))
        return {"out": self.up(last) + first.repeat(1, 4, 1, 1)}


def test_sizes_by_hand():
    model = Branches()
    units = {name: model.get_submodule(name) for name in "abc"}
    sizes = unit_sizes(model, torch.zeros(1, 3, 8, 16), units)
    pixels = 8 * 16 * 4  # bytes a channel
    assert sizes["a"] == UnitSize(inputs=3 * pixels, outputs=2 * pixels, live=0), "the image is not counted"
    assert sizes["b"] == UnitSize(inputs=2 * pixels, outputs=pixels, live=2 * pixels)
    assert sizes["c"] == UnitSize(inputs=pixels, outputs=2 * pixels, live=pixels + 2 * pixels)


class Between(nn.Module):
    """What no module gave is held by the forward method until its end."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 4, 1)
        self.register_buffer("factors", torch.ones(1, 2, 1, 1))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        factor, weight = (
            self.factors.flatten()[0],
            self.a.weight.flatten()[0],
        )  # views of no memory of their own
        doubled = 2 * self.a(x)
        return {"out": self.b(doubled.relu()), "scaled": doubled * factor * weight}


def test_sizes_see_what_no_module_gave():
    """An attention computed by functions was missed, and the peak came to twice what had been planned."""
    model = Between()
    sizes = unit_sizes(model, torch.zeros(1, 3, 8, 16), {"b": model.b})
    pixels = 8 * 16 * 4
    assert sizes["b"] == UnitSize(inputs=2 * pixels, outputs=4 * pixels, live=2 * 2 * pixels)


def test_laneatt_holds_no_attention_while_its_heads_run():
    detector = lane_models.untrained("laneatt", "synthetic")
    heads = ("reg_layer", "cls_layer")
    units = {name: detector.model.get_submodule(name) for name in heads}
    sizes = unit_sizes(detector.model, torch.zeros(1, 3, *detector.input_size), units)
    assert sizes["reg_layer"].live == sizes["reg_layer"].inputs
    assert sizes["cls_layer"].live == sizes["cls_layer"].inputs + sizes["reg_layer"].outputs


MIB = 2**20
SIZES = {"small": UnitSize(MIB, MIB, MIB), "large": UnitSize(4 * MIB, MIB, 2 * MIB)}


@pytest.mark.parametrize(
    ("budget", "restart", "on_disk", "planned"),
    [
        (None, False, set(), 130),  # large: two inputs of 4 and an output of 1; two passes of 2; ten images
        (130, False, set(), 130),
        (129, False, {"large"}, 50),  # small: 30 of cache, 20 of passes
        (45, False, {"large", "small"}, 40),
        (39, True, {"large"}, 30),
        (29, True, {"large", "small"}, 0),
    ],
)
def test_plans_by_hand(budget, restart, on_disk, planned):
    plan = plan_caches(SIZES, 10, budget, quantized=True, mixed=True)
    assert (plan.restart, set(plan.on_disk)) == (restart, on_disk)
    assert plan.to_dict()["planned_mb"] == planned
    assert plan.to_dict()["unlimited_mb"] == 130
    assert budget is None or planned <= budget


def test_the_images_are_within_the_budget():
    plans = [
        plan_caches(SIZES, 10, 129 + images_mb, quantized=True, mixed=True, image_bytes=images_mb * MIB)
        for images_mb in (0, 7)
    ]
    assert plans[0].on_disk == plans[1].on_disk == {"large"}
    assert not plans[1].restart
    assert plan_caches(SIZES, 10, 5, quantized=True, mixed=True, image_bytes=7 * MIB).restart


def test_float_passes_alone_take_less():
    plan = plan_caches(SIZES, 10, None, quantized=False, mixed=False)
    assert plan.to_dict()["planned_mb"] == 10 * (4 + 1 + 2)


def test_restarted_passes_give_the_same_calls(images):
    model = ToyNet().eval()
    units = {n: model.get_submodule(n) for n in ("blocks.0", "blocks.1", "columns")}
    chunks = list(images.split(16))
    with Lockstep(model, chunks, units) as kept, Restarted(model, chunks, units) as again:
        for name in units:
            pairs = list(zip(kept.advance_to(name), again.advance_to(name), strict=True))
            assert len(pairs) == 3
            assert all(torch.equal(a.args[0], b.args[0]) for a, b in pairs)


def test_restarted_passes_tell_when_a_unit_does_not_run(images):
    model = ToyNet().eval()
    with pytest.raises(RuntimeError, match="met its end where unit 'other'"):
        list(Restarted(model, [images], {"other": nn.Linear(1, 1)}).advance_to("other"))


@pytest.mark.parametrize("method", BLOCKWISE)
def test_a_budget_changes_no_bit_and_leaves_no_file(method, images, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    reference, log = quantize(ToyDetector(), images, method, **SETTINGS)
    assert all(plan["passes"] == "kept" and not plan["units_on_disk"] for plan in log.caches)
    least, most = (choose(plan["unlimited_mb"] for plan in log.caches) for choose in (min, max))
    images_mb = images.nbytes / MIB
    open_files = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else None
    seen = set()
    for budget in (0.7 * least, 0.7 * most, 1e-6):
        options = {**SETTINGS, "memory_budget_mb": images_mb + budget}
        quantized, log = quantize(ToyDetector(), images, method, **options)
        assert all(plan["planned_mb"] <= budget for plan in log.caches)
        seen |= {plan["passes"] for plan in log.caches if plan["units_on_disk"]}
        with torch.no_grad():
            heads = [detector.heads(images) for detector in (reference, quantized)]
        assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    assert "restarted" in seen
    assert "kept" in seen or method == "adaround", "its stem's passes hold more than its caches"
    json.dumps(log.to_dict())
    assert not list(tmp_path.glob("selective-focus-*"))
    if open_files is not None:
        assert len(os.listdir("/proc/self/fd")) == open_files


class Tokens(nn.Module):
    """The batch is the second dimension between its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(32, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"existence": self.last(self.first(x.mean(1).transpose(0, 1))).transpose(0, 1)}


def test_units_whose_first_dimension_is_not_the_image_are_refused(images):
    detector = ToyDetector()
    detector.model, detector.output_layers, detector.reconstruction_blocks = Tokens().eval(), ("last",), ()
    with pytest.raises(ConfigurationError, match="expected the images as the first dimension") as caught:
        quantize(detector, images, "qdrop", **SETTINGS)
    assert "\n" not in str(caught.value)


PEAK = """
import sys, torch
from torch import nn
from selective_focus import LaneDetector, quantize
from selective_focus.quantize import peak_memory_mb

class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Conv2d(3 if i == 0 else 8, 8, 1) for i in range(4)))
        self.head = nn.Conv2d(8, 1, 1)
    def forward(self, x):
        return {"head": self.head(self.layers(x)).mean((2, 3))}

class Detector(LaneDetector):
    name, variant, input_size, model = "wide", "", (64, 128), Wide().eval()
    def transform(self, image): ...
    def decode(self, heads, image_size=None): ...
    def foreground(self, heads): ...

torch.manual_seed(0)
images = torch.rand(200, 3, 64, 128)
budget = float(sys.argv[1]) or None
quantize(Detector(), images[:16], "qdrop", iterations=1, batch_size=4, chunk_size=4)
before = peak_memory_mb()
_, log = quantize(Detector(), images, "qdrop", iterations=5, batch_size=4, chunk_size=4, memory_budget_mb=budget)
print(peak_memory_mb() - before, log.caches[0]["unlimited_mb"], log.caches[0]["planned_mb"])
"""


def measured_peak(budget: float) -> tuple[float, float, float]:
    """MiB that a quantization added to the peak of its process; the estimate without a budget; the plan."""
    command = [sys.executable, "-c", PEAK, str(budget)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    peak, unlimited, planned = (float(word) for word in ran.stdout.split())
    return peak, unlimited, planned


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory of a process is read as Linux gives it")
def test_peak_memory_of_a_process_respects_the_budget():
    """One forward pass of a chunk and one training step of this network take less than 80 MiB."""
    unlimited_peak, unlimited, planned = measured_peak(0)
    assert planned == unlimited > 200, "large enough to see"
    assert unlimited_peak > 0.8 * unlimited
    for budget in (110.0, 10.0):
        peak, same, planned = measured_peak(budget)
        assert same == unlimited
        assert planned <= budget
        assert peak < budget + 80
