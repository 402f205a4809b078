"""What every visible point is made of: colour, glass, lights and warmth, before any weather falls on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import shapes
from .facade import facade
from .noise import cell_hash, sample
from .raycast import F32
from .surface import Shown, Surface

Array = NDArray[np.float32]
Side = NDArray[np.uint8]


@dataclass(frozen=True)
class Finish:
    """Per pixel (N = H * W): linear `albedo` (N, 3), `glass` 0..1 (mirrors the sky), `glow` (N, 3) light given off when
    lamps are on, `beacon` (N, 3) light given off always, `warmth` kelvin above what the material alone would have.
    """

    albedo: Array
    glass: Array
    glow: Array
    beacon: Array
    warmth: Array


def finish(surface: Surface) -> Finish:
    """Colour every pixel of a surface."""
    n = len(surface.material)
    out = Finish(*(np.zeros((n, 3), F32) if wide else np.zeros(n, F32) for wide in (1, 0, 1, 1, 0)))
    for plane in range(3):
        out.albedo[surface.body, plane] = surface.shown.column(13 + plane)
    out.warmth[surface.body] = surface.shown.column(17)
    _ground(surface, out)
    made_of = surface.material[surface.body]
    for material, paint in _PAINTERS.items():
        pick = np.flatnonzero(made_of == material)
        if len(pick):
            local = surface.local.T.take(pick, 1).T
            paint(out, surface.body[pick], surface.shown.pick(pick), local, surface.side[pick], surface)
    return out


def _fade(surface: Surface, pixels: NDArray[np.int64], size: float) -> Array:
    """How much of a detail of `size` metres survives at each pixel's distance, 0..1."""
    footprint = surface.depth[pixels] / F32(surface.scene.camera.focal)
    return np.clip(F32(size) / (footprint + F32(1e-6)) - 0.3, 0.0, 1.0)


def _ground(surface: Surface, out: Finish) -> None:
    x, z, lateral = surface.point[:, 0], surface.point[:, 2], surface.lateral
    tint = np.array(surface.scene.street.tint, F32)
    on_ground = np.ones(len(surface.material), bool)
    on_ground[surface.body] = False

    def pixels(material: int) -> NDArray[np.int64]:
        return np.flatnonzero(on_ground & (surface.material == material))

    road = pixels(shapes.M_ROAD)
    grain = 0.16 * sample("grain", x[road], z[road], 22.0) * _fade(surface, road, 0.06)
    blotch = 0.10 * sample("blotch", x[road], z[road], 5.0) + 0.05 * sample(
        "blotch", lateral[road], z[road] * 0.2, 40.0
    )
    tone = F32(0.115) * (1.0 + grain + blotch)
    cracks = np.abs(sample("blotch", x[road] + 7.0, z[road], 11.0)) < 0.035
    tone *= 1.0 - 0.3 * cracks * _fade(surface, road, 0.05)
    paint = _markings(surface, road) * np.clip(0.85 + 0.25 * sample("blotch", x[road], z[road], 30.0), 0.35, 1.0)
    out.albedo[road] = tone[:, None] * tint + (F32(0.55) - tone[:, None]) * paint[:, None]

    walk = pixels(shapes.M_WALK)
    size = F32(0.5 + 0.4 * (surface.scene.street.seed % 3))
    across, along = lateral[walk] / size, z[walk] / size
    joints = (np.abs(across - np.rint(across)) < 0.035) | (np.abs(along - np.rint(along)) < 0.035)
    slab = cell_hash(np.rint(across - 0.5).astype(np.int32), np.rint(along - 0.5).astype(np.int32))
    tone = 0.27 * (1.0 + 0.12 * (slab - 0.5) + 0.10 * sample("blotch", x[walk], z[walk], 7.0))
    tone *= 1.0 + 0.06 * sample("grain", x[walk], z[walk], 30.0) * _fade(surface, walk, 0.05)
    tone *= 1.0 - 0.3 * joints * _fade(surface, walk, 0.04)
    out.albedo[walk] = tone[:, None].astype(F32) * np.array([1.03, 1.0, 0.94], F32) * tint

    kerb = pixels(shapes.M_KERB)
    out.albedo[kerb] = (0.30 * (1.0 + 0.1 * sample("grain", x[kerb], z[kerb], 20.0)))[:, None]

    grass = pixels(shapes.M_GRASS)
    blades = 0.22 * sample("leaf", x[grass], z[grass], 40.0) * _fade(surface, grass, 0.12)
    patch = sample("blotch", x[grass], z[grass], 6.0)[:, None]
    tone = (1.0 + blades)[:, None] * np.array([0.075, 0.125, 0.028], F32)
    out.albedo[grass] = tone * (1.0 + patch * np.array([0.2, 0.08, 0.1], F32))
    out.albedo[pixels(shapes.M_FAR)] = (0.05, 0.075, 0.035)


