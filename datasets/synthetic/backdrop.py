"""Sky, and what stands at the end of the ground: houses and a line of trees."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .camera import Raster
from .drawing import Canvas
from .light import Light
from .scene import Scene
from .sprites import FACADES, TREES, Pyramid, facade, paste, tree
from .texture import cloud_tile


def draw_sky(image: NDArray[np.uint8], scene: Scene, raster: Raster) -> None:
    """Fill the rows of `image` down to the ground: overcast or pale blue, brighter toward the horizon."""
    rng, weather = scene.stream("sky"), scene.weather
    rows = int(np.clip((scene.view.skyline + 20 - raster.rows[0]) * raster.scale[1], 0, raster.size[0]))
    image[rows:] = 90
    if rows == 0:
        return
    height = np.clip((scene.view.skyline - raster.ys[:rows]) / 300, 0, 1)[:, None]
    pale = np.array([214, 212, 208]) * rng.uniform(0.86, 1.06)
    zenith = pale * (1 - weather.blue_sky) + np.array([222, 176, 132]) * weather.blue_sky
    if weather.night:
        dark = rng.uniform(0.02, 0.10)
        pale, zenith = pale * dark * np.array([0.8, 0.9, 1.15]), zenith * dark * 0.55
    gradient = (pale + (zenith - pale) * height**0.7).astype(np.float32)
    tile, (dy, dx) = cloud_tile(), rng.integers(0, 256, 2)
    columns = np.clip(raster.xs[::4] * 0.12 + dx, 0, 510).astype(np.float32)
    lines = (dy + 60 * np.log1p(np.clip(scene.view.skyline - raster.ys[:rows:4], 0, 600) / 25)).astype(
        np.float32
    )
    clouds = cv2.remap(tile, *np.meshgrid(columns, lines), cv2.INTER_LINEAR)
    clouds = cv2.resize(clouds, (raster.size[1], rows), interpolation=cv2.INTER_LINEAR)
    clouds *= np.float32(weather.cloud * (0.15 if weather.night else 1.0))
    bright = 1.0 if weather.night else weather.brightness
    planes = [np.clip((shade[:, None] + clouds) * bright, 0, 255).astype(np.uint8) for shade in gradient.T]
    image[:rows] = cv2.merge(planes)


def draw_skyline(canvas: Canvas, scene: Scene, light: Light) -> None:
    """Houses, then trees and bushes, along the line where the ground ends."""
    rng, view = scene.stream("skyline"), scene.view
    night = scene.weather.night
    ambient = light.ambient * (0.45 if night else 1.0)
    haze = rng.uniform(0.15, 0.4)

    def foot(x):  # type: ignore[no-untyped-def]
        return view.skyline + view.roll * (x - view.vanish)

    for _ in range(int(rng.integers(0, 9))):
        x, size = rng.uniform(-100, 1700), rng.uniform(0.35, 1.0) ** 2
        if abs(x - view.vanish) < 120:
            size *= 0.4
        width, height = rng.uniform(90, 240) * size, rng.uniform(60, 300) * size
        front, lit = facade(int(rng.integers(FACADES)))
        crop = front[: int(rng.integers(90, 257)), : int(rng.integers(60, 193))]
        box = (x - width / 2, foot(x) - height, x + width / 2, foot(x) + 3)
        if night:
            crop = cv2.add(cv2.multiply(crop, (0.06,) * 4), lit[: crop.shape[0], : crop.shape[1]])
            paste(canvas, Pyramid(crop), box, np.full(3, 0.55))
        else:
            pale = cv2.addWeighted(crop, 1 - haze, np.full_like(crop, 200), haze, 0)
            paste(canvas, Pyramid(pale), box, ambient)
    tall = rng.uniform(14, 60)
    xs = np.linspace(-40, 1680, 300)
    swell = np.convolve(rng.random(xs.size + 24), np.ones(25) / 25, "valid") ** 2 * 2.6
    tops = foot(xs) - tall * 0.35 * np.clip(swell + rng.normal(0, 0.09, xs.size), 0.1, 2)
    hedge = np.array([62.0, 80.0, 74.0]) * rng.uniform(0.6, 1.0) * ambient
    edge = np.concatenate([np.stack([xs, tops], 1), [[1680.0, foot(1680.0) + 5], [-40.0, foot(-40.0) + 5]]])
    canvas.fill(edge, hedge)
    for x in np.sort(rng.uniform(-60, 1700, int(rng.integers(24, 56)))).tolist():
        distance = abs(x - view.vanish) / 820
        height = tall * rng.uniform(0.5, 1.3) * (0.35 + distance)
        width = height * rng.uniform(0.9, 1.7)
        sprite = tree(int(rng.integers(TREES)), 300 if rng.random() < 0.7 else 384)
        base = foot(x) + 4
        paste(
            canvas,
            sprite,
            (x - width / 2, base - height, x + width / 2, base),
            ambient * rng.uniform(0.75, 1.0),
        )
