"""Random lanes of the shape and number found on roads, for tests of speed and equality."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Lanes = list[npt.NDArray[np.float64]]


def road_image(rng: np.random.Generator, image_size: tuple[int, int] = (590, 1640)) -> tuple[Lanes, Lanes]:
    """(predicted, annotated): about four lanes each, of 20 and 24 points, bottom up, hundredths of a pixel.

    Lanes spread from a vanishing point, bend, and leave the image at its sides; predictions are annotations
    moved by a few pixels, some missing, some made up.
    """
    height, width = image_size
    horizon = rng.uniform(0.40, 0.48) * height
    vanishing = rng.uniform(0.4, 0.6) * width
    bend = rng.normal(0, 0.15) * width
    feet = vanishing + (np.arange(4) - 1.5 + rng.uniform(-0.3, 0.3)) * rng.uniform(0.35, 0.5) * width
    annotated = [_lane(foot, vanishing, bend, horizon + 20, height, 24, rng, 0.0) for foot in feet]
    predicted = [
        _lane(foot + rng.normal(0, 8), vanishing + rng.normal(0, 3), bend, horizon + 25, height, 20, rng, 1.0)
        for foot in feet
        if rng.random() > 0.08
    ]
    if rng.random() < 0.3:
        predicted.append(_lane(rng.uniform(0, width), vanishing, bend, horizon + 30, height, 20, rng, 2.0))
    return predicted, annotated


def _lane(
    foot: float,
    vanishing: float,
    bend: float,
    top: float,
    bottom: float,
    points: int,
    rng: np.random.Generator,
    noise: float,
) -> npt.NDArray[np.float64]:
    y = np.linspace(bottom, top, points)
    depth = (bottom - y) / (bottom - top)
    x = foot + (vanishing - foot) * depth * 0.9 + bend * depth**2 + rng.normal(0, noise, points)
    return np.round(np.stack([x, y], axis=1), 2)
