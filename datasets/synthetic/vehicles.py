"""Vehicles as extruded side profiles with a rear or front face: lamps, windows, wheels, plate."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

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
_RIM = np.full(3, 118.0)
_PLATE = np.array([170.0, 80.0, 35.0])
_HEAD_LAMP = np.array([215.0, 220.0, 220.0])
_REAR_LAMP, _BRAKE_LAMP = np.array([40.0, 30.0, 130.0]), np.array([35.0, 30.0, 190.0])
_FLANK = 0.82  # the side is this much darker than the face toward us
_NEAR = 1.25  # m: what is nearer is drawn at this depth


@dataclass(frozen=True)
class Faces:
    """Polygons of one look of a vehicle in the order of painting, all N corners and F faces together."""

    across: Floats  # [N] m right of the vehicle's middle
    deep: Floats  # [N] m from the near end (its own rear, or front if oncoming)
    up: Floats  # [N] m above the ground
    counts: tuple[int, ...]  # corners of each face
    tint: Floats  # [F, 3] BGR; of a lacquered face unused
    lacquer: NDArray[np.bool_]  # [F, 1] whether the face has the vehicle's own colour
    gain: Floats  # [F, 2] two factors of the colour, applied one after the other
    glow: NDArray[np.float32]  # [F, 1] the least light on a lamp that is on


class _Model:
    """Collects faces; `across` is given as -1..1 of half the vehicle's width."""

    def __init__(self, width: float) -> None:
        self._width = width
        self._corners: list[Floats] = []
        self._looks: list[tuple[Floats | None, float, float, float]] = []

    def add(
        self,
        across: Floats | float,
        deep: Floats | float,
        up: Floats | float,
        tint: Floats | None = None,
        gain: float = 1.0,
        base: float = 1.0,
        glow: float = 0.0,
    ) -> None:
        """A face through the corners; without `tint` it is lacquered."""
        corners = np.broadcast_arrays(np.asarray(across) * self._width / 2, deep, up)
        self._corners.append(np.stack(corners, axis=-1))
        self._looks.append((tint, base, gain, glow))

    def panel(
        self, left: float, right: float, low: float, high: float, tint: Floats | None = None, **look: float
    ) -> None:
        """A rectangle of the near end."""
        self.add(np.array([left, right, right, left]), 0.0, np.array([low, low, high, high]), tint, **look)

    def faces(self) -> Faces:
        tints, bases, gains, glows = zip(*self._looks, strict=True)
        return Faces(
            *np.concatenate(self._corners).T,
            counts=tuple(len(corners) for corners in self._corners),
            tint=np.array([np.zeros(3) if tint is None else tint for tint in tints]),
            lacquer=np.array([[tint is None] for tint in tints]),
            gain=np.array([bases, gains]).T,
            glow=np.array(glows, np.float32)[:, None],
        )


def draw_car(canvas: Canvas, view: View, car: Car, light: NDArray[np.float32], lit: bool) -> None:
    """Paint one vehicle; `light` [3] multiplies its colours, `lit` switches its lamps on."""
    shape = SHAPES[car.kind]
    if shape.size[0] * view.focal / car.z * canvas.raster.scale[0] < 5:  # px wide
        faces = _far_faces(car.kind)
    else:
        inner = view.vanish - float(view.project(car.u, car.z)[0])  # > 0: we see its right side
        faces = _faces(car.kind, car.oncoming, car.braking, 1.0 if inner > 0 else -1.0)
    corners = view.project(car.u + faces.across, np.maximum(car.z + faces.deep, _NEAR), faces.up)
    shone = np.maximum(light, faces.glow) if lit else light
    colours = np.where(faces.lacquer, car.colour, faces.tint) * shone * faces.gain[:, :1] * faces.gain[:, 1:]
    canvas.faces(corners, faces.counts, colours)


@cache
def _far_faces(kind: str) -> Faces:
    """Far away a vehicle is a patch of lacquer and one of glass."""
    width, height, _ = SHAPES[kind].size
    model = _Model(width)
    model.panel(-1, 1, 0.2, 0.9)
    model.add(np.array([-0.85, 0.85, 0.7, -0.7]), 0.4, np.array([0.9, 0.9, height, height]), _GLASS)
    return model.faces()


