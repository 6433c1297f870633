"""What stands beside the road: fences, guard rails, walls, poles, signs, trees; and the vehicles, far to near."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .camera import Floats
from .drawing import Canvas
from .frontage import frontage
from .light import Light
from .scene import Scene
from .sprites import TREES, paste, tree
from .vehicles import draw_car

Item = tuple[float, Callable[[], None]]  # depth of the near end, and how to paint it


def draw_objects(canvas: Canvas, scene: Scene, light: Light) -> None:
    """Paint everything that stands on the ground, far to near."""
    items: list[Item] = []
    for side in (-1.0, 1.0):
        items += _fence(canvas, scene, light, side)
        items += _row(canvas, scene, light, side)
        items += frontage(canvas, scene, light, side)
    items += _gantry(canvas, scene, light)
    for car in scene.cars:
        lateral = car.u + float(scene.view.lateral(np.float64(car.z)))
        tone = light.at(lateral, max(car.z, 2.0))
        lit = scene.weather.night

        def paint(car=car, tone=tone, lit=lit) -> None:  # type: ignore[no-untyped-def]
            draw_car(canvas, scene.view, car, tone, lit)

        items.append((car.z, paint))
    for _, paint_item in sorted(items, key=lambda item: -item[0]):
        paint_item()


def _edge(scene: Scene, side: float) -> float:
    return scene.road.left if side < 0 else scene.road.right


def _fence(canvas: Canvas, scene: Scene, light: Light, side: float) -> list[Item]:
    """A white fence, a guard rail, a concrete wall or a hedge parallel to the road; half of the sides have none."""
    rng, view = scene.stream(f"fence {side}"), scene.view
    if rng.random() < 0.4 or (scene.category == "cross" and rng.random() < 0.6):
        return []
    u = _edge(scene, side) + side * rng.uniform(0.1, 1.6)
    start, stop = (
        (rng.uniform(2.5, 14) if rng.random() < 0.5 else 2.2),
        min(rng.uniform(35, 110), 0.9 * view.far),
    )
    if stop < start + 4:
        return []
    kind = rng.choice(["fence", "fence", "rail", "wall", "hedge"])
    white = np.array([205.0, 207.0, 205.0]) * rng.uniform(0.75, 1.05)
    grey = np.array([150.0, 148.0, 144.0]) * rng.uniform(0.8, 1.1)
    green = np.array([42.0, 74.0, 60.0]) * rng.uniform(0.7, 1.2)
    bands, gap, post = {
        "fence": (
            [(0.95, 1.02, white), (0.22, 0.29, white)],
            float(rng.uniform(0.28, 0.5)),
            (1.0, 0.045, white),
        ),
        "rail": ([(0.45, 0.75, grey), (0.57, 0.62, grey * 0.8)], 4.0, (0.75, 0.12, grey * 0.7)),
        "wall": ([(0.0, 0.85, grey * 1.05), (0.0, 0.25, grey * 0.85)], 0.0, (0.0, 0.0, grey)),
        "hedge": ([(0.0, 0.75, green * 0.75), (0.45, 0.8, green)], 0.0, (0.0, 0.0, grey)),
    }[str(kind)]
    edges = np.geomspace(start, stop, 9)
    # All corners of the fence at once; it is painted in sections, for things may stand between them.
    zs = np.linspace(edges[:-1], edges[1:], 5, axis=-1)
    heights = np.array([band[:2] for band in bands])
    rails = view.upright(u, zs[:, None], *heights.T).reshape(len(zs), -1, 2)
    colours = np.array([band[2] for band in bands])
    across = u + view.lateral(edges)
    posts = [
        np.arange(start + np.ceil((a - start) / gap) * gap, b, gap) if gap else edges[:0]
        for a, b in itertools.pairwise(edges)
    ]

    def section(number: int) -> Item:
        tone = light.at(across[number], edges[number])

        def paint() -> None:
            if gap:
                _posts(canvas, scene, u, posts[number], post, tone)
            canvas.faces(rails[number], [2 * zs.shape[1]] * len(bands), colours * tone)

        return edges[number], paint

    return [section(number) for number in range(len(zs))]


def _posts(
    canvas: Canvas, scene: Scene, u: float, zs: Floats, post: tuple[float, float, Floats], tone: Floats
) -> None:
    top, wide, colour = post
    zs = zs[zs < 45]
    if len(zs):
        # Posts have a depth too: seen along the fence they must not vanish.
        corner = np.array([-wide / 2, wide / 2, wide / 2, -wide / 2])
        points = scene.view.project(u + corner, zs[:, None] + corner, np.array([0, 0, top, top]))
        canvas.polygons(points, colour * tone)


class _Plant(NamedTuple):
    """A tree of the row: where it stands, how tall it is (metres), and its looks."""

    u: float
    z: float
    tall: float
    number: int  # of the sprite
    bright: float
    slim: float  # width as a part of the height


def _row(canvas: Canvas, scene: Scene, light: Light, side: float) -> list[Item]:
    """Trees, poles and lamps in a row along one side."""
    rng, view = scene.stream(f"row {side}"), scene.view
    plants: list[_Plant] = []
    u = _edge(scene, side) + side * rng.uniform(1.5, 5.0)
    if rng.random() < 0.65:
        spacing, tall = rng.uniform(5, 14), rng.uniform(4, 9)
        for z in np.arange(rng.uniform(6, 20), min(110.0, 0.9 * view.far), spacing):
            if rng.random() < 0.75:
                plants.append(
                    _Plant(
                        u=u + side * rng.uniform(0, 2),
                        z=z + rng.normal(0, 1),
                        tall=tall * rng.uniform(0.7, 1.2),
                        number=int(rng.integers(TREES)),
                        bright=rng.uniform(0.75, 1.1),
                        slim=rng.uniform(0.7, 0.95),
                    )
                )
    lamps = [lamp for lamp in light.lamps if (lamp.u > 0) == (side > 0)]
    spots = [(lamp.u - float(view.lateral(np.float64(lamp.z))), lamp.z, lamp.up) for lamp in lamps]
    if not spots and rng.random() < 0.6:
        up, spacing = rng.uniform(6, 10), rng.uniform(20, 40)
        spots = [
            (u - side * 0.8, float(z), up)
            for z in np.arange(rng.uniform(7, 30), min(120.0, 0.9 * view.far), spacing)
        ]
    trees = _trees(canvas, scene, light, plants)
    return [*trees, *(_pole(canvas, scene, light, *spot, side) for spot in spots)]


def _trees(canvas: Canvas, scene: Scene, light: Light, plants: list[_Plant]) -> list[Item]:
    view = scene.view
    us, zs, tall, slim = np.array([(p.u, p.z, p.tall, p.slim) for p in plants]).reshape(-1, 4).T
    (x, y), scale = view.project(us, zs).T, view.focal / zs
    wide = tall * slim * scale
    boxes = np.stack([x - wide / 2, y - tall * scale, x + wide / 2, y], axis=1).tolist()
    across = us + view.lateral(zs)

    def item(plant: _Plant, box: tuple[float, float, float, float], at: float) -> Item:
        tone = light.at(at, plant.z) * plant.bright * (0.6 if scene.weather.night else 1)
        return plant.z, lambda: paste(canvas, tree(plant.number), box, tone)

    return list(map(item, plants, boxes, across))


_POST_ACROSS = np.array([-0.09, 0.09, 0.05, -0.05])  # m
_ARM_ACROSS, _ARM_UP = np.array([0, 1.6, 1.6, 0]), np.array([-0.04, 0.32, 0.42, 0.06])  # m, toward the road
_HEAD_ACROSS, _HEAD_UP = np.array([1.4, 2.1, 2.1, 1.4]), np.array([0.30, 0.34, 0.46, 0.44])
_POLE_COLOURS = np.array([118.0, 118.0, 116.0]) * np.array([[1.0], [1.0], [0.9]])


def _pole(canvas: Canvas, scene: Scene, light: Light, u: float, z: float, up: float, side: float) -> Item:
    view = scene.view
    tone = light.at(u, z)
    us = u + np.concatenate([_POST_ACROSS, -side * _ARM_ACROSS, -side * _HEAD_ACROSS])
    ups = np.concatenate([[0, 0, up, up], up + _ARM_UP, up + _HEAD_UP])
    corners = view.project(us, z, ups)
    return z, lambda: canvas.faces(corners, (4, 4, 4), _POLE_COLOURS * tone)


def _gantry(canvas: Canvas, scene: Scene, light: Light) -> list[Item]:
    """Sometimes a traffic light or a blue sign on an arm over the road, sometimes a bridge."""
    rng, view, road = scene.stream("gantry"), scene.view, scene.road
    choice = rng.random()
    z = min(rng.uniform(22, 70), 0.8 * view.far)
    u = road.right + 1.0
    tone = light.ambient * (1.4 if scene.weather.night else 1.0)

    def panel(a: float, b: float, low: float, high: float, colour: tuple[float, float, float]) -> None:
        points = view.project(np.array([a, b, b, a]), z, np.array([low, low, high, high]))
        canvas.fill(points, np.array(colour) * tone)

    def paint_arm() -> None:
        panel(u - 0.14, u + 0.14, 0, 6.4, (105, 105, 104))
        panel(u - 8, u, 6.1, 6.35, (105, 105, 104))
        if choice < 0.2:
            panel(u - 8, u - 4.6, 5.0, 7.2, (150, 80, 30))
            panel(u - 7.6, u - 5.4, 6.3, 6.6, (220, 215, 210))
            panel(u - 7.6, u - 6.2, 5.6, 5.9, (220, 215, 210))
        else:
            for at in (u - 7.5, u - 4.2):
                panel(at, at + 0.42, 5.6, 6.9, (34, 34, 34))

    def paint_bridge() -> None:
        panel(-200, 200, 5.6, 7.2, (128, 130, 132))
        panel(-200, 200, 5.2, 5.6, (60, 60, 60))
        for at in (road.left - 2.5, road.right + 1.5):
            panel(at, at + 1.2, 0, 5.4, (104, 106, 108))

    if choice < 0.2 or (scene.category == "cross" and choice < 0.75):
        return [(z, paint_arm)]
    if choice > 0.93:
        return [(z, paint_bridge)]
    return []