def _markings(surface: Surface, road: NDArray[np.int64]) -> Array:
    """Lane lines, edge lines, stop lines and crosswalks: share of white per road pixel."""
    street, plan = surface.scene.street, surface.plan
    lateral, z = surface.lateral[road], surface.point[road, 2]
    cell = plan.cell(z)
    footprint = surface.reach[road] / F32(surface.scene.camera.focal) * 0.7
    free = ~plan.cross[cell]

    def line(centre: float, width: float) -> Array:
        return np.clip((width + footprint - 2 * np.abs(lateral - F32(centre))) / (2 * footprint + 1e-3), 0.0, 1.0) * (
            width / np.maximum(width, footprint))  # fmt: skip

    dashed = (z % 9.0) < 3.6
    style = street.marking
    out = line(0.0, 0.13) * (dashed | (style == 0))
    if style == 2:
        out = np.maximum(line(-0.12, 0.1), line(0.12, 0.1))
    for lane in range(1, street.lanes):
        for sign in (-1, 1):
            out = np.maximum(out, line(sign * lane * street.lane_width, 0.12) * dashed)
    for side, sign in ((0, -1), (1, 1)):
        if street.parking[side] or style == 1:
            edge = street.lanes * street.lane_width
            out = np.maximum(out, line(sign * edge, 0.11) * (True if style else (z % 3.0) < 1.5))
    zebra = plan.stripes[cell]
    inside = (lateral > -street.half(0) + 0.2) & (lateral < street.half(1) - 0.2)
    bars = np.clip(0.5 + 6.0 * np.sin(lateral * F32(2 * np.pi / 1.0)) / (1.0 + 25.0 * footprint), 0.0, 1.0)
    return np.where(zebra, bars * inside, out * free).astype(F32)


def _paint(out: Finish, at: NDArray[np.int64], rows: Shown, local: Array, side: Side, surface: Surface) -> None:
    half, seed = [rows.column(k) for k in (4, 5, 6)], rows.column(16)
    lx, ly, lz = (local[:, k] / half[k] for k in range(3))
    driving = seed > 0.5
    wheel = (np.abs(local[:, 2]) - half[2] * 0.62) ** 2 + (local[:, 1] + half[1] + 0.24 - 0.32) ** 2 < 0.38**2
    dark = ((side == 0) & wheel) | (ly < -0.72)
    ends = side == 2
    lamps = ends & (np.abs(lx) > 0.62) & (np.abs(lx) < 0.96) & (ly > 0.02) & (ly < 0.55)
    grille = ends & (lz > 0) & (np.abs(lx) < 0.5) & (ly > -0.3) & (ly < 0.35)
    plate = ends & (np.abs(lx) < 0.26) & (ly > -0.45) & (ly < -0.12)
    seam = (side == 0) & (np.abs(np.abs(lz - 0.02) - 0.27) < 0.008) & (ly > -0.5)
    albedo = out.albedo[at]
    albedo[seam] *= 0.5
    albedo[dark | grille] = (0.02, 0.02, 0.022)
    albedo[plate] = (0.55, 0.54, 0.48)
    front = lamps & (lz > 0)
    rear = lamps & (lz < 0)
    albedo[front] = (0.6, 0.6, 0.58)
    albedo[rear] = (0.30, 0.015, 0.015)
    out.albedo[at] = albedo
    out.glow[at[front & driving]] = (14.0, 13.0, 11.0)
    out.glow[at[rear & driving]] = (3.2, 0.12, 0.08)
    brake = rear & driving & ((seed * 57.0) % 1.0 < 0.3)
    out.beacon[at[brake]] = (1.1, 0.04, 0.03)
    out.glass[at] = np.where(dark | grille | plate, 0.0, 0.16)
    out.warmth[at] *= np.where((lz > 0.25) & ~lamps, 1.0, 0.25) * np.where(ly < -0.5, 1.3, 1.0)