@cache
def _faces(kind: str, oncoming: bool, braking: bool, side: float) -> Faces:
    """The side that faces our lane (`side` 1: its right one), the deck, the window and the near end."""
    shape = SHAPES[kind]
    width, _, length = shape.size
    model = _Model(width)

    def along(profile: Floats) -> Floats:
        """An oncoming car shows its front: turn the profile round."""
        return np.stack([length - profile[::-1, 0], profile[::-1, 1]], -1) if oncoming else profile

    body, cabin = along(np.array(shape.body)), along(np.array(shape.cabin))
    _add_side(model, side, body, cabin, shape)
    narrow = 1.0 if shape.box else 0.80
    near = cabin[np.argsort(cabin[:, 0])][:2]
    low, high = near[np.argsort(near[:, 1])]
    deck = np.array(
        [[-0.97, body[0, 0], body[0, 1]], [0.97, body[0, 0], body[0, 1]], [0.95, *low], [-0.95, *low]]
    )
    model.add(*deck.T, gain=1.06)
    model.add(*np.array([[-0.94, *low], [0.94, *low], [narrow, *high], [-narrow, *high]]).T, gain=0.9)
    if kind != "truck":
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
        model.add(*pane.T, tint=_GLASS + 10)
        middle = (pane[:2] + pane[[3, 2]]) / 2
        model.add(*np.concatenate([middle, pane[2:]]).T, tint=_GLASS + 42)
    _add_end(model, kind, oncoming, braking, float(body[0, 1]))
    return model.faces()


def _add_side(model: _Model, side: float, body: Floats, cabin: Floats, shape: Shape) -> None:
    """Body, windows, wheels."""
    ground, length = 0.24, shape.size[2]
    outline = np.concatenate([[[0.0, ground]], body, [[length, ground]]])
    model.add(side, outline[:, 0], outline[:, 1], base=_FLANK)
    lean = np.where(cabin[:, 1] > cabin[:, 1].min() + 0.1, 0.82 if not shape.box else 1.0, 0.96)
    model.add(side * lean, cabin[:, 0], cabin[:, 1], base=_FLANK, gain=1.05)
    sill = np.array([[0.0, ground], [length, ground], [length, ground + 0.16], [0.0, ground + 0.16]])
    model.add(side, sill[:, 0], sill[:, 1], base=_FLANK, gain=0.55)
    centre = cabin.mean(axis=0)
    if length < 7:
        for a, b in ((0.0, 0.48), (0.53, 1.0)):
            glass = centre + (cabin - centre) * np.array([0.86, 0.72])
            left, right = glass[:, 0].min(), glass[:, 0].max()
            cut = glass.copy()
            cut[:, 0] = np.clip(cut[:, 0], left + a * (right - left), left + b * (right - left))
            model.add(side * lean * 1.005, cut[:, 0], cut[:, 1], _GLASS)
    elif length > 9:
        glass = centre + (cabin - centre) * np.array([0.95, 0.4]) + np.array([0.0, 0.2])
        model.add(side * 1.002, glass[:, 0], glass[:, 1], _GLASS)
    turn = np.linspace(0, 2 * np.pi, 19)[:-1]
    for z in (0.19 * length, 0.81 * length):
        for radius, tint in (
            (shape.wheel * 1.12, _RUBBER * 0.7),
            (shape.wheel, _RUBBER),
            (shape.wheel * 0.6, _RIM),
        ):
            deep, up = z + radius * np.cos(turn), shape.wheel + radius * np.sin(turn)
            model.add(side * 1.004, deep, np.maximum(up, 0.0), tint)


_CHAMFER = np.array([[-0.98, 0.30], [-0.9, 0.24], [0.9, 0.24], [0.98, 0.30]])


def _add_end(model: _Model, kind: str, oncoming: bool, braking: bool, belt: float) -> None:
    """The face toward us: rear lamps and plate, or head-lamps and grille."""
    shape = SHAPES[kind]
    for left, right in ((-0.92, -0.62), (0.62, 0.92)):
        model.panel(left, right, 0.0, 0.34, _RUBBER)
    shoulder = np.array([[1.0, belt * 0.72], [0.96, belt], [-0.96, belt], [-1.0, belt * 0.72]])
    across, up = np.concatenate([_CHAMFER, shoulder]).T
    model.add(across, 0.0, up)
    model.panel(-0.97, 0.97, 0.26, 0.46, gain=0.72)
    model.panel(-0.85, 0.85, 0.24, 0.33, _RUBBER * 1.4)
    if kind == "truck" and not oncoming:
        model.panel(-0.96, 0.96, belt, shape.size[1])
        model.panel(-0.01, 0.01, belt, shape.size[1], gain=0.7)
        model.panel(-1.0, 1.0, 0.62, 0.78, _RUBBER * 2)
    if oncoming:
        model.panel(-0.5, 0.5, belt * 0.55, belt * 0.78, _RUBBER * 1.3)
        lamp, glow, height = _HEAD_LAMP, 1.0, belt * 0.62
    else:
        model.panel(-0.28, 0.28, belt * 0.58, belt * 0.58 + 0.13, _PLATE)
        lamp, glow, height = _BRAKE_LAMP if braking else _REAR_LAMP, 1.1, belt * 0.72
    for left, right in ((-0.97, -0.66), (0.66, 0.97)):
        model.panel(left, right, height, height + 0.17, lamp, glow=glow)
