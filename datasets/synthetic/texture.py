"""Tileable noise, built once a process, and its look-up on the ground without aliasing."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from .seeding import stream

TILE = 1024
GRAIN = (640, 2048)  # px: rows and columns of sensor noise, the largest picture
TEXEL = (0.03, 0.06)  # metres a texel of ground noise: across, along


def _octave(rng: np.random.Generator, size: int, cells_y: int, cells_x: int) -> NDArray[np.float32]:
    coarse = rng.standard_normal((cells_y, cells_x)).astype(np.float32)
    ring = np.pad(coarse, 2, mode="wrap")
    big = cv2.resize(
        ring,
        (size * (cells_x + 4) // cells_x, size * (cells_y + 4) // cells_y),
        interpolation=cv2.INTER_CUBIC,
    )
    top, left = 2 * size // cells_y, 2 * size // cells_x
    return big[top : top + size, left : left + size]


def _noise(name: str, octaves: tuple[tuple[int, int, float], ...], size: int = TILE) -> NDArray[np.float32]:
    """Sum of octaves (cells down, cells across, weight), scaled to mean 0 and deviation 1; tiles in both axes."""
    rng = stream("texture", name)
    total = sum(weight * _octave(rng, size, cy, cx) for cy, cx, weight in octaves)
    return ((total - total.mean()) / total.std()).astype(np.float32)


def _bytes(noise: NDArray[np.float32], spread: float = 36.0) -> NDArray[np.uint8]:
    return np.clip(128 + spread * noise, 0, 255).astype(np.uint8)


@lru_cache(maxsize=1)
def ground_tile() -> NDArray[np.uint8]:
    """[TILE, TILE, 3]: asphalt, wear of paint, vegetation or soil; 128 is the mean, 36 the deviation."""
    asphalt = _noise(
        "asphalt", ((1024, 1024, 0.9), (512, 512, 0.5), (128, 256, 0.45), (32, 128, 0.45), (8, 16, 0.5))
    )
    wear = _noise("wear", ((256, 512, 0.7), (128, 256, 0.7), (64, 64, 0.8), (16, 32, 0.8), (8, 8, 0.5)))
    verge = _noise("verge", ((512, 512, 0.8), (128, 256, 0.8), (64, 128, 0.6), (16, 16, 0.8)))
    return np.dstack([_bytes(asphalt), _bytes(wear), _bytes(verge)])


@lru_cache(maxsize=1)
def shade_tile() -> NDArray[np.uint8]:
    """[TILE, TILE]: how much sun the leaves of trees let through, 255 = all. Edges are soft, as a penumbra is."""
    crowns = _noise("crowns", ((16, 8, 1.0), (32, 16, 0.5)))
    leaves = _noise("leaves", ((128, 96, 0.8), (256, 192, 0.6), (64, 64, 0.6)))
    light = 1 / (1 + np.exp(-7.0 * (crowns + 0.42 * leaves + 0.1)))
    return np.clip(255 * light, 0, 255).astype(np.uint8)


@lru_cache(maxsize=1)
def cloud_tile() -> NDArray[np.float32]:
    """[512, 512] smooth noise for clouds and for large tonal changes, deviation 1."""
    return _noise("cloud", ((4, 4, 1.0), (8, 8, 0.6), (16, 16, 0.35), (32, 32, 0.2), (64, 64, 0.1)), 512)


@lru_cache(maxsize=1)
def grain_tile() -> NDArray[np.uint8]:
    """[*GRAIN, 3] sensor noise around 128: mostly shared by the three colours, slightly correlated in space."""
    rng = stream("texture", "grain")
    grey = rng.standard_normal((*GRAIN, 1), dtype=np.float32)
    colour = cv2.GaussianBlur(rng.standard_normal((*GRAIN, 3), dtype=np.float32), (0, 0), 1.2) * 2.0
    grain = cv2.GaussianBlur(0.8 * grey + 0.5 * colour, (0, 0), 0.6)
    return _bytes(grain / grain.std(), 32.0)


@lru_cache(maxsize=96)
def _averaged(tile: str, across: int, along: int) -> NDArray[np.uint8]:
    """The tile averaged over 2**across x 2**along texels, with one wrapped row and column for interpolation."""
    image = ground_tile() if tile == "ground" else shade_tile()
    kx, ky = min(2**across, TILE), min(2**along, TILE)
    padded = cv2.copyMakeBorder(image, ky, ky + 1, kx, kx + 1, cv2.BORDER_WRAP)
    smooth = cv2.blur(padded, (kx, ky)) if kx * ky > 1 else padded
    return np.ascontiguousarray(smooth[ky : ky + TILE + 1, kx : kx + TILE + 1])


def look_up(
    tile: str,
    across: NDArray[np.float32],
    along: NDArray[np.float32],
    footprint: NDArray[np.float32],
    texel: tuple[float, float] = TEXEL,
) -> NDArray[np.uint8]:
    """Tile `tile` ("ground" or "shade") at metres `across`, `along` [H, W]; averaged over the pixel's footprint.

    `footprint` [H, 2]: metres across and along that a pixel of each row covers.
    """
    levels = np.clip(
        np.round(np.log2(np.maximum(footprint / np.array(texel, np.float32), 1e-3))), 0, (6, 9)
    ).astype(int)
    out: list[NDArray[np.uint8]] = []
    starts = [0, *(np.flatnonzero((levels[1:] != levels[:-1]).any(axis=1)) + 1)]
    mx = across * np.float32(1 / (texel[0] * TILE))
    my = along * np.float32(1 / (texel[1] * TILE))
    for m in (mx, my):
        m -= np.floor(m)
        m *= TILE
    for start, stop in zip(starts, [*starts[1:], len(levels)], strict=True):
        image = _averaged(tile, int(levels[start, 0]), int(levels[start, 1]))
        out.append(
            cv2.remap(
                image, mx[start:stop], my[start:stop], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )
        )
    return np.concatenate(out)
