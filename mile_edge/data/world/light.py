"""Shadows, contact shade and lamp light, looked up in maps of the street seen from above."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from .materials import Finish
from .raycast import F32
from .scene import Scene
from .shapes import CYLINDER, HULL, M_SKY
from .surface import Surface

Array = NDArray[np.float32]
CELL = 0.25
HALF_WIDTH = 34.0
_COLUMNS = int(2 * HALF_WIDTH / CELL)


@dataclass(frozen=True)
class Sun:
    """Where the light comes from: radians clockwise from the street's direction, and above the horizon."""

    azimuth: float
    elevation: float

    @property
    def direction(self) -> Array:
        """(3,) unit vector towards the sun."""
        flat = math.cos(self.elevation)
        return np.array([flat * math.sin(self.azimuth), math.sin(self.elevation), flat * math.cos(self.azimuth)], F32)


def _stamp(grid: Array, rows: NDArray[np.float64], scene: Scene, origin: float, margin: float) -> None:
    """Raise the grid to each row's top over its footprint grown by `margin` metres."""
    lateral = rows[:, 0] - np.asarray(scene.street.shift(rows[:, 2]))
    turned = np.abs(np.sin(rows[:, 3])) > 0.7
    wide = np.where(turned, rows[:, 6], rows[:, 4]) + margin
    long = np.where(turned, rows[:, 4], rows[:, 6]) + margin
    shrink = np.where(rows[:, 10] == HULL, 1.0, np.where(rows[:, 10] == CYLINDER, 0.95, 0.85))
    top = rows[:, 1] + rows[:, 5] * np.where(rows[:, 10] == HULL, 1.0, 0.55)
    x0 = np.rint((lateral - wide * shrink + HALF_WIDTH) / CELL).astype(int).clip(0, _COLUMNS - 1)
    x1 = np.maximum(np.rint((lateral + wide * shrink + HALF_WIDTH) / CELL).astype(int).clip(0, _COLUMNS), x0 + 1)
    z0 = np.rint((rows[:, 2] - long * shrink - origin) / CELL).astype(int).clip(0, len(grid) - 1)
    z1 = np.maximum(np.rint((rows[:, 2] + long * shrink - origin) / CELL).astype(int).clip(0, len(grid)), z0 + 1)
    for a, b, c, d, h in zip(x0.tolist(), x1.tolist(), z0.tolist(), z1.tolist(), top.tolist(), strict=True):
        patch = grid[c:d, a:b]
        np.maximum(patch, F32(h), out=patch)


def _shifted(grid: Array, dz: int, dx: int, drop: float) -> Array:
    """grid[z + dz, x + dx] - drop, with nothing beyond the border."""
    out = np.full_like(grid, -1e3)
    rows, columns = grid.shape
    if abs(dz) >= rows or abs(dx) >= columns:
        return out
    to = out[max(0, -dz) : rows - max(0, dz), max(0, -dx) : columns - max(0, dx)]
    to[...] = grid[max(0, dz) : rows + min(0, dz), max(0, dx) : columns + min(0, dx)] - F32(drop)
    return out


def _sweep(height: Array, sun: Sun, reach: float) -> Array:
    """For each cell the height below which the sun is hidden, by doubling the distance looked along."""
    dz, dx = math.cos(sun.azimuth) / CELL, math.sin(sun.azimuth) / CELL
    fall, step = math.tan(sun.elevation), 0.35
    hidden = _shifted(height, round(dz * step), round(dx * step), fall * step)
    while step < reach:
        hidden = np.maximum(hidden, _shifted(hidden, round(dz * step), round(dx * step), fall * step))
        step *= 2.0
    return hidden


def _blur(grid: Array, radius: int) -> Array:
    """Box blur of both axes."""
    for axis in (0, 1):
        total = np.cumsum(np.insert(grid, 0, 0.0, axis=axis), axis=axis, dtype=np.float64)
        n = grid.shape[axis]
        high = np.minimum(np.arange(n) + radius + 1, n)
        low = np.maximum(np.arange(n) - radius, 0)
        grid = ((total.take(high, axis) - total.take(low, axis)) / (2 * radius + 1)).astype(F32)
    return grid


