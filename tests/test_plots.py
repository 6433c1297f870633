"""Every figure is a PNG with something on it, drawn again from records alone."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import pytest
import stand_ins
from measured_cells import measured

from bench import plots
from bench.colours import COLOURS, LABELS, MARKERS, colour_of
from bench.panels import by_figure, grid
from bench.plot_style import LONGEST_NAME, PAGE, Plot, file_name
from bench.runner import run
from bench.store import RunFolder
from bench.table import sections


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "toy")
    run(stand_ins.profile(seeds=[0]), folder, stand_ins.parts(), stand_ins.Listener())
    return folder


def test_the_figures_of_a_run(folder: RunFolder) -> None:
    paths = plots.draw_all(folder)
    kinds = {path.stem.split("-toy")[0] for path in paths}
    everywhere = {"f1", "lds-f1", "time-f1", "bits-f1", "cost"}
    assert kinds == {*everywhere, "categories", "sensitivity", "overlay"}
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


def test_the_pareto_front() -> None:
    points = [(1.0, 50.0), (2.0, 40.0), (3.0, 60.0), (3.0, 55.0), (4.0, 60.0), (9.0, 80.0)]
    assert plots.pareto(points) == [(1.0, 50.0), (3.0, 60.0), (9.0, 80.0)]


@pytest.mark.parametrize(("detectors", "figures", "columns"), [(1, 1, 2), (4, 1, 2), (9, 2, 3)])
def test_figures_fit_a_page(detectors: int, figures: int, columns: int) -> None:
    """Two bit settings stay side by side; with more than four detectors each setting has a figure of its own."""
    records = [
        measured(method, 0.8, bits=bits, detector=f"detector{number}")
        for number in range(detectors)
        for method, bits in (("fp32", 32), ("minmax", 4), ("minmax", 8))
    ]
    (part,) = sections(records)
    groups = by_figure(part)
    assert len(groups) == figures
    for panels in groups.values():
        assert len(panels) == 2 * detectors / figures
        figure, cells = grid(panels, height=1.8)
        assert figure.get_figwidth() == pytest.approx(PAGE)
        assert sum(cell.lowest for cell in cells) == columns
        assert sum(cell.first for cell in cells) == len(cells) / columns
        plt.close(figure)


@pytest.mark.parametrize(
    "words", ["/../../../x", "..", "a\\1", 'x"><script>alert(1)</script>', "é", "\ud800", "", "x" * 300]
)
def test_names_of_figures_stay_in_their_folder(words: str) -> None:
    name = Plot(f"cost-{words}", "cost", "", plt.figure).name
    assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name)
    assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", file_name(words))
    assert len(name) <= LONGEST_NAME
    assert file_name(name) == name


def test_ordinary_names_stay_and_different_ones_stay_different() -> None:
    assert file_name("cost-laneatt-r18-culane-34680") == "cost-laneatt-r18-culane-34680"
    assert len({file_name(words) for words in ("a/b", "a b", "a-b", "a\\b")}) == 4
