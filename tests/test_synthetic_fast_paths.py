"""What the renderer does for many points, faces or pixels at once is what it would do for one after the other.

Equal means the same bits: the detectors were trained on these pixels.
"""

from __future__ import annotations

import hashlib

import cv2
import numpy as np
import pytest

from datasets.synthetic import SPLITS, sample_scene
from datasets.synthetic.camera import Raster, View, spaced
from datasets.synthetic.drawing import Canvas
from datasets.synthetic.light import Light
from datasets.synthetic.optics import _add_spot
from datasets.synthetic.scene import Car
from datasets.synthetic.seeding import stream
from datasets.synthetic.sprites import Pyramid
from datasets.synthetic.vehicles import SHAPES, _faces, draw_car

VIEWS = [sample_scene(split, index).view for split in SPLITS for index in range(6)]
RASTER = Raster((128, 384), (206, 590))


def plain_projection(view: View, u: float, z: float, up: float) -> tuple[float, float]:
    """One point in Python's own numbers, in the order of operations of `View.project`."""
    scale = view.focal / z
    right = (u + (view.bend / 2 + view.twist / 6 * z) * z * z) * scale
    over = max(z - view.climb_start, 0.0)
    above = up + view.climb / 2 * over * over if view.climb else up
    return right + view.vanish, (view.height - above) * scale + view.roll * right + view.horizon


@pytest.mark.parametrize("view", VIEWS[::4])
def test_many_points_are_projected_as_one(view: View) -> None:
    rng = np.random.default_rng(0)
    u, z, up = rng.uniform(-60, 60, 97), rng.uniform(1.25, 250, 97), rng.uniform(0, 15, 97)
    expected = [
        plain_projection(view, *point) for point in zip(*map(np.ndarray.tolist, (u, z, up)), strict=True)
    ]
    assert view.project(u, z, up).tolist() == [list(point) for point in expected]


@pytest.mark.parametrize("view", VIEWS[::4])
def test_outlines_go_up_one_edge_and_down_the_other(view: View) -> None:
    z = spaced(2.2, view.far, 7)
    assert z.tolist() == np.geomspace(2.2, view.far, 7).tolist()
    left, right = np.array([-3.0, 1.0]), np.array([-2.5, 4.0])
    for outline, a, b in zip(view.strip(left, right, z), left, right, strict=True):
        assert np.array_equal(outline, np.concatenate([view.project(a, z), view.project(b, z)[::-1]]))
    low, high = np.array([0.0, 0.9, 0.2]), np.array([2.0, 1.0, 0.3])
    sections = np.stack([z, z + 1])
    for outlines, zs in zip(view.upright(4.0, sections[:, None], low, high), sections, strict=True):
        for outline, a, b in zip(outlines, low, high, strict=True):
            edges = view.project(4.0, zs, a), view.project(4.0, zs, b)[::-1]
            assert np.array_equal(outline, np.concatenate(edges))


def test_one_point_is_placed_as_many_are() -> None:
    points = np.random.default_rng(1).uniform(-500, 2000, (50, 2))
    assert [RASTER.place_one(x, y) for x, y in points.tolist()] == [
        tuple(p) for p in RASTER.place(points).tolist()
    ]


@pytest.mark.parametrize("fine", [1, 4])
def test_faces_are_fills_one_after_the_other(fine: int) -> None:
    rng = np.random.default_rng(2)
    grid = RASTER.resized(fine)
    counts = rng.integers(3, 9, 40).tolist()
    points = rng.uniform((-200, 150), (1900, 650), (sum(counts), 2))
    colours = rng.uniform(-20, 300, (len(counts), 3))
    together, apart = (Canvas(np.zeros((*grid.size, 3), np.uint8), grid) for _ in range(2))
    together.faces(points, counts, colours)
    for part, colour in zip(np.split(points, np.cumsum(counts)[:-1]), colours, strict=True):
        apart.fill(part, colour)
    assert together.image.any()
    assert np.array_equal(together.image, apart.image)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("oncoming", [False, True])
