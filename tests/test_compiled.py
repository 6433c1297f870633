"""The compiled step: the masks and, within rounding, the result of the plain one; no compiler is no failure.

The backend "aot_eager" traces forward and backward as the default one does and then runs them without C++.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from toy import ToyDetector

from selective_focus import QuantizationLog, quantize
from selective_focus.quantization import compiled

SETTINGS = {
    "iterations": 4,
    "batch_size": 8,
    "rounding": "straight-through",
    "weight_lr": 1e-2,
    "scale_lr": 1e-2,
    "scale_steps": "relative",
}


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(20, 3, 16, 32, generator=torch.Generator().manual_seed(3))


def run(images: torch.Tensor, method: str, **options: Any) -> tuple[dict[str, torch.Tensor], QuantizationLog]:
    quantized, log = quantize(ToyDetector(), images, method, "w4a4", **SETTINGS, **options)
    with torch.no_grad():
        return quantized.heads(images), log


def test_a_compiled_step_gives_the_plain_result_and_is_compiled_once(
    images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    plain, before = run(images, "qdrop")
    counters.clear()
    found, log = run(images, "qdrop", compile=True)
    assert all(unit["compiled"] for unit in log.units)
    assert "compiled" not in before.units[0]
    for unit, expected in zip(log.units, before.units, strict=True):
        assert unit["loss_last_step"] == pytest.approx(expected["loss_last_step"], rel=1e-4)
        assert unit["hard_loss_after"] == pytest.approx(expected["hard_loss_after"], rel=1e-3)
    for name, head in plain.items():
        torch.testing.assert_close(found[name], head, rtol=1e-3, atol=1e-3 * float(head.abs().max()))
    assert counters["stats"]["unique_graphs"] == len(log.units), (
        "all steps of a unit but the first share one graph"
    )
    assert not counters["graph_break"]


@pytest.mark.parametrize("method", ["qdrop", "selective-focus"])
def test_without_a_compiler_the_step_runs_as_it_is(
    method: str, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_compiler(unit: Any, **_: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("no C++ compiler\nwas found")

        return call

    monkeypatch.setattr(torch, "compile", no_compiler)
    plain, _ = run(images, method)
    with caplog.at_level(logging.WARNING):
        found, log = run(images, method, compile=True)
    assert not any(unit["compiled"] for unit in log.units)
    assert all(torch.equal(found[name], head) for name, head in plain.items()), "with the same masks"
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["compile: torch.compile failed (no C++ compiler was found); the steps run uncompiled"]
