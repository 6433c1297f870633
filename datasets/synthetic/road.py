"""The ground: asphalt, verges, marks, their wear, and the shade of trees and buildings on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from .camera import Floats, Raster, View, spaced
from .drawing import Canvas
from .light import Light, ground_light
from .scene import Line, Scene
from .texture import look_up

_NEAR = 2.2  # m: nearest depth that is painted; nearer than any row of the frame shows


def draw_ground(image: NDArray[np.uint8], scene: Scene, light: Light, raster: Raster, fine: int) -> None:
    """Shade the rows of `image` [H, W, 3] below the skyline. `fine`: grid refinement for shapes."""
    view = scene.view
    ends = view.roll * (raster.xs[[0, -1]] - view.vanish)
    first = view.skyline + float(ends.min())
    top = int(np.clip(np.floor((first - raster.rows[0]) * raster.scale[1]), 0, raster.size[0] - 1))
    bottom = raster.rows[1]
    window = Raster((raster.size[0] - top, raster.size[1]), (0, 1))
    object.__setattr__(window, "rows", (raster.rows[0] + top / raster.scale[1], bottom))
    object.__setattr__(window, "scale", raster.scale)
    below = (
        window.ys[:, None]
        - np.float32(view.horizon)
        - np.float32(view.roll) * (window.xs[None] - np.float32(view.vanish))
    )
    shaded = _shade(scene, light, window, below, fine)
    known = below >= view.below(np.array([view.far]))[0] - 0.5 / raster.scale[1]
    cv2.copyTo(shaded, known.astype(np.uint8), image[top:])


def _shade(
    scene: Scene, light: Light, window: Raster, below: NDArray[np.float32], fine: int
) -> NDArray[np.uint8]:
    view = scene.view
    z = view.depth_at(below)
    lateral = np.float32(view.bend / 2) * z * z + np.float32(view.twist / 6) * z * z * z
    across = (window.xs[None] - np.float32(view.vanish)) * z * np.float32(1 / view.focal) - lateral
    middle = z[:, z.shape[1] // 2]
    along = np.abs(np.gradient(middle)) if len(middle) > 1 else middle
    footprint = np.stack([middle / (view.focal * window.scale[0]), along], axis=1)
    rng = scene.stream("ground")
    shift = rng.uniform(0, 60, 2).astype(np.float32)
    noise = look_up("ground", across + shift[0], z + shift[1], footprint)
    materials = _materials(scene, window, fine)
    marks = _marks(scene, window, fine)
    gain = ground_light(scene, light, window.resized(0.25 if window.size[1] > 800 else 0.5))
    gain = list(cv2.split(cv2.resize(gain, window.size[::-1], interpolation=cv2.INTER_LINEAR)))
    _cast_shade(scene, gain, across, z, footprint)

    *planes, rough = cv2.split(materials)
    asphalt, wear, verge = cv2.split(noise)
    cv2.copyTo(verge, cv2.compare(rough, 100, cv2.CMP_GT), asphalt)
    relief = asphalt.astype(np.float32)
    relief -= 128
    relief *= rough
    relief *= np.float32(1 / (128 * 255))
    relief += 1
    # Only a few pixels have paint. Wear eats it where the noise is high; thick paint (strong marks) resists.
    *tints, cover = (plane.ravel() for plane in cv2.split(marks))
    painted = np.flatnonzero(cover)
    paint = cover[painted].astype(np.float32)
    worn = wear.ravel()[painted].astype(np.float32) - 100
    paint *= np.clip(1.25 - worn * np.float32(1 / 90) * (1 - paint * np.float32(0.6 / 255)), 0.15, 1)
    paint *= np.float32(1 / 255)
    for channel, (plane, tint) in enumerate(zip(planes, tints, strict=True)):
        colour = plane * relief
        bare = colour.ravel()[painted]
        colour.ravel()[painted] = bare + (tint[painted] - bare) * paint
        colour *= gain[channel]
        planes[channel] = cv2.convertScaleAbs(colour)
    return cv2.merge(planes)


def _cast_shade(
    scene: Scene,
    gain: Sequence[NDArray[np.float32]],
    across: NDArray[np.float32],
    z: NDArray[np.float32],
    footprint: Floats,
) -> None:
    """Darken `gain` by the shade of trees (smooth, dappled) and of a building or bridge (a straight band)."""
    rng = scene.stream("shade")
    wanted = scene.category == "shadow"
    if scene.weather.night or not (wanted or rng.random() < 0.12):
        return
    depth = rng.uniform(0.40, 0.65) if wanted else rng.uniform(0.15, 0.35)
    cool = np.array([0.92, 1.0, 1.05], np.float32) * np.float32(depth)
    trees = not wanted or rng.random() < 0.7
    if trees:
        shift = rng.uniform(0, 80, 2).astype(np.float32)
        sun = look_up(
            "shade",
            across + shift[0],
            z * np.float32(0.7) + shift[1],
            footprint.astype(np.float32),
            (0.06, 0.12),
        )
        side, reach = rng.choice([-1.0, 1.0]), rng.uniform(-1, 8)
        dark = (255 - sun.astype(np.float32)) * np.float32(1 / 255)
        if rng.random() < 0.6:
            dark *= np.clip((across * np.float32(side) + np.float32(reach)) * np.float32(0.4), 0, 1)
        _darken(gain, dark, cool)
    if wanted and (not trees or rng.random() < 0.4):
        near, far, slant = rng.uniform(5, 30), rng.uniform(4, 35), rng.uniform(-0.6, 0.6)
        at = z + np.float32(slant) * across
        soft = np.maximum(footprint[:, 1:2].astype(np.float32), 0.25)
        band = np.clip((at - near) / soft + 0.5, 0, 1) * np.clip((near + far - at) / soft + 0.5, 0, 1)
        _darken(gain, band, cool * np.float32(1.05))


def _darken(
    gain: Sequence[NDArray[np.float32]], dark: NDArray[np.float32], share: NDArray[np.float32]
) -> None:
    """Take `share` [3] of the light [3][H, W] away where `dark` [H, W] is 1."""
    for plane, part in zip(gain, share, strict=True):
        plane *= 1 - dark * part


_VERGES = {
    "grass": (48.0, 88.0, 82.0, 190.0),
    "soil": (72.0, 98.0, 116.0, 190.0),
    "paving": (118.0, 122.0, 126.0, 70.0),
}


def _plain(size: tuple[int, int], colour: Floats) -> NDArray[np.uint8]:
    """[H, W, 4] of one colour (written as one 32-bit number a pixel, several times faster)."""
    word = np.clip(colour, 0, 255).astype(np.uint8).view(np.uint32)[0]
    return np.full(size, word, np.uint32).view(np.uint8).reshape(*size, 4)


def _materials(scene: Scene, window: Raster, fine: int) -> NDArray[np.uint8]:
    """[H, W, 4]: colour of the ground before light and noise, and its roughness (above 100: verge noise)."""
    view, road = scene.view, scene.road
    rng = scene.stream("materials")
    grid = window.resized(fine) if fine > 1 else window
    tone = rng.uniform(66, 112)
    asphalt = np.array(
        [tone * rng.uniform(0.92, 1.0), tone * rng.uniform(0.98, 1.01), tone * rng.uniform(1.0, 1.09), 55.0]
    )
    names = [list(_VERGES)[int(rng.integers(3))] for _ in range(2)]
    left, right = (
        np.array(_VERGES[name]) * [*(rng.uniform(0.7, 1.15) * rng.uniform(0.97, 1.03, 3)), 1.0]
        for name in names
    )
    image = _plain(grid.size, left)
    strips = [_Strip((road.left + road.right) / 2, 400.0, right)]
    kerb = _toned(np.array([150.0, 152.0, 154.0, 40.0]), rng.uniform(0.75, 1.1))
    if rng.random() < 0.45:  # the opposite carriageway, beyond a strip
        gap, wide = rng.uniform(0.6, 3.0), rng.uniform(6, 12)
        strips.append(_Strip(road.left - gap - wide, road.left - gap, asphalt * rng.uniform(0.93, 1.07)))
        for u in (road.left - gap - 0.5, road.left - gap - wide + 0.4):
            strips.append(_Strip(u - 0.07, u + 0.07, asphalt + (kerb - asphalt) * rng.uniform(0.2, 0.7)))
    if rng.random() < 0.55:
        paving = road.right + rng.uniform(1.5, 5), np.array(_VERGES["paving"]) * rng.uniform(0.8, 1.0)
        strips += [_Strip(road.right, road.right + 0.25, kerb), _Strip(road.right + 0.25, *paving)]
    if rng.random() < 0.5:
        strips.append(_Strip(road.left - 0.25, road.left, kerb))
    strips.append(_Strip(road.left, road.right, asphalt))
    if scene.category == "cross":
        near = rng.uniform(9, 24)
        strips.append(_Strip(-60.0, 60.0, asphalt, near, near + rng.uniform(14, 28)))
    _fill_strips(Canvas(image, grid), view, strips + _repairs(scene, asphalt))
    return cv2.resize(image, window.size[::-1], interpolation=cv2.INTER_AREA) if fine > 1 else image


class _Strip(NamedTuple):
    """Ground between `left` and `right` metres of one colour and roughness [4], from `start` to `stop` metres ahead."""

    left: float
    right: float
    colour: Floats
    start: float = 0.0
    stop: float = np.inf


def _fill_strips(canvas: Canvas, view: View, strips: Sequence[_Strip]) -> None:
    depths = spaced(_NEAR, view.far, 48)
    edges = view.project(np.array([(strip.left, strip.right) for strip in strips])[..., None], depths)
    starts = np.searchsorted(depths, [strip.start for strip in strips], "left")
    stops = np.searchsorted(depths, [strip.stop for strip in strips], "right")
    outlines, colours = [], []
    for (left, right), strip, start, stop in zip(edges, strips, starts, stops, strict=True):
        if stop - start > 1:
            outlines.append(np.concatenate([left[start:stop], right[start:stop][::-1]]))
            colours.append(strip.colour)
    canvas.faces(np.concatenate(outlines), [len(line) for line in outlines], np.clip(colours, 0, 255))


def _toned(colour: Floats, factor: float) -> Floats:
    """The colour [4] times `factor`, its roughness kept."""
    return colour * [factor, factor, factor, 1.0]


def _repairs(scene: Scene, asphalt: Floats) -> list[_Strip]:
    """Patches of other asphalt, and sealed seams along the road: the distractors of worn roads."""
    rng, road = scene.stream("repairs"), scene.road
    strips = []
    for _ in range(int(rng.integers(0, 4))):
        u, z = rng.uniform(road.left, road.right - 1), rng.uniform(4, 40)
        right, colour = u + rng.uniform(0.6, 3.5), _toned(asphalt, rng.uniform(0.82, 1.12))
        strips.append(_Strip(u, right, colour, z, z * rng.uniform(1.2, 2.5)))
    for _ in range(int(rng.integers(0, 4))):
        u, wide = rng.uniform(road.left, road.right), rng.uniform(0.03, 0.09)
        colour = _toned(asphalt, rng.uniform(0.72, 1.12))
        strips.append(_Strip(u, u + wide, colour, rng.uniform(0, 12), rng.uniform(20, 90)))
    return strips


def _marks(scene: Scene, window: Raster, fine: int) -> NDArray[np.uint8]:
    """[H, W, 4]: colour of the paint, and how much of the ground it covers, wear by stretches included."""
    grid = window.resized(fine) if fine > 1 else window
    image = _plain(grid.size, np.array([205.0, 205.0, 205.0, 0.0]))
    canvas = Canvas(image, grid)
    rng = scene.stream("marks")
    for line in scene.road.lines:
        if line.strength > 0:
            for u in (line.u - 0.12, line.u + 0.12) if line.double else (line.u,):
                _paint_line(canvas, scene, line, u, rng)
    _paint_symbols(canvas, scene, rng)
    return cv2.resize(image, window.size[::-1], interpolation=cv2.INTER_AREA) if fine > 1 else image


_THIRDS = np.linspace(0, 1, 4)


def _paint_line(canvas: Canvas, scene: Scene, line: Line, u: float, rng: np.random.Generator) -> None:
    """One painted line: dashes, or short stretches of a solid line, each with its own wear; some are missing."""
    view = scene.view
    far = min(view.far, 170.0)
    if line.period:
        a = np.arange(line.phase - line.period, far, line.period)
        b = a + line.dash
    else:
        nodes = spaced(_NEAR, far, 26)
        a, b = nodes[:-1], nodes[1:]
    strengths = line.strength * (1 - line.wear * rng.random(len(a)) ** 2 * 0.8)
    strengths[rng.random(len(a)) < 0.06 * line.wear] = 0
    a, b = np.maximum(a, max(_NEAR, line.start)), np.minimum(b, far)
    kept = (b > a) & (strengths > 0.02)
    if kept.any():
        a, b, strengths = a[kept], b[kept], strengths[kept]
        zs = a[:, None] + (b - a)[:, None] * _THIRDS
        half = line.width / 2
        left, right = view.project(np.array([u - half, u + half])[:, None, None], zs)
        _paint_strips(canvas, left, right, strengths, line.colour)


def _paint_strips(
    canvas: Canvas, left: Floats, right: Floats, strengths: Floats, colour: tuple[float, float, float]
) -> None:
    """Fill between edges [N, K, 2]. OpenCV's fill reaches half a pixel too far on each side: taken off here.

    Strips thinner than the grid are filled one pixel wide and as faint as what they cover.
    """
    scale = canvas.raster.scale
    step = np.abs(np.diff(left + right, axis=1)) * (np.array(scale) / 2)
    spill = np.maximum(1.0, step[..., 0] / np.maximum(step[..., 1], 1e-3))  # px across for one px of outline
    spill = np.concatenate([spill[:, :1], np.maximum(spill[:, 1:], spill[:, :-1]), spill[:, -1:]], axis=1)
    wide = (right - left)[..., 0] * scale[0]
    inset = (np.minimum(spill, wide) / 2 / scale[0])[..., None] * np.array([1.0, 0.0])
    cover = np.minimum(1.0, wide / spill)
    values = np.empty((*step.shape[:2], 4))
    values[..., :3] = colour
    values[..., 3] = 255 * strengths[:, None] * (cover[:, 1:] + cover[:, :-1]) / 2
    canvas.strips(left + inset, right - inset, values)


_ARROW_SHAFT = np.array([[-0.08, 0.0], [0.08, 0.0], [0.08, 3.4], [-0.08, 3.4]])
_ARROW_HEAD = np.array([[-0.32, 3.4], [0.32, 3.4], [0.0, 5.6]])
_TURN = np.array([[0.05, 2.2], [0.45, 3.1], [0.45, 2.6], [0.85, 3.6], [0.45, 4.6], [0.45, 4.0], [0.05, 2.9]])


def _paint_symbols(canvas: Canvas, scene: Scene, rng: np.random.Generator) -> None:
    """Arrows in the lanes; zebra and stop line at a crossing."""
    view, road = scene.view, scene.road
    lanes = [s for s in (-1, 0, 1) if road.left < road.offset + s * road.lane_width < road.right]
    if scene.category == "arrow" or (scene.category in ("crowd", "cross") and rng.random() < 0.2):
        base = rng.uniform(6, 14)
        for s in lanes:
            u, z = road.offset + s * road.lane_width + rng.normal(0, 0.1), base + rng.uniform(-0.5, 0.5)
            shapes = [_ARROW_SHAFT]
            style = rng.integers(3)
            if style != 1:
                shapes.append(_ARROW_HEAD)
            if style != 0:
                shapes.append(_TURN * np.array([rng.choice([-1, 1]), 1]))
            value = (*(200.0,) * 3, 255 * rng.uniform(0.4, 1.0))
            for repeat in range(int(rng.integers(1, 3))):
                for shape in shapes:
                    canvas.fill(view.project(u + shape[:, 0], z + repeat * 25 + shape[:, 1]), value)
    if scene.category == "cross" or (scene.category == "crowd" and rng.random() < 0.1):
        z = rng.uniform(7, 26) if scene.category == "cross" else rng.uniform(20, 40)
        deep, value = rng.uniform(3, 5), (*(205.0,) * 3, 255 * rng.uniform(0.3, 0.9))
        slant = rng.uniform(-0.12, 0.12)
        for u in np.arange(road.left - 1, road.right + 1, rng.uniform(0.9, 1.2)):
            us = u + np.array([0, 0.45, 0.45, 0])
            canvas.fill(view.project(us, z + slant * us + np.array([0, 0, deep, deep])), value)
        if rng.random() < 0.6:
            us = np.array([road.left, road.right, road.right, road.left])
            canvas.fill(view.project(us, z - 2.5 + slant * us + np.array([0, 0, 0.35, 0.35])), value)
