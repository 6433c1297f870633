"""How much memory a process took, also where the system does not tell."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from selective_focus import quantize as front_door

SOURCE = sys.modules[front_door.__module__].__file__


def test_peak_memory_is_plausible() -> None:
    assert 10 < sys.modules[front_door.__module__].peak_memory_mb() < 2**20


def test_the_front_door_opens_without_the_resource_module(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert SOURCE is not None
    monkeypatch.setattr(Path, "read_text", absent)  # no /proc either
    assert runpy.run_path(SOURCE)["peak_memory_mb"]() == 0.0