def _cabin(out: Finish, at: NDArray[np.int64], rows: Shown, local: Array, side: Side, surface: Surface) -> None:
    ly = local[:, 1] / rows.column(5)
    lz = local[:, 2] / rows.column(6)
    share = (1.0 + ly) * 0.5
    taper = np.where(lz > 0, rows.column(8), rows.column(9))
    pillar = (side == 0) & ((np.abs(lz - 0.05) < 0.035) | (np.abs(lz) > 0.9 - share * taper))
    ends = (side == 2) & (np.abs(local[:, 0]) > rows.column(4) * (0.88 - 0.5 * rows.column(7) * share))
    glass = (side != 1) & (ly < 0.84) & (ly > -0.9) & ~pillar & ~ends
    out.albedo[at[glass]] = (0.018, 0.021, 0.023)
    out.glass[at] = np.where(glass, 0.62, 0.16)
    out.warmth[at] = np.where(glass, -1.0, rows.column(17))


def _bus(out: Finish, at: NDArray[np.int64], rows: Shown, local: Array, side: Side, surface: Surface) -> None:
    lx, ly, lz = (local[:, k] / rows.column(4 + k) for k in range(3))
    bars = np.abs((local[:, 2] * 0.7) % 1.0 - 0.5) > 0.46
    glass = (side != 1) & (ly > -0.05) & (ly < 0.72) & ~((side == 0) & bars) & ~((side == 2) & (np.abs(lx) > 0.92))
    lamps = (side == 2) & (np.abs(lx) > 0.72) & (ly > -0.75) & (ly < -0.6)
    out.albedo[at[glass]] = (0.02, 0.023, 0.026)
    out.glow[at[glass]] = (0.28, 0.26, 0.20)
    out.glow[at[lamps & (lz > 0)]] = (12.0, 11.5, 10.0)
    out.glow[at[lamps & (lz < 0)]] = (3.0, 0.1, 0.08)
    out.albedo[at[ly < -0.88]] = (0.02, 0.02, 0.02)
    out.glass[at] = np.where(glass, 0.55, 0.12)


def _leaf(out: Finish, at: NDArray[np.int64], rows: Shown, local: Array, side: Side, surface: Surface) -> None:
    px, py, pz = surface.point.T.take(at, 1)
    x, y = px + 0.6 * pz, py + 0.31 * pz
    fine = sample("leaf", x, y, 30.0) * (0.35 + 0.65 * _fade(surface, at, 0.15))
    coarse = sample("blotch", x, y, 24.0)
    depth = np.clip(0.62 + 0.38 * local[:, 1] / rows.column(5), 0.3, 1.0)
    tone = np.clip(1.0 + 0.38 * fine + 0.18 * coarse, 0.2, 2.2) * depth
    out.albedo[at] *= tone[:, None] * (1.0 + 0.1 * coarse[:, None] * np.array([1.0, 0.3, 0.2], F32))
    normal = surface.normal.T.take(at, 1) + np.stack([0.5 * fine, 0.3 * coarse, -0.4 * fine])
    surface.normal[at] = (normal / (np.sqrt((normal * normal).sum(0)) + F32(1e-6))).T


