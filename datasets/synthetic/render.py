"""From a scene to pixels."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from .backdrop import draw_sky, draw_skyline
from .camera import HEIGHT, WIDTH, Raster
from .drawing import Canvas
from .light import sample_light
from .optics import add_bonnet, add_glare, add_lamps, expose
from .road import draw_ground
from .roadside import draw_objects
from .scene import Scene
from .texture import GRAIN

VERSION = 2  # of the pictures: raise it when the same scene renders differently


def render(
    scene: Scene, size: tuple[int, int] = (HEIGHT, WIDTH), rows: tuple[int, int] = (0, HEIGHT)
) -> NDArray[np.uint8]:
    """BGR image [size[0], size[1], 3] of rows `rows[0]`..`rows[1]` of the 1640x590 frame.

    Any size covers the full width; a small one looks like the full frame reduced by area, at a fraction of
    the time. Raises ValueError for a size that is empty or larger than the sensor's grain, or rows outside the frame.
    """
    if not (8 <= size[0] <= GRAIN[0] and 8 <= size[1] <= GRAIN[1]):
        raise ValueError(f"size {size} is not between (8, 8) and {GRAIN} pixels (rows, columns)")
    if not 0 <= rows[0] < rows[1] <= HEIGHT:
        raise ValueError(f"rows {rows} are not a range inside 0..{HEIGHT}; use for example (206, {HEIGHT})")
    raster = Raster((int(size[0]), int(size[1])), rows)
    # Shapes are filled on a grid about half as fine as the full frame, then averaged.
    fine = int(np.clip(round(0.5 / raster.scale[0]), 1, 4))
    light = sample_light(scene)
    image = np.empty((*raster.size, 3), np.uint8)
    draw_sky(image, scene, raster)
    grid = raster.resized(fine) if fine > 1 else raster

    canvas = Canvas(image, raster)
    if fine > 1:
        canvas = Canvas(cv2.resize(image, grid.size[::-1], interpolation=cv2.INTER_NEAREST), grid)
    draw_skyline(canvas, scene, light)
    if fine > 1:
        image = cv2.resize(canvas.image, raster.size[::-1], interpolation=cv2.INTER_AREA)
    draw_ground(image, scene, light, raster, fine)
    canvas = Canvas(image, raster)
    if fine > 1:
        canvas = Canvas(cv2.resize(image, grid.size[::-1], interpolation=cv2.INTER_NEAREST), grid)
    draw_objects(canvas, scene, light)
    image = canvas.image
    if fine > 1:
        image = cv2.resize(image, raster.size[::-1], interpolation=cv2.INTER_AREA)
    add_lamps(image, scene, light, raster)
    image = add_glare(image, scene, raster)
    add_bonnet(image, scene, raster)
    return expose(image, scene, raster)
