"""Every figure is a PNG with something on it, drawn again from records alone."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest
import stand_ins

from bench import plots
from bench.colours import COLOURS, LABELS, MARKERS, colour_of
from bench.runner import run
from bench.store import RunFolder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "toy")
    run(stand_ins.profile(seeds=[0]), folder, stand_ins.parts(), stand_ins.Listener())
    return folder


def test_the_figures_of_a_run(folder: RunFolder) -> None:
    paths = plots.draw_all(folder)
    kinds = {path.stem.split("-toy")[0] for path in paths}
    assert kinds == {"f1", "lds-f1", "time-f1", "categories", "sensitivity", "overlay"}
    for path in paths:
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        assert image is not None
        assert min(image.shape) > 200
        assert image.std() > 5, f"{path.name} is blank"


def test_overlays_need_no_data_set(folder: RunFolder, tmp_path: Path) -> None:
    moved = RunFolder(tmp_path / "moved")
    folder.path.rename(moved.path)
    try:
        assert any(path.name.startswith("overlay") for path in plots.draw_all(moved))
    finally:
        moved.path.rename(folder.path)


def test_a_run_without_quantized_cells_still_has_its_bars(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    run(stand_ins.profile(methods={"fp32": {}}), folder, stand_ins.parts(), stand_ins.Listener())
    names = {path.stem.split("-")[0] for path in plots.draw_all(folder)}
    assert {"f1", "categories"} <= names
    assert "lds" not in names


def test_every_method_has_its_own_look() -> None:
    assert len(set(COLOURS.values())) == len(COLOURS)
    assert COLOURS.keys() == LABELS.keys() == MARKERS.keys()
    assert colour_of("a method of yours") == colour_of("a method of yours")
