"""Two ways to the same strokes and intersections: NumPy, and compiled loops where Numba is installed.

The compiled way takes a second to load (and some more to compile, once a checkout). So a process starts with NumPy and
changes over when it has drawn enough lanes for that to pay.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Literal

import numpy as np
import numpy.typing as npt

from bench.metrics.spline import pixel_paths
from bench.metrics.step_strokes import step_strokes
from bench.metrics.strokes import WIDEST, Strokes, areas_of, draw, drawn_runs, in_order, make_disjoint

Route = Literal["numpy", "compiled", "whichever pays"]

ENOUGH = 2000
"""Lanes that a process draws with NumPy before it loads the compiled loops."""


class _Choice:
    """Which way this process goes, and how many lanes it has drawn."""

    route: Route = "whichever pays"
    drawn = 0
    loops: ModuleType | None = None
    looked = False


def compiled_loops() -> ModuleType | None:
    """The compiled loops, loaded; None where Numba is not installed, or finds no folder for what it compiles."""
    if not _Choice.looked:
        _Choice.looked = True
        with contextlib.suppress(ImportError, RuntimeError):
            _Choice.loops = importlib.import_module("bench.metrics.compiled")
    return _Choice.loops


@contextlib.contextmanager
def going(route: Route) -> Iterator[None]:
    """One way for all that the block draws and compares. Raises ImportError for "compiled" without Numba."""
    if route == "compiled" and compiled_loops() is None:
        raise ImportError("the compiled metric needs numba: pip install numba")
    before, _Choice.route = _Choice.route, route
    try:
        yield
    finally:
        _Choice.route = before


def loops_in_use() -> ModuleType | None:
    """The compiled loops where this process goes that way by now."""
    pays = _Choice.route == "compiled" or (_Choice.route != "numpy" and _Choice.drawn >= ENOUGH)
    return compiled_loops() if pays else None


def strokes_of(
    lanes: Sequence[npt.NDArray[np.float64]], image_size: tuple[int, int], thickness: int
) -> Strokes:
    """Strokes of lanes ([P, 2] pixels each) on an image of size (H, W)."""
    _Choice.drawn += len(lanes)
    loops = loops_in_use()
    table = step_strokes(thickness) if loops is not None and image_size[1] <= WIDEST else None
    if loops is None or table is None or min(image_size) <= 4 * table.clear or not lanes:
        return draw(pixel_paths(lanes), image_size, thickness)
    points = np.concatenate(lanes).astype(np.float32)
    bounds = np.cumsum([0, *map(len, lanes)])
    runs, layers, to_draw = loops.walk(points, bounds, image_size, table)
    lane_of = np.repeat(np.arange(len(lanes)), layers)
    drawn = {}
    for lane in np.flatnonzero(to_draw[:, 1]).tolist():
        path = loops.pixels(points[bounds[lane] : bounds[lane + 1]])[:, slice(*to_draw[lane])]
        drawn[lane] = drawn_runs(path, image_size, thickness)
    if drawn:
        counts = [len(own) for own in drawn.values()]
        lane_of = np.concatenate([lane_of, np.repeat(list(drawn), counts)])
        runs, lane_of = in_order(np.concatenate([runs, *drawn.values()]), lane_of)
    for lane in (lane for lane in drawn if layers[lane]):
        make_disjoint(runs, np.flatnonzero(lane_of == lane))
    return Strokes(runs, lane_of, areas_of(runs, lane_of, len(lanes)), np.diff(bounds) < 2)


def intersections(strokes: Strokes, others: Strokes) -> npt.NDArray[np.int64]:
    """Pixels that lane i of the first and lane j of the others share: [count, count of others]."""
    loops = loops_in_use()
    if loops is None:
        return strokes.intersections(others)
    shared = np.zeros((len(strokes.areas), len(others.areas)), dtype=np.int64)
    own, theirs = strokes.common_rows(others)
    loops.intersections(own, strokes.lane, theirs, others.lane, shared)
    return shared
