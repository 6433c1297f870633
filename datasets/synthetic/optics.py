"""What lens, windscreen and sensor add: glow of lamps, glare, the bonnet and its mirror image, blur, noise."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from .camera import WIDTH, Raster
from .light import Light
from .scene import Scene
from .texture import cloud_tile, grain_tile


def _add_spot(
    image: NDArray[np.uint8],
    raster: Raster,
    centre: NDArray[np.float64],
    spread: tuple[float, float],
    colour: NDArray[np.float64],
) -> None:
    """Add a Gaussian of deviations `spread` frame pixels, kept equal in energy where a pixel is wider than it."""
    sx, sy = raster.scale
    wide = np.hypot(spread[0], 0.29 / sx), np.hypot(spread[1], 0.29 / sy)
    colour = colour * (spread[0] * spread[1] / (wide[0] * wide[1]))
    brightest = float(colour.max())
    if brightest < 1:  # not one grey level
        return
    (x, y), (h, w) = raster.place_one(float(centre[0]), float(centre[1])), raster.size
    # Out to three deviations, or to where less than one grey level is left.
    reach = min(3.0, math.sqrt(2 * math.log(brightest)) + 1e-3)
    rx, ry = reach * wide[0] * sx + 1, reach * wide[1] * sy + 1
    c0, c1, r0, r1 = (
        max(0, int(x - rx)),
        min(w, int(x + rx) + 2),
        max(0, int(y - ry)),
        min(h, int(y + ry) + 2),
    )
    if c0 >= c1 or r0 >= r1:
        return
    across = np.exp(-(((raster.xs[c0:c1] - centre[0]) / wide[0]) ** 2) / 2)
    down = np.exp(-(((raster.ys[r0:r1] - centre[1]) / wide[1]) ** 2) / 2)
    bell = down[:, None] * across[None]
    glow = cv2.merge([np.minimum(bell * level, 255).astype(np.uint8) for level in colour])
    image[r0:r1, c0:c1] = cv2.add(image[r0:r1, c0:c1], glow)


def add_lamps(image: NDArray[np.uint8], scene: Scene, light: Light, raster: Raster) -> None:
    """By night: street lamps, head-lights and rear lamps, far lights at the horizon, each with bloom."""
    if not scene.weather.night:
        return
    view, rng = scene.view, scene.stream("lamps")

    def lamp(at: NDArray[np.float64], size: float, colour: NDArray[np.float64], bloom: float) -> None:
        _add_spot(image, raster, at, (size, size), colour * 255)
        _add_spot(image, raster, at, (3.2 * size + 2, 3.2 * size + 2), colour * 90 * bloom)
        _add_spot(image, raster, at, (11 * size + 8, 9 * size + 6), colour * 22 * bloom)

    for spot in light.lamps:
        u = spot.u - float(view.lateral(np.float64(spot.z))) + (1.7 if spot.u < 0 else -1.7)
        lamp(view.project(u, spot.z, spot.up + 0.3), float(np.clip(150 / spot.z, 0.9, 9)), spot.colour, 1.0)
    for car in scene.cars:
        for side in (-0.75, 0.75):
            at = view.project(car.u + side, car.z, 0.72 if car.oncoming else 0.82)
            size = float(np.clip((160 if car.oncoming else 60) / car.z, 0.8, 11))
            colour = (
                np.array([0.95, 0.97, 1.0])
                if car.oncoming
                else np.array([0.12, 0.08, 0.85 if car.braking else 0.5])
            )
            lamp(at, size, colour, 1.3 if car.oncoming else 0.6)
    for _ in range(int(rng.integers(3, 26))):
        x = rng.normal(view.vanish, 260) if rng.random() < 0.7 else rng.uniform(0, WIDTH)
        at = np.array([x, view.skyline + view.roll * (x - view.vanish) - rng.gamma(1.5, 12)])
        hue = np.array(
            [(0.3, 0.65, 1.0), (0.9, 0.95, 1.0), (0.1, 0.1, 0.9), (1.0, 0.35, 0.2), (0.5, 0.9, 0.2)][
                int(rng.choice(5, p=[0.5, 0.22, 0.18, 0.06, 0.04]))
            ]
        )
        lamp(at, rng.uniform(0.6, 2.4), hue * rng.uniform(0.3, 1.0), 0.7)


def add_glare(image: NDArray[np.uint8], scene: Scene, raster: Raster) -> NDArray[np.uint8]:
    """Dazzling sun low ahead: disc, wide glow, streak, its track on the road, and a veil over everything."""
    strength = scene.weather.glare
    if strength == 0:
        return image
    rng, view = scene.stream("glare"), scene.view
    x = rng.normal(view.vanish, 260)
    at = np.array([x, view.horizon - rng.uniform(-10, 150)])
    warm = np.array([rng.uniform(0.7, 1.0), 0.95, 1.0]) * 255 * strength
    veil = rng.uniform(0.1, 0.34) * strength
    image = cv2.convertScaleAbs(image, alpha=1 - veil, beta=255 * veil * 0.75)
    _add_spot(image, raster, at, (rng.uniform(25, 70),) * 2, warm)
    wide = rng.uniform(170, 380)
    _add_spot(image, raster, at, (wide, wide * 0.7), warm * 0.45)
    _add_spot(
        image, raster, at + np.array([0.0, 160.0]), (rng.uniform(8, 30), 260.0), warm * rng.uniform(0.1, 0.45)
    )
    track = np.array([x, view.horizon + rng.uniform(90, 170)])
    _add_spot(
        image, raster, track, (rng.uniform(60, 190), rng.uniform(50, 110)), warm * rng.uniform(0.1, 0.45)
    )
    return image


def add_bonnet(image: NDArray[np.uint8], scene: Scene, raster: Raster) -> None:
    """70 % of the frames: the car's own bonnet with a soft mirror image, and the dark edge of the dashboard."""
    rng = scene.stream("bonnet")
    if rng.random() > 0.7:
        return
    apex, middle = rng.uniform(430, 575), scene.view.vanish + rng.normal(0, 40)
    fall = rng.uniform(30, 150)
    edge = apex + fall * (np.abs(raster.xs - middle) / 820) ** rng.uniform(1.7, 2.6)
    first = int(np.clip((apex - 2 - raster.rows[0]) * raster.scale[1], 0, raster.size[0] - 1))
    ys = raster.ys[first:]
    inside = np.clip((ys[:, None] - edge[None]) * raster.scale[1] + 0.5, 0, 1).astype(np.float32)
    stretch = (apex - 216) / (590 - apex + 1) * rng.uniform(0.55, 1.0)
    depth = ys[:, None] - edge[None]
    source = edge[None] - np.maximum(depth, 0) * stretch - 6
    rows = ((source - raster.rows[0] + 0.5) * raster.scale[1] - 0.5).astype(np.float32)
    columns = np.broadcast_to(np.arange(raster.size[1], dtype=np.float32), rows.shape)
    quarter = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    quarter = cv2.GaussianBlur(quarter, (0, 0), max(0.4, 3.0 * raster.scale[0]))
    mirror = cv2.remap(
        quarter, columns * 0.5 - 0.25, rows * 0.5 - 0.25, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    paint = np.array(
        [(34, 40, 32), (26, 24, 24), (52, 46, 44), (40, 30, 70), (120, 122, 122), (70, 60, 52)][
            int(rng.choice(6, p=[0.3, 0.3, 0.15, 0.1, 0.08, 0.07]))
        ]
    )
    ambient = float(scene.weather.brightness) * (0.14 if scene.weather.night else 1.0)
    gloss = rng.uniform(0.25, 0.5)
    tint = (paint * ambient * rng.uniform(0.6, 1.2)).astype(np.float32)
    ridge = (np.exp(-(((depth - rng.uniform(8, 25)) / 5) ** 2)) * 18 * ambient).astype(np.float32)
    dash = 590 - rng.uniform(0, 70) + 60 * (np.abs(raster.xs - middle) / 820) ** 2 * rng.uniform(-1, 1)
    bright = 1 - 0.85 * np.clip((ys[:, None] - dash[None]) * 0.12 + 0.5, 0, 1).astype(np.float32)
    planes = []
    for behind, reflected, base in zip(cv2.split(image[first:]), cv2.split(mirror), tint, strict=True):
        colour = reflected * np.float32(gloss)
        colour += base
        colour += ridge
        colour *= bright
        colour -= behind
        colour *= inside
        colour += behind
        planes.append(cv2.convertScaleAbs(colour))
    image[first:] = cv2.merge(planes)


def expose(image: NDArray[np.uint8], scene: Scene, raster: Raster) -> NDArray[np.uint8]:
    """Motion and lens blur, reflections in the windscreen, contrast, vignette, sensor noise."""
    weather, rng = scene.weather, scene.stream("exposure")
    if weather.night and rng.random() < 0.55:
        image = _smear(image, scene, raster, rng.uniform(0.01, 0.03))
    sigma = weather.blur * float(np.mean(raster.scale))
    if sigma > 0.25:
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    _reflect(image, scene, raster, rng)
    alpha = weather.contrast
    image = cv2.convertScaleAbs(
        image, alpha=alpha, beta=max(0.0, 110 * (1 - alpha)) if not weather.night else 0
    )
    edge = rng.uniform(0.05, 0.3)
    across = ((raster.xs - 820) / 820) ** 2
    down = ((raster.ys - 295) / 295) ** 2
    shade = 255 * (1 - edge * (down[:, None] * np.float32(0.35) + across[None] * np.float32(0.65)))
    shade = cv2.cvtColor(shade.astype(np.uint8), cv2.COLOR_GRAY2BGR)
    image = cv2.multiply(image, shade, scale=1 / 255)
    tile, (h, w) = grain_tile(), raster.size
    y, x = rng.integers(0, tile.shape[0] - h + 1), rng.integers(0, tile.shape[1] - w + 1)
    level = weather.noise / 32 * min(1.0, float(np.sqrt(raster.scale[0] * raster.scale[1])) * 1.4)
    return cv2.addWeighted(image, 1.0, tile[y : y + h, x : x + w], level, -128 * level)


def _smear(image: NDArray[np.uint8], scene: Scene, raster: Raster, amount: float) -> NDArray[np.uint8]:
    """Motion blur of a long exposure: the mean of the frame and of slightly enlarged copies of it."""
    centre = raster.place(np.array([scene.view.vanish, scene.view.horizon]))
    copies = []
    for step in range(1, 4):
        zoom = 1 + amount * step / 3
        matrix = np.array([[zoom, 0, centre[0] * (1 - zoom)], [0, zoom, centre[1] * (1 - zoom)]])
        copies.append(
            cv2.warpAffine(
                image, matrix, image.shape[1::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )
        )
    return cv2.addWeighted(
        cv2.addWeighted(image, 0.5, copies[0], 0.5, 0),
        0.5,
        cv2.addWeighted(copies[1], 0.5, copies[2], 0.5, 0),
        0.5,
        0,
    )


def _reflect(image: NDArray[np.uint8], scene: Scene, raster: Raster, rng: np.random.Generator) -> None:
    """A faint bright patch of things on the dashboard, seen in the windscreen."""
    if rng.random() > 0.35:
        return
    tile = cloud_tile()
    at = np.array([rng.uniform(200, 1500), rng.uniform(330, 560)])
    level = rng.uniform(4, 16) * (0.6 if scene.weather.night else 1.0)
    for _ in range(int(rng.integers(1, 5))):
        spread = (rng.uniform(15, 160), rng.uniform(6, 30))
        spot = at + rng.normal(0, 1, 2) * np.array([120, 30])
        _add_spot(
            image, raster, spot, spread, np.array([1.0, 0.95, 0.9]) * level * (1 + 0.3 * float(tile[0, 0]))
        )