def _bark(out: Finish, at: NDArray[np.int64], rows: Shown, local: Array, side: Side, surface: Surface) -> None:
    angle = np.arctan2(local[:, 0], local[:, 2])
    out.albedo[at] *= (1.0 + 0.3 * sample("leaf", angle, local[:, 1] * 0.3, 40.0))[:, None]


def _roof(out: Finish, at: NDArray[np.int64], rows: Shown, local: Array, side: Side, surface: Surface) -> None:
    courses = np.abs((local[:, 1] * 3.6) % 1.0 - 0.5) > 0.38
    along = np.where(side == 0, local[:, 2], local[:, 0])
    tone = 1.0 + 0.12 * sample("grain", along, local[:, 1], 9.0) - 0.28 * courses * _fade(surface, at, 0.1)
    out.albedo[at] *= tone[:, None]


def _plain(out: Finish, at: NDArray[np.int64], rows: Shown, local: Array, side: Side, surface: Surface) -> None:
    out.albedo[at] *= (1.0 + 0.08 * sample("blotch", local[:, 2] + local[:, 0], local[:, 1], 25.0))[:, None]


def _sign(out: Finish, at: NDArray[np.int64], rows: Shown, local: Array, side: Side, surface: Surface) -> None:
    lx, ly = local[:, 0] / rows.column(4), local[:, 1] / rows.column(5)
    rim = np.where(rows.column(10) == shapes.HULL, np.maximum(np.abs(lx), np.abs(ly)), np.hypot(lx, ly))
    code = (rows.column(16) * 7.0).astype(np.int32)
    inner = (rim < 0.68) & (code % 3 != 0)
    bar = (np.abs(ly) < 0.2) & (np.abs(lx) < 0.62) & (code % 3 == 0)
    back = local[:, 2] > 0.004
    out.albedo[at[inner | bar]] = (0.62, 0.62, 0.60)
    out.albedo[at[inner & (np.abs(lx) < 0.16) & (np.abs(ly) < 0.45)]] = (0.02, 0.02, 0.02)
    out.albedo[at[back]] = (0.25, 0.26, 0.27)


def _signal(out: Finish, at: NDArray[np.int64], rows: Shown, local: Array, side: Side, surface: Surface) -> None:
    ly = local[:, 1] / rows.column(5)
    lit = (rows.column(16) * 3.0).astype(np.int32)
    level = np.rint(ly * 1.5).astype(np.int32)
    lens = (side == 2) & (local[:, 2] < 0) & (np.hypot(local[:, 0], local[:, 1] - level * 0.31) < 0.115)
    colours = np.array([[0.05, 1.6, 0.7], [1.6, 0.8, 0.05], [2.0, 0.06, 0.04]], F32)
    on = lens & (level + 1 == lit)
    out.beacon[at[on]] = colours[lit[on]]
    out.albedo[at[lens]] = 0.04


def _lamp(out: Finish, at: NDArray[np.int64], rows: Shown, local: Array, side: Side, surface: Surface) -> None:
    below = local[:, 1] < 0.02
    out.glow[at[below]] = np.array(surface.scene.street.lamp_colour, F32) * F32(16.0)


def _cloth(out: Finish, at: NDArray[np.int64], rows: Shown, local: Array, side: Side, surface: Surface) -> None:
    fold = sample("leaf", local[:, 0] + rows.column(16) * 9.0, local[:, 1] * 0.6, 40.0)
    out.albedo[at] *= (1.0 + 0.15 * fold)[:, None]


_PAINTERS: dict[int, Callable[[Finish, NDArray[np.int64], Shown, Array, Side, Surface], None]] = {
    shapes.M_FACADE: facade, shapes.M_PAINT: _paint, shapes.M_CABIN: _cabin, shapes.M_BUS: _bus, shapes.M_LEAF: _leaf,
    shapes.M_BARK: _bark, shapes.M_ROOF: _roof, shapes.M_PLAIN: _plain, shapes.M_SIGN: _sign,
    shapes.M_SIGNAL: _signal, shapes.M_LAMP: _lamp, shapes.M_CLOTH: _cloth,
}  # fmt: skip
