"""Tileable noise fields that every texture of the world is cut from."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

TILE = 512
_MASK = TILE - 1


def _octave(rng: np.random.Generator, cells: int) -> NDArray[np.float32]:
    """One octave of periodic value noise, (TILE, TILE) float32 in -1..1."""
    grid = rng.uniform(-1.0, 1.0, (cells, cells)).astype(np.float32)
    position = np.arange(TILE, dtype=np.float32) * (cells / TILE)
    low = position.astype(np.int64)
    frac = position - low
    frac = frac * frac * (3.0 - 2.0 * frac)
    high = (low + 1) % cells
    rows = grid[low] * (1.0 - frac)[:, None] + grid[high] * frac[:, None]
    out = rows[:, low] * (1.0 - frac)[None] + rows[:, high] * frac[None]
    return np.ascontiguousarray(out, dtype=np.float32)


@cache
def tile(kind: str) -> NDArray[np.float32]:
    """A (TILE, TILE) float32 field with zero mean and unit deviation; kinds: grain, blotch, cloud, leaf."""
    bands = {
        "grain": ((512, 1.0), (256, 0.6), (64, 0.3)),
        "blotch": ((8, 1.0), (16, 0.7), (32, 0.5), (64, 0.35), (128, 0.2)),
        "cloud": ((4, 1.0), (8, 0.6), (16, 0.42), (32, 0.28), (64, 0.17), (128, 0.09)),
        "leaf": ((256, 0.7), (128, 1.0), (64, 0.8), (32, 0.4)),
    }[kind]
    rng = np.random.default_rng([20177, len(kind), sum(map(ord, kind))])
    field = sum((weight * _octave(rng, cells) for cells, weight in bands), np.zeros((TILE, TILE), np.float32))
    field -= field.mean()
    field /= field.std()
    field.setflags(write=False)
    return field


def sample(kind: str, x: NDArray[np.floating[Any]], y: NDArray[np.floating[Any]], scale: float) -> NDArray[np.float32]:
    """The field at `scale` texels per unit of x and y (any shape), nearest texel, periodic."""
    ix = (x * scale).astype(np.int32) & _MASK
    iy = (y * scale).astype(np.int32) & _MASK
    return tile(kind).ravel().take((iy << 9) | ix)


def cell_hash(a: NDArray[np.int32], b: NDArray[np.int32], salt: NDArray[np.int32] | int = 0) -> NDArray[np.float32]:
    """A fixed pseudo-random number in 0..1 for each pair of integers."""
    with np.errstate(over="ignore"):
        h = a.astype(np.uint32) * np.uint32(0x9E3779B1) ^ b.astype(np.uint32) * np.uint32(0x85EBCA77)
        h ^= np.asarray(salt).astype(np.uint32) * np.uint32(0xC2B2AE3D)
        h ^= h >> np.uint32(15)
        h *= np.uint32(0x2C1B3C6D)
        h ^= h >> np.uint32(13)
    return (h & np.uint32(0xFFFF)).astype(np.float32) * np.float32(1.0 / 65536.0)
