"""Where a point of the road lands in the full 1640x590 frame, and where a raster's pixels lie in that frame."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH = 590, 1640
_DEPTHS = np.geomspace(1.2, 260.0, 900)  # metres ahead of the camera

Floats = NDArray[np.float64]


@lru_cache(maxsize=64)
def spaced(near: float, far: float, count: int) -> Floats:
    """`count` depths from `near` to `far` metres, geometrically spaced; shared, so not to be written to."""
    depths = np.geomspace(near, far, count)
    depths.flags.writeable = False
    return depths


@dataclass(frozen=True)
class View:
    """A pinhole camera above a road that bends and climbs.

    Road coordinates: `u` metres right of the road's reference curve, `z` metres ahead, `up` metres above
    the surface. Pixel coordinates: index convention, the centre of the first pixel is (0, 0).
    """

    focal: float  # px
    height: float  # m above the road
    horizon: float  # row of the flat horizon at the vanishing column
    vanish: float  # column straight ahead
    roll: float  # rise of the horizon, px a px (a shear: below 0.01 a rotation looks the same)
    bend: float = 0.0  # 1/m, curvature at the car
    twist: float = 0.0  # 1/m^2, change of curvature
    climb: float = 0.0  # 1/m, vertical curvature: positive climbs ahead, negative is a crest
    climb_start: float = 25.0  # m, where the vertical curve begins

    def lateral(self, z: Floats) -> Floats:
        """Sideways shift of the reference curve in metres at depth `z`."""
        return (self.bend / 2 + self.twist / 6 * z) * z * z

    def rise(self, z: Floats) -> Floats:
        """Height of the road surface in metres at depth `z`, 0 under the car."""
        over = np.maximum(z - self.climb_start, 0.0)
        return self.climb / 2 * over * over

    def project(self, u: Floats | float, z: Floats | float, up: Floats | float = 0.0) -> Floats:
        """Road coordinates (broadcast together) to frame pixels, [..., 2] as (x, y)."""
        scale = self.focal / z
        right = (u + self.lateral(z)) * scale  # type: ignore[arg-type]
        above = up + self.rise(z) if self.climb else up  # type: ignore[arg-type]
        down = (self.height - above) * scale + self.roll * right
        points = np.empty((*np.shape(down), 2))
        points[..., 0] = right + self.vanish
        points[..., 1] = down + self.horizon
        return points

    def strip(self, left: Floats, right: Floats, z: Floats) -> Floats:
        """Outlines [..., 2 Z, 2] on the ground from `left` to `right` metres [...] at depths `z` [Z]."""
        return _outline(self.project(np.stack([left, right], axis=-1)[..., None], z))

    def upright(self, u: float, z: Floats, low: Floats, high: Floats) -> Floats:
        """Outlines [..., 2 Z, 2] of what stands at `u` metres at depths `z` [..., Z], `low` to `high` metres up."""
        return _outline(self.project(u, z[..., None, :], np.stack([low, high], axis=-1)[..., None]))

    @cached_property
    def depths(self) -> Floats:
        """Depths in metres, growing, at which the surface is in sight (it ends behind a crest)."""
        below = self.below(_DEPTHS)
        hidden = np.flatnonzero(np.diff(below) >= -1e-3)
        return _DEPTHS[: hidden[0] + 1] if len(hidden) else _DEPTHS

    def below(self, z: Floats) -> Floats:
        """Rows between the flat horizon and the surface at depth `z`, roll left out."""
        return self.focal * (self.height - self.rise(z)) / z

    @cached_property
    def far(self) -> float:
        """Greatest depth in sight, metres."""
        return float(self.depths[-1])

    @cached_property
    def skyline(self) -> float:
        """Row, at the vanishing column, where the surface ends and the backdrop begins."""
        return self.horizon + float(self.below(self.depths)[-1])

    def depth_at(self, below: NDArray[np.float32]) -> NDArray[np.float32]:
        """Depth in metres for rows `below` the flat horizon; beyond the ends the nearest depth in sight."""
        table = self.below(self.depths)
        return np.interp(below, table[::-1], self.depths[::-1]).astype(np.float32)


def _outline(edges: Floats) -> Floats:
    """Two edges [..., 2, Z, 2] to one closed line [..., 2 Z, 2]: there on the first, back on the second."""
    return np.concatenate([edges[..., 0, :, :], edges[..., 1, ::-1, :]], axis=-2)


@dataclass(frozen=True)
class Raster:
    """A grid of `size` (rows, columns) pixels that covers rows `rows[0]`..`rows[1]` of the full frame.

    `fine` is how many times finer than the delivered image this grid is; shapes are filled on a fine grid
    and averaged, so that a small image looks like the big one reduced by area.
    """

    size: tuple[int, int]
    rows: tuple[int, int] = (0, HEIGHT)
    fine: int = 1
    scale: tuple[float, float] = field(init=False)  # raster pixels a frame pixel: (x, y)

    def __post_init__(self) -> None:
        h, w = self.size
        object.__setattr__(self, "scale", (w / WIDTH, h / (self.rows[1] - self.rows[0])))

    def resized(self, factor: float) -> Raster:
        """The same window with `factor` times as many rows and columns (at least one of each)."""
        h, w = self.size
        size = (max(1, round(h * factor)), max(1, round(w * factor)))
        return Raster(size, self.rows, fine=max(1, round(factor)))

    def place(self, points: Floats) -> Floats:
        """Frame pixels [..., 2] to this raster's pixels."""
        sx, sy = self.scale
        offset = np.array([0.5, 0.5 - self.rows[0]])
        return (points + offset) * np.array([sx, sy]) - 0.5

    def place_one(self, x: float, y: float) -> tuple[float, float]:
        """`place` for one point, in plain floats."""
        sx, sy = self.scale
        return (x + 0.5) * sx - 0.5, (y + (0.5 - self.rows[0])) * sy - 0.5

    @cached_property
    def xs(self) -> NDArray[np.float32]:
        """Frame column of the centre of each raster column, [columns]."""
        return ((np.arange(self.size[1]) + 0.5) / self.scale[0] - 0.5).astype(np.float32)

    @cached_property
    def ys(self) -> NDArray[np.float32]:
        """Frame row of the centre of each raster row, [rows]."""
        return ((np.arange(self.size[0]) + 0.5) / self.scale[1] - 0.5 + self.rows[0]).astype(np.float32)