@lru_cache(maxsize=12)
def _still(seed: int, first: int, count: int, holder: _Keep) -> Array:
    """Heights (Z, X) of everything that does not move."""
    scene = holder.scene
    grid = np.zeros((int(count * scene.street.block_length / CELL), _COLUMNS), F32)
    _stamp(grid, scene.rows[: scene.moving], scene, scene.blocks[0].start, 0.0)
    return grid


class _Keep:
    """Carries a scene past a cache key: all scenes of one street and block range have the same still bodies."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Keep)


def _key(scene: Scene) -> tuple[int, int, int, _Keep]:
    return scene.street.seed, scene.first_block, len(scene.blocks), _Keep(scene)


@lru_cache(maxsize=12)
def _still_shadow(seed: int, first: int, count: int, holder: _Keep, sun: Sun) -> Array:
    return _sweep(_still(seed, first, count, holder), sun, min(60.0, 46.0 / math.tan(sun.elevation)))


@lru_cache(maxsize=12)
def _still_contact(seed: int, first: int, count: int, holder: _Keep) -> Array:
    return _blur(np.clip(_still(seed, first, count, holder) * F32(0.7), 0.0, 1.0), 3)


@lru_cache(maxsize=12)
def _lamps(seed: int, first: int, count: int, holder: _Keep) -> Array:
    """Light on the ground (Z, X) from all street lamps, 1 straight below one."""
    scene = holder.scene
    grid = np.zeros((int(count * scene.street.block_length / CELL), _COLUMNS), F32)
    x = (np.arange(_COLUMNS, dtype=F32) + 0.5) * F32(CELL) - F32(HALF_WIDTH)
    for block in scene.blocks:
        for lateral, z, height in block.lamps:
            middle, span = int((z - scene.blocks[0].start) / CELL), int(24 / CELL)
            low, high = max(0, middle - span), min(len(grid), middle + span)
            dz = (np.arange(low, high, dtype=F32) + 0.5) * F32(CELL) + F32(scene.blocks[0].start - z)
            away = ((x - F32(lateral)) ** 2)[None] + (dz * dz)[:, None]
            grid[low:high] += (height * height / (height * height + away)) ** F32(1.9)
    return grid


def _look_up(grid: Array, lateral: Array, z: Array, origin: float) -> Array:
    """Bilinear look-up of a map at points (any shape)."""
    gx = np.clip((lateral + F32(HALF_WIDTH)) * F32(1 / CELL) - F32(0.5), 0, _COLUMNS - 2)
    gz = np.clip((z - F32(origin)) * F32(1 / CELL) - F32(0.5), 0, len(grid) - 2)
    ix, iz = gx.astype(np.intp), gz.astype(np.intp)
    fx, fz = gx - ix, gz - iz
    flat, at = grid.ravel(), iz * _COLUMNS + ix
    low = flat.take(at) * (1 - fx) + flat.take(at + 1) * fx
    high = flat.take(at + _COLUMNS) * (1 - fx) + flat.take(at + _COLUMNS + 1) * fx
    return low * (1 - fz) + high * fz


@dataclass(frozen=True)
class Lit:
    """The L pixels below the sky with what light needs of them, and maps of light and shade worked out once.

    `at` (L,) and `above` index the pixels of the picture; `normal`, `point`, `ray` (L, 3), `lateral`, `reach`,
    `material` (L,), `albedo` (3, L). `shiny` and `glowing` index into L; `glass`, `glow`, `beacon` belong to them.
    """

    surface: Surface
    at: NDArray[np.int64]
    above: NDArray[np.int64]
    normal: Array
    point: Array
    ray: Array
    lateral: Array
    reach: Array
    material: NDArray[np.uint8]
    albedo: Array
    shiny: NDArray[np.int64]
    glass: Array
    glowing: NDArray[np.int64]
    glow: Array
    beacon: Array
    _suns: dict[Sun, Array]

    @staticmethod
    def make(surface: Surface, finish: Finish) -> Lit:
        """The lit part of a surface."""
        sky = surface.material == M_SKY
        at = np.flatnonzero(~sky)
        glass = finish.glass[at]
        shiny = np.flatnonzero(glass > 0)
        glowing = np.flatnonzero((finish.glow[at, 0] + finish.beacon[at].max(1)) > 0)
        normal, point, ray = (field.T.take(at, 1).T for field in (surface.normal, surface.point, surface.ray))
        return Lit(
            surface, at, np.flatnonzero(sky), normal, point, ray,
            surface.lateral[at], surface.reach[at], surface.material[at], np.ascontiguousarray(finish.albedo[at].T),
            shiny, glass[shiny], glowing, finish.glow[at[glowing]].T.copy(), finish.beacon[at[glowing]].T.copy(), {},
        )  # fmt: skip

    def sunshine(self, sun: Sun) -> Array:
        """Share of the sun that reaches each pixel, 0..1."""
        if sun not in self._suns:
            scene = self.surface.scene
            hidden = _still_shadow(*_key(scene), sun).copy()
            origin = scene.blocks[0].start
            moving = scene.rows[scene.moving :]
            _trail(hidden, moving[moving[:, 5] > 0.2], scene, origin, sun)
            x = self.lateral + F32(0.3) * self.normal[:, 0]
            z = self.point[:, 2] + F32(0.3) * self.normal[:, 2]
            clear = (self.point[:, 1] + F32(0.05) - _look_up(hidden, x, z, origin)) * F32(2.5) + F32(0.5)
            self._suns[sun] = np.clip(clear, 0.0, 1.0)
        return self._suns[sun]

    def sunlit(self, sun: Sun) -> Array:
        """Sun that falls on each pixel of the picture (N,), 1 where it shines straight onto it."""
        out = np.zeros(len(self.surface.material), F32)
        out[self.at] = np.maximum(self.normal @ sun.direction, 0.0) * self.sunshine(sun)
        return out

    @cached_property
    def contact(self) -> Array:
        """How open to the sky each pixel is near the ground, 0..1: less beside walls and below cars."""
        scene = self.surface.scene
        grid = _still_contact(*_key(scene)).copy()
        moving = scene.rows[scene.moving :].copy()
        moving[:, 1], moving[:, 5] = 0.0, 0.5
        _stamp(grid, moving, scene, scene.blocks[0].start, -0.05)
        moving[:, 5] = 0.3
        _stamp(grid, moving, scene, scene.blocks[0].start, 0.2)
        shade = _look_up(grid, self.lateral, self.point[:, 2], scene.blocks[0].start)
        return 1.0 - F32(0.75) * np.clip(shade, 0.0, 1.0) * np.clip(1.0 - self.point[:, 1] / F32(0.9), 0.0, 1.0)

    @cached_property
    def lamplight(self) -> Array:
        """Street lamps' light, 1 on the ground straight below a lamp; fades above their heads."""
        scene = self.surface.scene
        ground = _look_up(_lamps(*_key(scene)), self.lateral, self.point[:, 2], scene.blocks[0].start)
        return ground * np.clip(F32(1.35) - self.point[:, 1] / F32(5.5), 0.02, 1.0)

    @cached_property
    def headlight(self) -> Array:
        """Our own low beam: bright from 4 to 20 m, cut off at the horizon."""
        turn = self.surface.scene.camera.turn.astype(F32)
        forward = turn[2] * np.array([1.0, 0.0, 1.0], F32)
        forward /= np.sqrt((forward * forward).sum())
        aside = self.ray @ turn[0]
        beam = np.exp(-((aside / F32(0.42)) ** 2)) * np.clip(0.1 - self.ray[:, 1] * 14.0, 0.06, 1.0)
        fall = np.clip(self.reach / F32(5.0), 0.15, 1.0) * (60.0 / (60.0 + self.reach * self.reach))
        facing = np.clip(-(self.ray.T * self.normal.T).sum(0), 0.05, 1.0)
        return beam * fall * (0.35 + 0.65 * facing)


def _trail(grid: Array, rows: NDArray[np.float64], scene: Scene, origin: float, sun: Sun) -> None:
    """Lay the shadows of moving bodies over the map."""
    fall, step = math.tan(sun.elevation), 0.4
    near = rows[np.abs(rows[:, 2] - scene.camera.position[2]) < 60.0]
    for k in range(12):
        moved = near.copy()
        moved[:, 0] -= math.sin(sun.azimuth) * step * k
        moved[:, 2] -= math.cos(sun.azimuth) * step * k
        moved[:, 1] -= fall * step * k
        moved = moved[moved[:, 1] + moved[:, 5] * 0.55 > 0.0]
        if len(moved) == 0:
            return
        moved[:, [4, 6]] *= 0.9
        _stamp(grid, moved, scene, origin, 0.0)
