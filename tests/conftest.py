"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from bench.store import RunFolder

# The same examples in every run: a test run says something about the code, not about luck.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the checkout that holds reference data too large or too restricted to ship."""
    folder = ROOT.parent / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip("../shared (golden reference data) is not here; see CONTRIBUTING.md")
    return folder


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of the toy detector with frames, lanes, categories and sensitivities. Do not change it."""
    import stand_ins

    from bench.runner import run
    from bench.store import RunFolder

    folder = RunFolder(tmp_path_factory.mktemp("runs") / "toy")
    run(stand_ins.profile(seeds=[0]), folder, stand_ins.parts(), stand_ins.Listener())
    return folder


@pytest.fixture(scope="session")
def toy_page(toy_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of that run."""
    from bench.report import content, page

    out = tmp_path_factory.mktemp("report") / "page.html"
    page.write(content.gather_report(toy_run.path), out, with_files=False)
    return out
