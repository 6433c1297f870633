"""The random parameters of one frame: what is on the road, drawn from the frame's name alone.

Geometry (camera, road, lines) is drawn from its own streams, so that a change of looks moves no label.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .camera import View
from .labels import lane_points
from .seeding import stream

CATEGORIES = ("normal", "crowd", "hlight", "shadow", "noline", "arrow", "curve", "cross", "night")
SPLITS = ("train", "val", "calibration", "test")

Colour = tuple[float, float, float]  # blue, green, red, 0..255


@dataclass(frozen=True)
class Line:
    """A painted line at `u` metres; `period` 0 = solid; `strength` 0..1 is how much of the paint is left."""

    u: float
    width: float
    strength: float
    colour: Colour
    period: float = 0.0
    dash: float = 0.0
    phase: float = 0.0
    wear: float = 0.5
    start: float = 0.0  # m ahead, where the line begins
    double: bool = False
    slot: int = 0  # CULane's lane slot 1..4, 0 = no label


@dataclass(frozen=True)
class Road:
    """Cross-section: metres right of the reference curve, from left to right."""

    lines: tuple[Line, ...]
    left: float  # left edge of the asphalt
    right: float
    lane_width: float
    offset: float  # u of the middle of our lane


@dataclass(frozen=True)
class Car:
    """A vehicle with its near end `z` metres ahead and its middle at `u`."""

    u: float
    z: float
    kind: str  # a key of vehicles.SHAPES
    colour: Colour
    oncoming: bool = False
    braking: bool = False


@dataclass(frozen=True)
class Weather:
    """Light and lens, as factors of the overcast day (1.0)."""

    brightness: float
    contrast: float
    tint: Colour  # factor of each colour
    noise: float  # deviation of sensor noise, grey levels
    blur: float  # deviation of the lens blur, frame pixels
    cloud: float  # contrast of clouds
    blue_sky: float  # 0 overcast .. 1 clear
    glare: float  # strength of the sun or of the tunnel's end
    night: bool = False


@dataclass(frozen=True)
class Scene:
    """One frame; everything else that is random in it comes from streams named by `key`."""

    split: str
    index: int
    category: str
    seed: int
    view: View
    road: Road
    cars: tuple[Car, ...]
    weather: Weather
    label_margin: float  # rows between the far end of the labels and the skyline

    @property
    def key(self) -> str:
        return f"{self.seed}/{self.split}/{self.index}/{self.category}"

    def stream(self, name: str) -> np.random.Generator:
        """The random stream of one part of the picture."""
        return stream(self.key, name)

    @cached_property
    def _labelled(self) -> tuple[tuple[int, NDArray[np.float64]], ...]:
        found = []
        for line in self.road.lines:
            if line.slot:
                points = lane_points(self.view, line.u, self.label_margin)
                if len(points) >= 5:
                    found.append((line.slot, points))
        return tuple(sorted(found, key=lambda lane: lane[0]))

    @property
    def lanes(self) -> list[NDArray[np.float64]]:
        """Labelled lanes, left to right: [P, 2] x and y in frame pixels, each 10 px from the bottom up."""
        return [points for _, points in self._labelled]

    @property
    def slots(self) -> list[int]:
        """CULane's lane slot 1..4 of each lane: 2 and 3 are the borders of our own lane."""
        return [slot for slot, _ in self._labelled]


