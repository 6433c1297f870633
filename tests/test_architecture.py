"""Arrows point one way: bench -> {baselines, lane_models, datasets} -> selective_focus."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = {"selective_focus", "baselines", "lane_models", "datasets", "bench", "scripts", "tests"}
ALLOWED = {
    "selective_focus": {"selective_focus"},
    "baselines": {"selective_focus", "baselines"},
    "lane_models": {"selective_focus", "lane_models"},
    "datasets": {"selective_focus", "datasets"},
}


def imported(file: Path) -> set[str]:
    """Top-level packages of ours that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names & OURS


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_point_one_way(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = {str(f.relative_to(ROOT)): imported(f) - ALLOWED[package] for f in files}
    assert {file: names for file, names in wrong.items() if names} == {}


def test_a_detector_imports_no_other() -> None:
    folders = [
        p for p in (ROOT / "lane_models").iterdir() if (p / "__init__.py").is_file() and p.name != "backbones"
    ]
    for folder in folders:
        others = {f"lane_models.{o.name}" for o in folders if o != folder}
        for file in folder.rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            assert not [o for o in others if f"from {o}" in text or f"import {o}" in text], file
