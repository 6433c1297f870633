"""Vehicles as extruded side profiles with a rear or front face: lamps, windows, wheels, plate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .camera import Floats, View
from .drawing import Canvas
from .scene import Car


@dataclass(frozen=True)
class Shape:
    """Sizes in metres. Profiles: (distance from the near end, height), from the near end over the top."""

    size: tuple[float, float, float]  # width, height, length
    body: tuple[tuple[float, float], ...]  # upper outline of the body below the windows
    cabin: tuple[tuple[float, float], ...]  # near bottom, near top, far top, far bottom
    wheel: float = 0.32
    box: bool = False  # load or passenger box: no sloping rear window


SHAPES = {
    "sedan": Shape(
        (1.80, 1.46, 4.6),
        ((0.0, 0.95), (0.7, 1.0), (3.4, 0.92), (4.6, 0.72)),
        ((0.35, 0.98), (1.15, 1.45), (2.35, 1.46), (3.35, 0.93)),
    ),
    "suv": Shape(
        (1.86, 1.70, 4.6),
        ((0.0, 1.05), (0.3, 1.08), (3.3, 1.05), (4.6, 0.88)),
        ((0.08, 1.06), (0.45, 1.68), (2.5, 1.70), (3.3, 1.06)),
        0.36,
    ),
    "van": Shape(
        (1.75, 1.95, 4.4),
        ((0.0, 1.05), (0.2, 1.08), (3.8, 1.05), (4.4, 0.85)),
        ((0.03, 1.07), (0.18, 1.92), (2.9, 1.95), (3.9, 1.05)),
        0.30,
    ),
    "truck": Shape(
        (2.35, 3.2, 7.5),
        ((0.0, 1.0), (0.2, 1.0), (5.4, 1.0), (7.5, 1.0)),
        ((0.0, 1.0), (0.0, 3.2), (5.4, 3.2), (5.4, 1.0)),
        0.48,
        True,
    ),
    "bus": Shape(
        (2.5, 3.1, 10.5),
        ((0.0, 1.3), (0.2, 1.3), (10.0, 1.3), (10.5, 1.3)),
        ((0.0, 1.3), (0.08, 3.1), (10.4, 3.1), (10.5, 1.3)),
        0.5,
        True,
    ),
}

_GLASS = np.array([52.0, 48.0, 44.0])
_RUBBER = np.array([26.0, 25.0, 25.0])


def draw_car(canvas: Canvas, view: View, car: Car, light: Floats, lit: bool) -> None:
    """Paint one vehicle; `light` [3] multiplies its colours, `lit` switches its lamps on."""
    shape = SHAPES[car.kind]
    width, _, length = shape.size
    paint = np.array(car.colour) * light
    inner = view.vanish - float(view.project(car.u, car.z)[0])  # > 0: we see its right side
    side = 1.0 if inner > 0 else -1.0

    def point(across: Floats | float, deep: Floats | float, up: Floats | float) -> Floats:
        """Across -1..1 of half the width; `deep` from the near end (its own rear, or front if oncoming)."""
        z = np.maximum(car.z + np.asarray(deep, np.float64), 1.25)
        return view.project(car.u + np.asarray(across) * width / 2, z, up)

    def along(profile: Floats) -> Floats:
        """An oncoming car shows its front: turn the profile round."""
        return np.stack([length - profile[::-1, 0], profile[::-1, 1]], -1) if car.oncoming else profile

    body, cabin = along(np.array(shape.body)), along(np.array(shape.cabin))
    if width * view.focal / car.z * canvas.raster.scale[0] < 5:  # far away: a patch of paint and glass
        canvas.fill(point(np.array([-1, 1, 1, -1]), 0.0, np.array([0.2, 0.2, 0.9, 0.9])), paint)
        canvas.fill(
            point(np.array([-0.85, 0.85, 0.7, -0.7]), 0.4, np.array([0.9, 0.9, *(shape.size[1],) * 2])),
            _GLASS * light,
        )
        return
    _draw_side(canvas, point, side, body, cabin, shape, length, paint * 0.82, light)
    narrow = 1.0 if shape.box else 0.80
    near = cabin[np.argsort(cabin[:, 0])][:2]
    low, high = near[np.argsort(near[:, 1])]
    deck = np.array(
        [[-0.97, body[0, 0], body[0, 1]], [0.97, body[0, 0], body[0, 1]], [0.95, *low], [-0.95, *low]]
    )
    canvas.fill(point(deck[:, 0], deck[:, 1], deck[:, 2]), paint * 1.06)
    pane = np.array([[-0.94, *low], [0.94, *low], [narrow, *high], [-narrow, *high]])
    canvas.fill(point(pane[:, 0], pane[:, 1], pane[:, 2]), paint * 0.9)
    if car.kind != "truck":
        drop = (high[1] - low[1]) * (0.12 if not shape.box else 0.18)
        floor = 0.1 if not shape.box else 0.45
        pane = np.array(
            [
                [-0.86, low[0], low[1] + drop * floor],
                [0.86, low[0], low[1] + drop * floor],
                [narrow * 0.93, high[0], high[1] - drop],
                [-narrow * 0.93, high[0], high[1] - drop],
            ]
        )
        canvas.fill(point(pane[:, 0], pane[:, 1], pane[:, 2]), (_GLASS + 10) * light)
        middle = (pane[:2] + pane[[3, 2]]) / 2
        canvas.fill(point(*np.concatenate([middle, pane[2:]]).T), (_GLASS + 42) * light)
    _draw_end(canvas, point, car, shape, float(body[0, 1]), paint, light, lit)


def _draw_side(canvas, point, side, body, cabin, shape, length, paint, light) -> None:  # type: ignore[no-untyped-def]
    """The side that faces our lane: body, windows, wheels."""
    ground = 0.24
    outline = np.concatenate([[[0.0, ground]], body, [[length, ground]]])
    canvas.fill(point(side, outline[:, 0], outline[:, 1]), paint)
    lean = np.where(cabin[:, 1] > cabin[:, 1].min() + 0.1, 0.82 if not shape.box else 1.0, 0.96)
    canvas.fill(point(side * lean, cabin[:, 0], cabin[:, 1]), paint * 1.05)
    sill = np.array([[0.0, ground], [length, ground], [length, ground + 0.16], [0.0, ground + 0.16]])
    canvas.fill(point(side, sill[:, 0], sill[:, 1]), paint * 0.55)
    centre = cabin.mean(axis=0)
    if length < 7:
        for a, b in ((0.0, 0.48), (0.53, 1.0)):
            glass = centre + (cabin - centre) * np.array([0.86, 0.72])
            left, right = glass[:, 0].min(), glass[:, 0].max()
            cut = glass.copy()
            cut[:, 0] = np.clip(cut[:, 0], left + a * (right - left), left + b * (right - left))
            canvas.fill(point(side * lean * 1.005, cut[:, 0], cut[:, 1]), _GLASS * light)
    elif shape.size[2] > 9:
        glass = centre + (cabin - centre) * np.array([0.95, 0.4]) + np.array([0.0, 0.2])
        canvas.fill(point(side * 1.002, glass[:, 0], glass[:, 1]), _GLASS * light)
    turn = np.linspace(0, 2 * np.pi, 19)[:-1]
    for z in (0.19 * length, 0.81 * length):
        for radius, colour in (
            (shape.wheel * 1.12, _RUBBER * 0.7),
            (shape.wheel, _RUBBER),
            (shape.wheel * 0.6, np.full(3, 118.0)),
        ):
            deep, up = z + radius * np.cos(turn), shape.wheel + radius * np.sin(turn)
            canvas.fill(point(side * 1.004, deep, np.maximum(up, 0.0)), colour * light)


def _draw_end(canvas, point, car, shape, belt, paint, light, lit) -> None:  # type: ignore[no-untyped-def]
    """The face toward us: rear lamps and plate, or head-lamps and grille."""

    def panel(left: float, right: float, low: float, high: float, colour: Floats) -> None:
        canvas.fill(
            point(np.array([left, right, right, left]), 0.0, np.array([low, low, high, high])), colour
        )

    for side in (-1, 1):
        a, b = sorted((side * 0.62, side * 0.92))
        panel(a, b, 0.0, 0.34, _RUBBER * light)
    chamfer = np.array(
        [
            [-0.98, 0.30],
            [-0.9, 0.24],
            [0.9, 0.24],
            [0.98, 0.30],
            [1.0, belt * 0.72],
            [0.96, belt],
            [-0.96, belt],
            [-1.0, belt * 0.72],
        ]
    )
    canvas.fill(point(chamfer[:, 0], 0.0, chamfer[:, 1]), paint)
    panel(-0.97, 0.97, 0.26, 0.46, paint * 0.72)
    panel(-0.85, 0.85, 0.24, 0.33, _RUBBER * 1.4 * light)
    if shape.box and car.kind == "truck" and not car.oncoming:
        panel(-0.96, 0.96, belt, shape.size[1], paint)
        panel(-0.01, 0.01, belt, shape.size[1], paint * 0.7)
        panel(-1.0, 1.0, 0.62, 0.78, _RUBBER * 2 * light)
    glow = 1.0 if lit else 0.0
    if car.oncoming:
        panel(-0.5, 0.5, belt * 0.55, belt * 0.78, _RUBBER * 1.3 * light)
        lamp = np.array([215.0, 220.0, 220.0]) * np.maximum(light, glow)
        height = belt * 0.62
    else:
        red = np.array([35.0, 30.0, 190.0]) if car.braking else np.array([40.0, 30.0, 130.0])
        lamp = red * np.maximum(light, 1.1 * glow)
        height = belt * 0.72
        panel(-0.28, 0.28, belt * 0.58, belt * 0.58 + 0.13, np.array([170.0, 80.0, 35.0]) * light)
    for side in (-1, 1):
        a, b = sorted((side * 0.66, side * 0.97))
        panel(a, b, height, height + 0.17, lamp)
