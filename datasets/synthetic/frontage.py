"""Walls along the road: hoardings, and the fronts of shops and houses, seen at a slant."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .drawing import Canvas
from .light import Light
from .scene import Scene

_WALLS = np.array(
    [
        (150, 165, 172),
        (128, 148, 172),
        (95, 108, 145),
        (176, 176, 172),
        (140, 141, 139),
        (120, 132, 140),
        (92, 96, 104),
    ],
    float,
)
_HOARDINGS = np.array([(150, 92, 40), (190, 192, 190), (150, 152, 150), (70, 110, 70)], float)


def frontage(
    canvas: Canvas, scene: Scene, light: Light, side: float
) -> list[tuple[float, Callable[[], None]]]:
    """(near depth, painter) of each wall on one side of the road; about half of the sides have walls."""
    rng, view = scene.stream(f"frontage {side}"), scene.view
    if rng.random() > (0.35 if scene.category in ("cross", "curve") else 0.55):
        return []
    hoarding = rng.random() < 0.35
    edge = scene.road.left if side < 0 else scene.road.right
    u = edge + side * (rng.uniform(1.5, 5) if hoarding else rng.uniform(5, 14))
    z, stop = rng.uniform(8, 30), min(rng.uniform(50, 130), 0.9 * view.far)
    colour, tall = _HOARDINGS[int(rng.integers(len(_HOARDINGS)))], rng.uniform(1.8, 2.6)
    walls = []
    while z < stop:
        length = 6.0 if hoarding else rng.uniform(7, 22)
        if not hoarding:
            colour, tall = (
                _WALLS[int(rng.integers(len(_WALLS)))],
                float(rng.choice([3.4, 3.8, 6.5, 9.5, 15.0])),
            )
        tone = light.at(u + float(view.lateral(np.float64(z))), z) * (
            0.5 if scene.weather.night else rng.uniform(0.75, 1.05)
        )
        walls.append(
            (
                z,
                _painter(
                    canvas, scene, u, (z, z + length), tall, colour * tone, hoarding, rng.integers(1 << 30)
                ),
            )
        )
        z += length + (0.0 if hoarding or rng.random() < 0.6 else rng.uniform(2, 12))
    return walls


def _painter(
    canvas: Canvas,
    scene: Scene,
    u: float,
    span: tuple[float, float],
    tall: float,
    colour: np.ndarray,
    hoarding: bool,
    number: int,
) -> Callable[[], None]:
    view = scene.view

    def paint() -> None:
        zs = np.linspace(*span, 4)
        front, foot = view.upright(u, zs, np.zeros(2), np.array([tall, min(0.5, 0.2 * tall)]))
        canvas.fill(front, colour)
        if not hoarding:
            us = u + np.array([0, 0, 40, 40]) * np.sign(u)
            canvas.fill(view.project(us, span[0], np.array([0, tall, tall, 0])), colour * 0.8)
            if span[0] <= 70:
                canvas.polygons(_windows(scene, u, span, tall, number), colour * 0.42)
        canvas.fill(foot, colour * 0.72)

    return paint


def _windows(scene: Scene, u: float, span: tuple[float, float], tall: float, number: int) -> np.ndarray:
    """[N, 4, 2]: windows in rows of storeys, a shop front below."""
    rng = scene.stream(f"windows {number}")
    bay, storey = rng.uniform(1.6, 3.2), 3.1
    zs = np.arange(span[0] + 0.4, span[1] - bay * 0.5, bay)
    ups = np.arange(0.9, tall - 1.6, storey)
    z, up = (a.ravel()[:, None] for a in np.meshgrid(zs, ups))
    wide, high = bay * rng.uniform(0.4, 0.8), rng.uniform(1.2, 1.9)
    return scene.view.project(u, z + np.array([0, wide, wide, 0]), up + np.array([0, 0, high, high]))