def test_a_vehicle_is_its_faces_corner_by_corner(kind: str, oncoming: bool) -> None:
    view, light = VIEWS[1], np.array([0.31, 0.42, 0.37], np.float32)
    car = Car(2.9, 7.3, kind, (110.0, 60.0, 35.0), oncoming, braking=True)
    drawn, plain = (Canvas(np.zeros((*RASTER.size, 3), np.uint8), RASTER) for _ in range(2))
    draw_car(drawn, view, car, light, lit=True)
    faces = _faces(kind, oncoming, True, 1.0 if view.project(car.u, car.z)[0] < view.vanish else -1.0)
    start = 0
    for face, count in enumerate(faces.counts):
        corners = range(start, start + count)
        start += count
        points = [
            plain_projection(view, car.u + faces.across[i], max(car.z + faces.deep[i], 1.25), faces.up[i])
            for i in corners
        ]
        colour = np.array(car.colour) if faces.lacquer[face] else faces.tint[face]
        shone = np.maximum(light, faces.glow[face])
        plain.fill(np.array(points), colour * shone * faces.gain[face, 0] * faces.gain[face, 1])
    assert start == len(faces.across)
    assert drawn.image.any()
    assert np.array_equal(drawn.image, plain.image)


def test_constant_light_is_that_of_a_beam_without_power() -> None:
    ambient = np.array([0.9, 1.0, 1.1])
    dark_beam = Light(ambient, beam=0.0, beam_colour=np.ones(3))
    z = np.linspace(2, 90, 12)
    for across, depth in ((1.5, 20.0), (np.float64(1.5), z), (z[:, None], z)):
        day = Light(ambient).at(across, depth)
        assert day.dtype == np.float32
        assert np.array_equal(day, dark_beam.at(across, depth))


@pytest.mark.parametrize("level", [0.4, 0.99, 1.01, 3.0, 22.0, 80.0])
def test_a_glow_cut_to_where_it_shows_is_the_whole_glow(level: float) -> None:
    """Up to exp(9 / 2) = 90 grey levels, where three deviations out, the edge of every glow, less than one is left."""
    rng = np.random.default_rng(3)
    for _ in range(10):
        centre, spread = rng.uniform((-50, 180), (1700, 620)), tuple(rng.uniform(2, 90, 2).tolist())
        colour = np.array([0.5, 1.0, 0.8]) * level
        image = np.full((*RASTER.size, 3), 90, np.uint8)
        wide = [float(np.hypot(s, 0.29 / scale)) for s, scale in zip(spread, RASTER.scale, strict=True)]
        bell = (
            np.exp(-(((RASTER.ys - centre[1]) / wide[1]) ** 2) / 2)[:, None]
            * np.exp(-(((RASTER.xs - centre[0]) / wide[0]) ** 2) / 2)[None]
        )
        whole = bell[..., None] * (colour * (spread[0] * spread[1] / (wide[0] * wide[1])))
        _add_spot(image, RASTER, centre, spread, colour)
        assert np.array_equal(image, 90 + whole.astype(np.uint8))


def test_halves_of_a_sprite_made_when_wanted() -> None:
    image = np.random.default_rng(4).integers(0, 256, (96, 75, 4), np.uint8)
    halves = [image]
    while min(halves[-1].shape[:2]) > 8:
        h, w = halves[-1].shape[:2]
        halves.append(cv2.resize(halves[-1], ((w + 1) // 2, (h + 1) // 2), interpolation=cv2.INTER_AREA))
    for width in (300, 75, 40, 33, 10, 3, 1, 0):
        level = int(np.clip(np.log2(max(75 / max(width, 1), 1)) + 0.3, 0, len(halves) - 1))
        assert np.array_equal(Pyramid(image).for_width(width), halves[level])
    assert Pyramid(image).for_width(300) is image


@pytest.mark.parametrize("words", [0, 1, 2])
def test_streams_are_seeded_by_the_number_that_the_hash_is(
    words: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even a hash that ends in zeros, which a number does not keep."""
    digest = bytes(range(1, 17 - 4 * words)) + bytes(4 * words)
    hashed = type("Hash", (), {"digest": lambda self: digest})
    monkeypatch.setattr(hashlib, "blake2b", lambda *_args, **_kwargs: hashed())
    plain = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))
    assert stream("any").integers(1 << 62, size=8).tolist() == plain.integers(1 << 62, size=8).tolist()
