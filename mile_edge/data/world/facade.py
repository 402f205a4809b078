"""House fronts: storeys, windows, doors, shops, bricks and cornices, from the point on the wall alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .noise import cell_hash, sample

if TYPE_CHECKING:
    from .materials import Finish
    from .surface import Shown, Surface

Array = NDArray[np.float32]


def _digit(rows: Shown, place: int) -> Array:
    """An independent 0..1 number for each pixel's building."""
    return _digits(rows.table[16], place).take(rows.which)


def _digits(seed: Array, place: int) -> Array:
    return cell_hash((seed * 65521.0).astype(np.int32), np.full(len(seed), place, np.int32))


def facade(
    out: Finish, at: NDArray[np.int64], rows: Shown, local: Array, side: NDArray[np.uint8], surface: Surface
) -> None:
    """Paint walls into `out` at the pixels `at`."""
    seed, half = rows.column(16), [rows.column(k) for k in (4, 5, 6)]
    along = np.where(side == 0, local[:, 2], local[:, 0])
    edge = np.where(side == 0, half[2], half[0]) - np.abs(along)
    height = local[:, 1] + half[1]
    storey = 2.9 + 0.7 * _digit(rows, 1)
    pitch = 1.7 + 2.0 * _digit(rows, 2) ** 2
    share = 0.36 + 0.34 * _digit(rows, 3)
    kind = _digit(rows, 4)
    ribbon = kind > 0.86
    share = np.where(ribbon, 0.94, share)
    u, v = along / pitch + 0.5, height / storey
    column, floor = np.floor(u).astype(np.int32), np.floor(v).astype(np.int32)
    fu, fv = u - column - 0.5, v - floor
    salt = (seed * 8191.0).astype(np.int32) + side.astype(np.int32) * 77
    luck = cell_hash(column, floor, salt)
    top = half[1] * 2 - height
    low, high = 0.30 - 0.12 * _digit(rows, 5), 0.74 + 0.1 * _digit(rows, 6)
    upper = (floor > 0) & (top > 0.55) & (edge > 0.45)
    window = upper & (np.abs(fu) < share / 2) & (fv > low) & (fv < high) & ((luck > 0.04) | ribbon)
    frame_u, frame_v = 0.07 / pitch, 0.07 / storey
    frame = upper & ~window & (np.abs(fu) < share / 2 + frame_u) & (fv > low - frame_v) & (fv < high + frame_v)
    bars = window & ((np.abs(fu) < 0.025 / pitch * 1.4) | (np.abs(fv - high + 0.16) < 0.012)) & ~ribbon
    sill = upper & (np.abs(fu) < share / 2 + 0.03) & (fv > low - 0.055) & (fv < low - 0.015) & ~ribbon

    shop = _digit(rows, 7) > 0.5
    ground = (floor == 0) & (edge > 0.35)
    pane = ground & shop & (np.abs(fu) < 0.43) & (fv > 0.16) & (fv < 0.76) & (luck > 0.1)
    band = (floor == 0) & shop & (fv > 0.80) & (fv < 0.97)
    home = ground & ~shop
    door = home & (luck < 0.3) & (np.abs(fu) * pitch < 0.52) & (height < 2.15)
    pane |= home & (luck >= 0.3) & (np.abs(fu) < share / 2) & (fv > 0.33) & (fv < 0.8)
    glass = (window | pane) & ~bars

    wall = out.albedo[at]
    wall *= _masonry(surface, at, along, height, kind, seed)[:, None]
    wall[(floor > 0) & (fv < 0.035) & (kind < 0.6)] *= 1.22
    wall *= (1.0 - 0.25 * np.clip(1.0 - height / 0.8, 0.0, 1.0))[:, None]
    wall[(top < 0.5)] *= 0.86
    trim = np.where(_digit(rows, 8) > 0.4, 0.55, 0.10).astype(np.float32)
    wall[frame | bars | sill] = trim[frame | bars | sill, None]
    blind = luck * 13.0 % 1.0
    covered = glass & (blind < 0.28) & (fv > high - (high - low) * (0.25 + 2.2 * blind))
    wall[glass] = (0.022, 0.026, 0.030)
    wall[covered] = (0.33, 0.31, 0.27)
    hue = np.stack([_digit(rows, k) for k in (10, 11, 12)], 1) * np.float32(0.4) + np.float32(0.03)
    wall[band] = hue[band]
    wall[door] = hue[door] * np.float32(0.5)
    out.albedo[at] = wall
    out.glass[at] = np.where(glass, np.where(covered, 0.25, 0.5), 0.0)
    awake = np.where(pane & shop, luck < 0.75, (luck * 29.0 % 1.0) < 0.34) & glass
    tone = np.stack([np.ones_like(luck), 0.66 + 0.25 * luck, 0.32 + 0.45 * (luck * 7.0 % 1.0)], 1)
    power = np.where(pane & shop, 1.1, 0.25 + 0.65 * (luck * 17.0 % 1.0)) * (0.7 + 0.5 * fv)
    out.glow[at] = np.where(awake[:, None], tone * power[:, None], 0.0)
    out.warmth[at] += np.where(glass, 1.5, 0.0) + np.where(band | door, 1.0, 0.0)


def _masonry(surface: Surface, at: NDArray[np.int64], along: Array, height: Array, kind: Array, seed: Array) -> Array:
    """Brick courses, plaster or concrete panels, as a factor on the wall's colour."""
    footprint = surface.depth[at] / np.float32(surface.scene.camera.focal)
    near = np.clip(0.16 / (footprint + 1e-4) - 0.4, 0.0, 1.0)
    row = np.floor(height * 9.0).astype(np.int32)
    shifted = along * 3.6 + (row & 1) * 0.5
    brick = cell_hash(np.floor(shifted).astype(np.int32), row) - 0.5
    mortar = ((height * 9.0) % 1.0 < 0.14) | (shifted % 1.0 < 0.07)
    panel = ((height % 2.9) < 0.05) | (np.abs(along % 3.7) < 0.05)
    stain = sample("blotch", along + seed * 90.0, height * 0.5, 9.0)
    bricks = 1.0 + near * (0.38 * brick + 0.22 * mortar)
    panels = 1.0 - 0.22 * panel * near
    return np.where(kind < 0.45, bricks, np.where(kind < 0.65, 1.0, panels)) * (1.0 + 0.08 * stain)
