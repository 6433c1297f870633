"""Light on the ground: shade by day, head-lights and street lamps by night, and the soft darkening under cars."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .camera import Floats, Raster, spaced
from .drawing import Canvas
from .scene import Scene
from .vehicles import SHAPES


@dataclass(frozen=True)
class Lamp:
    """A street lamp at `u`, `z`, `up` metres; it lights a pool of the road."""

    u: float
    z: float
    up: float
    colour: NDArray[np.float64]  # BGR, 0..1


@dataclass(frozen=True)
class Light:
    """Factors of blue, green, red that the scene's surfaces are multiplied with."""

    ambient: NDArray[np.float64]
    beam: float = 0.0
    beam_colour: NDArray[np.float64] | None = None
    reach: float = 20.0
    lamps: tuple[Lamp, ...] = ()

    def at(self, across: Floats | float, z: Floats | float) -> Floats:
        """Light [..., 3] at `across` metres beside the camera's axis and `z` metres ahead."""
        total = np.empty((*np.broadcast(across, z).shape, 3), np.float32)
        total[:] = self.ambient
        if self.beam_colour is None and not self.lamps:
            return total
        across, z = np.broadcast_arrays(np.asarray(across, np.float32), np.asarray(z, np.float32))
        if self.beam_colour is not None:
            cone = np.exp(-((across / (1.3 + 0.16 * z)) ** 2)) + 0.18 * np.exp(
                -((across / (3 + 0.4 * z)) ** 2)
            )
            fall = 1 / (1 + (z / self.reach) ** 2) * (1 - 0.75 * np.exp(-((z / 6.0) ** 2)))
            total += (self.beam * cone * fall)[..., None] * self.beam_colour.astype(np.float32)
        for lamp in self.lamps:
            distance = ((across - lamp.u) / 5.5) ** 2 + ((z - lamp.z) / 7.5) ** 2
            total += np.exp(-distance)[..., None] * lamp.colour.astype(np.float32) * 0.55
        return total


def sample_light(scene: Scene) -> Light:
    """The scene's light: 1 by day; at night a dim ambient, our beam, and lamps on most roads."""
    rng = scene.stream("light")
    weather = scene.weather
    if not weather.night:
        return Light(np.array(weather.tint) * weather.brightness)
    ambient = rng.uniform(0.11, 0.26) * np.array([rng.uniform(0.75, 1.1), 0.9, rng.uniform(0.85, 1.15)])
    beam_colour = np.array([rng.uniform(0.8, 1.05), 1.0, rng.uniform(0.92, 1.05)])
    lamps: list[Lamp] = []
    if rng.random() < 0.7:
        spacing, side = rng.uniform(22, 38), rng.choice([-1, 1])
        warm = np.array([rng.uniform(0.15, 0.5), rng.uniform(0.55, 0.8), 1.0]) * rng.uniform(0.3, 0.9)
        edge = scene.road.left - 1.0 if side < 0 else scene.road.right + 1.0
        for z in np.arange(rng.uniform(6, 30), min(150.0, scene.view.far), spacing):
            lamps.append(Lamp(float(edge + scene.view.lateral(z)), float(z), rng.uniform(7, 9), warm))
    return Light(ambient, float(rng.uniform(1.0, 2.1)), beam_colour, float(rng.uniform(14, 30)), tuple(lamps))


_UNDER = np.array([(0.35, 92.0), (0.12, 60.0), (-0.05, 34.0)])  # m beyond the vehicle, tone of the shade


def _under_cars(scene: Scene) -> Floats:
    """Corners [C * 3 * 4, 2] of the shades under C vehicles, from the widest to the darkest each."""
    sizes = np.array([SHAPES[car.kind].size for car in scene.cars])[:, None]  # [C, 1, 3]
    places = np.array([(car.u, car.z) for car in scene.cars])[:, None, None]  # [C, 1, 1, 2]
    grow = _UNDER[:, 0]
    half, near, far = np.broadcast_arrays(sizes[..., 0] / 2 + grow, -grow, sizes[..., 2] + grow)  # [C, 3]
    us = places[..., 0] + np.stack([-half, half, half, -half], axis=-1)
    zs = np.maximum(places[..., 1] + np.stack([near, near, far, far], axis=-1), 1.3)
    return scene.view.project(us, zs).reshape(-1, 2)


def ground_light(scene: Scene, light: Light, raster: Raster) -> NDArray[np.float32]:
    """[H, W, 3] factor on a coarse raster: the light, soft shade under vehicles, worn and oily tracks."""
    view, road = scene.view, scene.road
    below = raster.ys[:, None] - view.horizon - view.roll * (raster.xs[None] - view.vanish)
    z = view.depth_at(below)
    total = light.at((raster.xs[None] - view.vanish) * z / view.focal, z)
    tone = Canvas(np.full(raster.size, 128, np.uint8), raster)
    rng = scene.stream("tracks")
    depths = spaced(2.5, view.far * 0.9, 24)
    us = [road.offset + step * road.lane_width + side for step in range(-3, 4) for side in (-0.8, 0.8)]
    tracks = np.array([u for u in us if road.left < u < road.right])
    levels = 128 + rng.uniform(-9, 6, (len(tracks), 1))
    outlines = view.strip(tracks - 0.3, tracks + 0.3, depths)
    tone.faces(outlines.reshape(-1, 2), [2 * len(depths)] * len(tracks), levels)
    soft = cv2.GaussianBlur(tone.image, (0, 0), max(0.6, 8 * raster.scale[0]))
    tone.image = soft
    if scene.cars:
        shades = _under_cars(scene)
        counts, levels = [4] * (len(shades) // 4), np.tile(_UNDER[:, 1:], (len(scene.cars), 1))
        tone.faces(shades, counts, levels)
    soft = cv2.GaussianBlur(tone.image, (0, 0), max(0.5, 4 * raster.scale[0]))
    factor = soft * np.float32(1 / 128)
    return cv2.multiply(total, cv2.merge([factor] * 3))
