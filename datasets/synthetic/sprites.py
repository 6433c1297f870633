"""Trees, bushes and house fronts, drawn once a process and scaled into place."""

from __future__ import annotations

import math
from functools import cache, lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from .drawing import Canvas
from .seeding import stream

TREES, FACADES = 8, 6


class Pyramid:
    """An image (BGR, or premultiplied BGRA) and its successive halves by area, made when first wanted."""

    def __init__(self, image: NDArray[np.uint8]) -> None:
        self._levels = [image]

    def for_width(self, width: int) -> NDArray[np.uint8]:
        """The level to scale from for a picture `width` px wide: a little wider, never much narrower."""
        wanted = int(math.log2(max(self._levels[0].shape[1] / max(width, 1), 1)) + 0.3)
        while len(self._levels) <= wanted and min(self._levels[-1].shape[:2]) > 8:
            h, w = self._levels[-1].shape[:2]
            half = cv2.resize(self._levels[-1], ((w + 1) // 2, (h + 1) // 2), interpolation=cv2.INTER_AREA)
            self._levels.append(half)
        return self._levels[min(wanted, len(self._levels) - 1)]


@cache
def tree(number: int, cut: int = 384) -> Pyramid:
    """The upper `cut` rows of [384, 320, 4] premultiplied BGRA: a forking trunk, clumps of leaves lit from above."""
    rng = stream("tree", number)
    h, w = 384, 320
    image = np.zeros((h, w, 4), np.uint8)
    bush = number % 4 == 3
    base, crown = (w / 2, h - 2.0), (0.62 if bush else rng.uniform(0.40, 0.52)) * h
    tips = []
    for _ in range(9):
        angle, reach = rng.uniform(-1.25, 1.25), rng.uniform(0.12, 0.36) * h
        fork = np.array(
            [base[0] + rng.normal(0, 4), base[1] - rng.uniform(0.25, 0.45) * h * (0.3 if bush else 1)]
        )
        tip = fork + reach * np.array([np.sin(angle), -abs(np.cos(angle)) * 0.8 - 0.2])
        cv2.line(
            image,
            (int(base[0]), int(base[1])),
            (int(fork[0]), int(fork[1])),
            (30, 40, 48, 255),
            9,
            cv2.LINE_AA,
        )
        cv2.line(
            image, (int(fork[0]), int(fork[1])), (int(tip[0]), int(tip[1])), (28, 38, 46, 255), 4, cv2.LINE_AA
        )
        tips.append(tip)
    hue = np.array([rng.uniform(28, 48), rng.uniform(62, 92), rng.uniform(44, 78)])
    centres = np.repeat(np.array(tips), 260, axis=0)
    spread = np.repeat(rng.uniform(0.06, 0.115, len(tips)) * h, 260)[:, None] * np.array([1.15, 0.75])
    leaves = centres + rng.normal(0, 1, centres.shape) * spread
    leaves = leaves[(np.abs(leaves[:, 0] - w / 2) < w / 2 - 6) & (leaves[:, 1] > 6) & (leaves[:, 1] < h - 8)]
    leaves = leaves[np.argsort(-leaves[:, 1] + rng.normal(0, 25, len(leaves)))]
    shade = np.clip(1.28 - 0.9 * (leaves[:, 1] / crown - 0.15) + rng.normal(0, 0.16, len(leaves)), 0.35, 1.6)
    colours = np.c_[np.clip(hue * shade[:, None], 0, 255), np.full(len(leaves), 255.0)].tolist()
    places = leaves.astype(int).tolist()
    axes = np.c_[rng.integers(2, 6, len(leaves)), rng.integers(1, 4, len(leaves))].tolist()
    turns = rng.uniform(0, 180, len(leaves)).tolist()
    for place, axis, turn, colour in zip(places, axes, turns, colours, strict=True):
        cv2.ellipse(image, place, axis, turn, 0, 360, colour, -1, cv2.LINE_AA)
    return Pyramid(image[:cut])


@lru_cache(maxsize=FACADES)
def facade(number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A house front [256, 192, 3], and the same with some windows lit on a black wall (for the night)."""
    rng = stream("facade", number)
    wall = np.array(
        [(150, 165, 172), (128, 150, 178), (90, 100, 150), (172, 172, 168), (140, 140, 138), (165, 150, 128)][
            number
        ],
        float,
    )
    image = np.empty((256, 192, 3), np.float32)
    image[:] = wall
    image *= 1 + 0.06 * stream("facade wall", number).standard_normal((256, 192, 1)).astype(np.float32)
    lit = np.zeros_like(image)
    floors, bays = int(rng.integers(9, 20)), int(rng.integers(6, 14))
    dy, dx = 256 / floors, 192 / bays
    for floor in range(floors):
        image[int(floor * dy) : int(floor * dy) + 1] *= 0.8
        for bay in range(bays):
            rows = slice(int((floor + 0.28) * dy), int((floor + 0.78) * dy))
            columns = slice(int((bay + 0.22) * dx), int((bay + 0.78) * dx))
            image[rows, columns] = np.array([78, 72, 66]) * rng.uniform(0.6, 1.3)
            if rng.random() < 0.13:
                lit[rows, columns] = np.array([120, 190, 225]) * rng.uniform(0.3, 0.9)
    return np.clip(image, 0, 255).astype(np.uint8), np.clip(lit, 0, 255).astype(np.uint8)


def paste(
    canvas: Canvas, sprite: Pyramid, box: tuple[float, float, float, float], light: NDArray[np.floating]
) -> None:
    """Scale a sprite into `box` (left, top, right, bottom in frame pixels); `light` [3] multiplies its colours."""
    left, top = map(round, canvas.raster.place_one(float(box[0]), float(box[1])))
    right, bottom = map(round, canvas.raster.place_one(float(box[2]), float(box[3])))
    height, width = canvas.image.shape[:2]
    if right - left < 1 or bottom - top < 1 or left >= width or top >= height or right <= 0 or bottom <= 0:
        return
    image = sprite.for_width(right - left)
    piece = cv2.resize(image, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
    rows, columns = slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width))
    piece = piece[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    factor = (*light.tolist(), 0.0)
    if image.shape[2] == 3:
        canvas.image[rows, columns] = cv2.multiply(piece, factor)
        return
    colour = cv2.multiply(cv2.cvtColor(piece, cv2.COLOR_BGRA2BGR), factor)
    clear = cv2.cvtColor(cv2.bitwise_not(cv2.extractChannel(piece, 3)), cv2.COLOR_GRAY2BGR)
    under = cv2.multiply(canvas.image[rows, columns], clear, scale=1 / 255)
    canvas.image[rows, columns] = cv2.add(colour, under)
