"""How a surface looks to a camera in clear weather, at dusk, at night, in fog, in rain and in snow (linear light).

Colours are (3, K) here: planes first, which numpy multiplies several times faster than (K, 3).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import shapes
from .air import Air, Colour
from .light import Lit
from .noise import sample
from .raycast import F32
from .surface import Surface

Array = NDArray[np.float32]


def _tint(colour: Colour) -> Array:
    """(3, 1) float32, to be multiplied with (K,) or (3, K)."""
    return np.array(colour, F32)[:, None]


def sky(air: Air, ray: Array, seed: int, time: float) -> Array:
    """Colour (3, K) of the sky along unit rays (K, 3)."""
    up = np.maximum(ray[:, 1], 0.0)
    share = np.exp(up * F32(-3.2 if air.domain == "dusk" else -4.5))
    out = _tint(air.zenith) * (1 - share) + _tint(air.horizon) * share
    if air.domain in ("clear", "dusk"):
        towards = ray @ air.sun.direction
        halo = np.clip(towards, 0.0, 1.0)
        square = halo * halo
        glare = 0.35 * square**3 + 0.9 * square**30 + 6.0 * (towards > 0.9994)
        out += glare * (_tint(air.sunlight) * F32(0.5))
    if air.clouds > 0.0:
        scale = 60.0 / (up + 0.12)
        x, z = ray[:, 0] * scale + F32(seed % 89 * 7.0 + 0.5 * time), ray[:, 2] * scale
        field = sample("cloud", x, z, 1.2)
        cover = np.clip((field - F32(0.9 - 1.3 * air.clouds)) * 0.9, 0.0, 1.0) * np.clip(up * 9.0, 0.0, 1.0)
        if air.domain == "clear":
            tone = _tint((0.90, 0.91, 0.93)) * (1.0 - 0.18 * np.clip(field, 0, 2))
        elif air.domain == "dusk":
            tone = _tint(air.sunlight) * (0.35 + 0.25 * share) + _tint((0.10, 0.09, 0.13))
        else:
            tone = out * (1.0 - 0.16 * field)
        out += (tone - out) * (0.85 * cover)
    return out


def shade(lit: Lit, air: Air) -> Array:
    """Radiance (3, N) float32 of every pixel through the air."""
    surface = lit.surface
    seed = surface.scene.street.seed
    out = np.empty((3, len(surface.material)), F32)
    up = lit.normal[:, 1]
    albedo = _snowed(lit, air.snow) if air.snow else lit.albedo
    if air.wet:
        albedo = albedo * (1.0 - F32(0.42 * air.wet) * np.clip(up, 0.15, 1.0))
    light = ((0.58 + 0.42 * up) * lit.contact) * _tint(air.skylight)
    if max(air.sunlight) > 0.2:
        facing = np.maximum(lit.normal @ air.sun.direction, 0.0) * lit.sunshine(air.sun)
        facing += 0.10 * (1.0 - up)
        light += facing * _tint(air.sunlight)
    elif max(air.sunlight) > 0.0:
        light += (0.5 + 0.5 * np.maximum(lit.normal @ air.sun.direction, 0.0)) * _tint(air.sunlight)
    if air.lamps:
        light += _artificial(lit, air)
    colour = albedo * light
    colour[:, lit.shiny] += _mirrored(lit, air)
    if len(lit.glowing):
        power = min(1.0, 0.15 + air.lamps) if air.lamps else 0.0
        colour[:, lit.glowing] += lit.glow * F32(power) + lit.beacon * F32(0.35 if air.lamps < 0.5 else 1.0)
    out[:, lit.at] = colour
    out[:, lit.above] = sky(air, surface.ray.T.take(lit.above, 1).T, seed, surface.scene.time)
    if air.wet > 0.1:
        _reflect(surface, out, air)
        colour = out[:, lit.at]
    clear = np.exp(lit.reach * F32(-air.thickness))
    out[:, lit.at] = colour * clear + _tint(air.haze) * (1.0 - clear)
    return out


def _artificial(lit: Lit, air: Air) -> Array:
    """Street lamps and our own headlights."""
    light = (lit.lamplight * F32(0.55 * air.lamps)) * _tint(lit.surface.scene.street.lamp_colour)
    if air.lamps > 0.3:
        head = lit.headlight * F32(0.9 * (air.lamps - 0.3))
        light += head * _tint((1.0, 0.96, 0.86))
    return light


def _mirrored(lit: Lit, air: Air) -> Array:
    """Sky and a dull street seen in glass and paint, (3, len(lit.shiny))."""
    ray, normal = lit.ray.T.take(lit.shiny, 1), lit.normal.T.take(lit.shiny, 1)
    cosine = (ray * normal).sum(0)
    back = (ray - (2.0 * cosine) * normal).T
    fresnel = 0.12 + 0.88 * (1.0 - np.clip(-cosine, 0, 1)) ** 3
    view = sky(air, back, lit.surface.scene.street.seed, 0.0)
    ripple = sample("blotch", back[:, 0] * 3 + lit.point[lit.shiny, 2] * F32(0.1), back[:, 1], 60.0)
    edge = np.clip(back[:, 1] * 5.0 - 0.5 + 0.8 * ripple, 0, 1)
    street = _tint(air.skylight) * F32(0.16)
    return (lit.glass * (0.25 + fresnel)) * (street + (view - street) * edge)


def _snowed(lit: Lit, amount: float) -> Array:
    """White on everything that faces up; wheels keep two dark tracks in each lane."""
    point, lateral, material = lit.point, lit.lateral, lit.material
    up = lit.normal[:, 1]
    patch = sample("blotch", point[:, 0], point[:, 2], 9.0)
    cover = np.clip((up - 0.30) * 2.2, 0.0, 1.0) * np.clip(F32(0.75 + 0.5 * amount) + 0.25 * patch, 0.0, 1.0)
    leaf = material == shapes.M_LEAF
    cover = np.where(leaf, np.clip(up * 0.9 + 0.1 + 0.25 * patch, 0.0, 0.85), cover)
    road = np.flatnonzero(material == shapes.M_ROAD)
    lane = F32(lit.surface.scene.street.lane_width)
    blot = patch[road]
    track = np.exp(-(((np.abs((lateral[road] % lane) - lane / 2) - F32(0.75)) / F32(0.24)) ** 2))
    worn = np.clip(track * (1.15 - 0.3 * blot) + F32((1.0 - amount) * 0.9) * (blot > 0.3), 0.0, 0.92)
    cover[road] = (1.0 - worn) * np.clip(0.9 + 0.08 * blot, 0, 1)
    cover[(material == shapes.M_SKIN) | (material == shapes.M_TYRE)] *= 0.1
    cover[material == shapes.M_CLOTH] *= 0.5
    grain = 0.80 + 0.03 * sample("grain", point[:, 0], point[:, 2], 18.0) + 0.03 * patch
    return lit.albedo * (1 - cover) + (cover * grain) * _tint((0.97, 0.99, 1.02))


def _reflect(surface: Surface, out: Array, air: Air) -> None:
    """Wet ground mirrors what stands behind it: rays bounced off it are looked up in the picture itself."""
    height, width = surface.shape
    camera = surface.scene.camera
    wet = np.flatnonzero((surface.material == shapes.M_ROAD) | (surface.material == shapes.M_WALK))
    turn = camera.turn.astype(F32)
    point, ray = surface.point.T.take(wet, 1), surface.ray.T.take(wet, 1)
    ray[1] *= -1.0
    ripple = sample("blotch", point[0], point[2], 8.0)
    start = turn @ (point - camera.position.astype(F32)[:, None])
    along = turn @ ray
    lift = turn[:, 1:2] * (ripple * F32(0.03))
    total = np.zeros((3, len(wet)), F32)
    for away, weight in ((3.0, 0.3), (9.0, 0.35), (25.0, 0.35)):
        seen = start + (along + lift) * F32(away)
        scale = F32(camera.focal) / np.maximum(seen[2], 0.2)
        row = np.clip(F32(height / 2) - seen[1] * scale, 0, height - 1).astype(np.int32)
        column = np.clip(F32(width / 2) + seen[0] * scale, 0, width - 1).astype(np.int32)
        total += F32(weight) * out.take(row * width + column, 1)
    puddle = np.clip(0.45 + 0.4 * ripple, 0.12, 1.0) * np.where(
        surface.material[wet] == shapes.M_ROAD, F32(1.0), F32(0.5)
    )
    slant = 1.0 - np.clip(ray[1], 0.0, 1.0)
    share = (0.06 + 0.94 * slant * slant * slant * slant) * puddle * F32(air.wet * 0.85)
    out[:, wet] = out[:, wet] * (1.0 - 0.6 * share) + np.minimum(total, 4.0) * share