def sample_scene(split: str, index: int, category: str | None = None, seed: int = 0) -> Scene:
    """Scene number `index` of `split`, the same in every process.

    Without `category` the nine take turns, so that every split has equal parts.
    Raises ValueError for an unknown split or category or a negative index.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is unknown; use one of {', '.join(SPLITS)}")
    if index < 0:
        raise ValueError(f"scene index {index} is negative; count from 0")
    category = CATEGORIES[index % len(CATEGORIES)] if category is None else category
    if category not in CATEGORIES:
        raise ValueError(f"category {category!r} is unknown; use one of {', '.join(CATEGORIES)}")
    key = f"{seed}/{split}/{index}/{category}"
    view = _view(stream(key, "view"), category)
    road = _road(stream(key, "road"), category)
    cars = _cars(stream(key, "cars"), category, view, road)
    weather = _weather(stream(key, "weather"), category)
    margin = float(stream(key, "margin").uniform(10, 22))
    return Scene(split, index, category, seed, view, road, cars, weather, margin)


def _view(rng: np.random.Generator, category: str) -> View:
    focal, height = rng.uniform(700, 1000), rng.uniform(1.2, 1.6)
    horizon = float(np.clip(rng.normal(292, 18), 255, 335))
    vanish, roll = rng.normal(820, 55), rng.uniform(-0.008, 0.008)
    if category == "curve":
        bend = rng.choice([-1, 1]) / rng.uniform(90, 320)
        twist = -bend * rng.uniform(-0.002, 0.008)
    else:
        bend, twist = rng.normal(0, 1 / 3000), rng.normal(0, 2e-6)
    climb = rng.normal(0, 1 / 3500) if rng.random() < 0.6 else 0.0
    start = rng.uniform(15, 50)
    return View(focal, height, horizon, vanish, roll, float(bend), float(twist), climb, start)


_PAINT_WHITE = (205.0, 208.0, 208.0)
_PAINT_YELLOW = (70.0, 165.0, 215.0)

# Strength of the paint (lowest, highest) and its wear (lowest, highest).
_PAINT = {
    "normal": (0.45, 1.0, 0.2, 0.7),
    "crowd": (0.35, 0.95, 0.2, 0.8),
    "hlight": (0.3, 0.85, 0.2, 0.8),
    "shadow": (0.35, 0.95, 0.2, 0.8),
    "noline": (0.0, 0.16, 0.5, 1.0),
    "arrow": (0.4, 1.0, 0.2, 0.7),
    "curve": (0.35, 0.95, 0.2, 0.8),
    "cross": (0.2, 0.8, 0.3, 0.9),
    "night": (0.35, 1.0, 0.2, 0.8),
}


def _road(rng: np.random.Generator, category: str) -> Road:
    width = rng.uniform(3.2, 3.9)
    offset = rng.uniform(-1.4, 1.4) if rng.random() < 0.1 else float(np.clip(rng.normal(0, 0.35), -1.2, 1.2))
    left, right = (2 if rng.random() < 0.62 else 1), (2 if rng.random() < 0.62 else 1)
    extra_left, extra_right = rng.random() < 0.3, rng.random() < 0.3
    low, high, wear_low, wear_high = _PAINT[category]
    base, yellow_left = rng.uniform(low, high), rng.random() < 0.35
    period = rng.choice([6.0, 9.0, 10.0, 15.0])
    dash = period * (0.4 if period > 6 else 0.33)
    lines = []
    for step in range(-left - int(extra_left), right + int(extra_right)):
        u = offset + (step + 0.5) * width
        slot = step + 3 if -left <= step < right and category != "cross" else 0
        outer = step == -left - int(extra_left) or step == right + int(extra_right) - 1
        solid = rng.random() < (0.75 if outer else 0.15)
        yellow = yellow_left and step == -left
        lines.append(
            Line(
                u=u,
                width=rng.uniform(0.10, 0.20),
                strength=float(np.clip(base * rng.uniform(0.75, 1.15), 0, 1)),
                colour=_PAINT_YELLOW if yellow else _PAINT_WHITE,
                period=0.0 if solid else period,
                dash=dash,
                phase=rng.uniform(0, period),
                wear=rng.uniform(wear_low, wear_high),
                start=rng.uniform(35, 60) if category == "cross" else 0.0,
                double=bool(yellow and rng.random() < 0.5),
                slot=slot,
            )
        )
    if category == "cross" and rng.random() < 0.5:
        lines = []
    edges = offset + (-left - extra_left + 0.5) * width, offset + (right + extra_right - 0.5) * width
    return Road(
        tuple(lines), edges[0] - rng.uniform(0.3, 2.2), edges[1] + rng.uniform(0.3, 2.2), width, offset
    )


_BODY_COLOURS: tuple[Colour, ...] = (
    (205, 205, 205), (185, 188, 190), (150, 150, 148), (95, 92, 90), (40, 38, 38), (28, 27, 30),
    (45, 35, 110), (110, 60, 35), (60, 70, 85), (35, 140, 190), (200, 205, 210), (120, 125, 130),
)  # fmt: skip
_KINDS = ("sedan", "sedan", "sedan", "suv", "suv", "van", "truck", "bus")


def _car(rng: np.random.Generator, u: float, z: float, oncoming: bool = False, large: bool = True) -> Car:
    kinds = _KINDS if large else _KINDS[:6]
    colour = _BODY_COLOURS[int(rng.integers(len(_BODY_COLOURS)))]
    return Car(u, z, kinds[int(rng.integers(len(kinds)))], colour, oncoming, bool(rng.random() < 0.4))


def _cars(rng: np.random.Generator, category: str, view: View, road: Road) -> tuple[Car, ...]:
    """Traffic in our lane and the two beside it, oncoming cars at the left, parked cars at the right."""
    crowd = category == "crowd"
    cars: list[Car] = []
    steps = [
        s for s in (-2, -1, 0, 1, 2) if road.left + 0.4 < road.offset + s * road.lane_width < road.right - 0.4
    ]
    oncoming_from = -1 if rng.random() < 0.35 and not crowd else -9
    for step in steps:
        z = rng.uniform(9, 20) if step == 0 else rng.uniform(3.5, 14)
        if not crowd:
            z += rng.exponential(18) + (10 if step == 0 else 0)
        keep, gap = (0.85, 7.0) if crowd else (0.42, 22.0)
        while z < min(90.0, 0.8 * view.far):
            if rng.random() < keep:
                u = road.offset + step * road.lane_width + rng.normal(0, 0.25)
                cars.append(_car(rng, u, z, oncoming=step <= oncoming_from, large=step != 0 or z > 14))
            z += 5.5 + rng.exponential(gap) * (1 if crowd else 1.6)
    if road.left < road.offset - 1.2 * road.lane_width and rng.random() < 0.3 and not crowd:
        cars.append(_car(rng, road.left - rng.uniform(1.5, 6), rng.uniform(12, 60), oncoming=True))
    if rng.random() < (0.35 if category in ("noline", "crowd", "cross") else 0.15):
        z = rng.uniform(6, 25)
        for _ in range(int(rng.integers(1, 6))):
            cars.append(_car(rng, road.right - rng.uniform(0.2, 0.7), z, large=False))
            z += rng.uniform(5.5, 9)
    if category == "cross":
        for _ in range(int(rng.integers(0, 5))):
            cars.append(
                _car(rng, rng.uniform(-16, 16), rng.uniform(16, 45), oncoming=bool(rng.random() < 0.5))
            )
    return tuple(sorted(cars, key=lambda car: -car.z))


def _weather(rng: np.random.Generator, category: str) -> Weather:
    night, glare = category == "night", category == "hlight"
    tint = 1 + rng.normal(0, 0.025, 3)
    blurred = rng.random() < (0.6 if night else 0.3)
    return Weather(
        brightness=float(rng.uniform(0.75, 1.15) if not night else rng.uniform(0.8, 1.2)),
        contrast=float(rng.uniform(0.85, 1.12)),
        tint=(float(tint[0]), float(tint[1]), float(tint[2])),
        noise=float(rng.uniform(2.5, 5.5) if night else rng.uniform(1.0, 3.2)),
        blur=float(rng.uniform(1.0, 2.4) if blurred else rng.uniform(0.4, 0.8)),
        cloud=float(rng.uniform(2, 14)),
        blue_sky=float(max(0.0, rng.uniform(-0.8, 0.9))),
        glare=float(rng.uniform(0.55, 1.0)) if glare else 0.0,
        night=night,
    )
