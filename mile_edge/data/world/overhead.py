"""Maps of a stretch of street seen from above: heights, shadows and lamp light."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .raycast import F32
from .scene import Scene
from .shapes import CYLINDER, HULL
from .street import Block, Street

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


def stamp(grid: Array, rows: NDArray[np.float64], site: Site, margin: float) -> None:
    """Raise the grid to each row's top over its footprint grown by `margin` metres."""
    lateral = rows[:, 0] - site.street.shift(rows[:, 2])
    turned = np.abs(np.sin(rows[:, 3])) > 0.7
    wide = np.where(turned, rows[:, 6], rows[:, 4]) + margin
    long = np.where(turned, rows[:, 4], rows[:, 6]) + margin
    shrink = np.where(rows[:, 10] == HULL, 1.0, np.where(rows[:, 10] == CYLINDER, 0.95, 0.85))
    top = rows[:, 1] + rows[:, 5] * np.where(rows[:, 10] == HULL, 1.0, 0.55)
    x0 = np.rint((lateral - wide * shrink + HALF_WIDTH) / CELL).astype(int).clip(0, _COLUMNS - 1)
    x1 = np.maximum(np.rint((lateral + wide * shrink + HALF_WIDTH) / CELL).astype(int).clip(0, _COLUMNS), x0 + 1)
    z0 = np.rint((rows[:, 2] - long * shrink - site.origin) / CELL).astype(int).clip(0, len(grid) - 1)
    z1 = np.maximum(np.rint((rows[:, 2] + long * shrink - site.origin) / CELL).astype(int).clip(0, len(grid)), z0 + 1)
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


@dataclass(frozen=True)
class Site:
    """The stretch of one street that a map covers: `count` blocks from number `first`."""

    street: Street
    first: int
    count: int

    @staticmethod
    def of(scene: Scene) -> Site:
        """The stretch in sight of a scene."""
        return Site(scene.street, scene.first_block, len(scene.blocks))

    @property
    def origin(self) -> float:
        """Where the map's first cell lies, metres along the street."""
        return self.street.block(self.first).start

    @property
    def blocks(self) -> list[Block]:
        """Its blocks in order."""
        return [self.street.block(index) for index in range(self.first, self.first + self.count)]

    def empty(self) -> Array:
        """A map (Z, X) of zeros."""
        return np.zeros((int(self.count * self.street.block_length / CELL), _COLUMNS), F32)


@lru_cache(maxsize=12)
def heights(site: Site) -> Array:
    """Heights (Z, X) in metres of everything that does not move."""
    grid = site.empty()
    stamp(grid, np.concatenate([block.rows for block in site.blocks]), site, 0.0)
    return grid


@lru_cache(maxsize=12)
def shadows(site: Site, sun: Sun) -> Array:
    """Height (Z, X) below which still bodies hide the sun."""
    return _sweep(heights(site), sun, min(60.0, 46.0 / math.tan(sun.elevation)))


@lru_cache(maxsize=12)
def nearness(site: Site) -> Array:
    """How much still bodies close in on each cell, 0..1."""
    return _blur(np.clip(heights(site) * F32(0.7), 0.0, 1.0), 3)


@lru_cache(maxsize=12)
def lamp_map(site: Site) -> Array:
    """Light on the ground (Z, X) from all street lamps, 1 straight below one."""
    grid = site.empty()
    x = (np.arange(_COLUMNS, dtype=F32) + 0.5) * F32(CELL) - F32(HALF_WIDTH)
    for block in site.blocks:
        for lateral, z, height in block.lamps:
            middle, span = int((z - site.origin) / CELL), int(24 / CELL)
            low, high = max(0, middle - span), min(len(grid), middle + span)
            dz = (np.arange(low, high, dtype=F32) + 0.5) * F32(CELL) + F32(site.origin - z)
            away = ((x - F32(lateral)) ** 2)[None] + (dz * dz)[:, None]
            grid[low:high] += (height * height / (height * height + away)) ** F32(1.9)
    return grid


def look_up(grid: Array, lateral: Array, z: Array, origin: float) -> Array:
    """Bilinear look-up of a map at points (any shape)."""
    gx = np.clip((lateral + F32(HALF_WIDTH)) * F32(1 / CELL) - F32(0.5), 0, _COLUMNS - 2)
    gz = np.clip((z - F32(origin)) * F32(1 / CELL) - F32(0.5), 0, len(grid) - 2)
    ix, iz = gx.astype(np.intp), gz.astype(np.intp)
    fx, fz = gx - ix, gz - iz
    flat, at = grid.ravel(), iz * _COLUMNS + ix
    low = flat.take(at) * (1 - fx) + flat.take(at + 1) * fx
    high = flat.take(at + _COLUMNS) * (1 - fx) + flat.take(at + _COLUMNS + 1) * fx
    return low * (1 - fz) + high * fz
