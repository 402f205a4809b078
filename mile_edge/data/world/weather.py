"""How a surface looks to a camera in clear weather, at dusk, at night, in fog, in rain and in snow (linear light)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import shapes
from .light import Sun, contact, lamplight, sunshine
from .materials import Finish
from .noise import sample
from .raycast import F32
from .street import stream
from .surface import Surface

Array = NDArray[np.float32]
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Air:
    """One domain's light and air on one street; colours are linear, `thickness` is per metre."""

    domain: str
    sun: Sun
    sunlight: Colour
    skylight: Colour
    zenith: Colour
    horizon: Colour
    clouds: float
    thickness: float
    haze: Colour
    lamps: float
    wet: float
    snow: float
    exposure: float
    noise: float

    @staticmethod
    def make(domain: str, seed: int) -> Air:
        """The air of a domain over the street of this seed."""
        rng = stream(seed, 6, sum(map(ord, domain)))
        azimuth = rng.uniform(-math.pi, math.pi)
        high, low = Sun(azimuth, rng.uniform(0.5, 1.05)), Sun(azimuth, rng.uniform(0.07, 0.16))
        gain = rng.uniform(0.8, 1.25)
        grey = rng.uniform(0.85, 1.1)
        dull = (0.60 * grey, 0.64 * grey, 0.70 * grey)
        if domain == "dusk":
            warm = rng.uniform(0.8, 1.2)
            return Air(domain, low, (1.15 * warm, 0.55, 0.22), (0.20, 0.22, 0.34), (0.10, 0.15, 0.34),
                       (1.05 * warm, 0.52, 0.24), rng.uniform(0.3, 0.8), 0.0012, (0.72, 0.44, 0.30), 0.35, 0.0, 0.0,
                       1.15 * gain, 0.012)  # fmt: skip
        if domain == "night":
            return Air(domain, high, (0.0, 0.0, 0.0), (0.012, 0.014, 0.022), (0.006, 0.008, 0.016),
                       (0.030, 0.026, 0.026), rng.uniform(0.1, 0.5), 0.0015, (0.02, 0.018, 0.018), 1.0,
                       0.25 * (rng.random() < 0.3), 0.0, 1.7 * gain, 0.03)  # fmt: skip
        if domain == "fog":
            sight = rng.uniform(38.0, 110.0)
            fog = rng.uniform(0.55, 0.72)
            return Air(domain, high, (0.06, 0.06, 0.06), (0.72, 0.74, 0.76), (fog, fog * 1.01, fog * 1.02),
                       (fog, fog * 1.01, fog * 1.02), 0.05, 3.0 / sight, (fog, fog * 1.01, fog * 1.02),
                       0.25 * (rng.random() < 0.5), 0.15, 0.0, 1.05 * gain, 0.008)  # fmt: skip
        if domain == "rain":
            dark = rng.uniform(0.36, 0.52)
            return Air(domain, high, (0.02, 0.02, 0.02), (0.50, 0.53, 0.58), (dark * 0.8, dark * 0.86, dark * 0.95),
                       (dark, dark * 1.04, dark * 1.1), 0.6, rng.uniform(0.007, 0.016), (dark, dark * 1.03, dark * 1.08),
                       0.3, 1.0, 0.0, 1.2 * gain, 0.012)  # fmt: skip
        if domain == "snow":
            pale = rng.uniform(0.62, 0.8)
            return Air(domain, high, (0.10, 0.10, 0.10), dull, (pale * 0.94, pale * 0.97, pale), (pale, pale, pale), 0.25,
                       rng.uniform(0.006, 0.016), (pale, pale, pale * 1.01), 0.15, 0.2, rng.uniform(0.75, 1.0),
                       1.0 * gain, 0.009)  # fmt: skip
        bright = rng.uniform(0.8, 1.15)
        return Air(domain, high, (1.50 * bright, 1.40 * bright, 1.22 * bright), (0.34, 0.41, 0.54),
                   (0.16, 0.32, 0.68), (0.60, 0.72, 0.88), rng.uniform(0.0, 1.0), 0.0007, (0.62, 0.70, 0.80), 0.0, 0.0,
                   0.0, 0.85 * gain, 0.006)  # fmt: skip


def sky(air: Air, ray: Array, seed: int, time: float) -> Array:
    """Colour (K, 3) of the sky along unit rays (K, 3)."""
    up = np.maximum(ray[:, 1], 0.0)
    share = np.exp(-up * (3.2 if air.domain == "dusk" else 4.5))[:, None]
    out = np.array(air.zenith, F32) * (1 - share) + np.array(air.horizon, F32) * share
    towards = ray @ air.sun.direction
    if air.domain in ("clear", "dusk"):
        halo = np.clip(towards, 0.0, 1.0)
        glare = 0.35 * halo**6 + 0.9 * halo**60 + 6.0 * (towards > 0.9994)
        out += glare[:, None] * np.array(air.sunlight, F32) * F32(0.5)
    if air.clouds > 0.0:
        scale = 60.0 / (up + 0.12)
        x, z = ray[:, 0] * scale + seed % 89 * 7.0 + 0.5 * time, ray[:, 2] * scale
        field = sample("cloud", x, z, 1.2)
        cover = np.clip((field - 0.9 + 1.3 * air.clouds) * 0.9, 0.0, 1.0) * np.clip(up * 9.0, 0.0, 1.0)
        if air.domain == "clear":
            tone = np.array([0.90, 0.91, 0.93], F32) * (1.0 - 0.18 * np.clip(field, 0, 2))[:, None]
        elif air.domain == "dusk":
            tone = np.array(air.sunlight, F32) * (0.35 + 0.25 * share) + np.array([0.10, 0.09, 0.13], F32)
        else:
            tone = out * (1.0 - 0.16 * field[:, None])
        out += (tone - out) * (0.85 * cover[:, None])
    return out


def shade(surface: Surface, finish: Finish, air: Air) -> Array:
    """Radiance (N, 3) float32 of every pixel through the air."""
    seed = surface.scene.street.seed
    above = np.flatnonzero(surface.material == shapes.M_SKY)
    lit = np.flatnonzero(surface.material != shapes.M_SKY)
    out = np.empty((len(surface.material), 3), F32)
    backdrop = sky(air, surface.ray[above], seed, surface.scene.time)
    normal = surface.normal[lit]
    albedo = finish.albedo[lit]
    if air.snow:
        albedo = _snowed(surface, lit, albedo, air.snow)
    if air.wet:
        albedo = albedo * (1.0 - 0.42 * air.wet * np.clip(normal[:, 1:2], 0.15, 1.0))
    openness = (0.58 + 0.42 * normal[:, 1]) * contact(surface, lit)
    light = openness[:, None] * np.array(air.skylight, F32)
    if max(air.sunlight) > 0.2:
        facing = np.maximum(normal @ air.sun.direction, 0.0)
        facing *= sunshine(surface, air.sun, lit)
        bounce = 0.10 * np.clip(1.0 - normal[:, 1], 0, 1)
        light += (facing + bounce)[:, None] * np.array(air.sunlight, F32)
    elif max(air.sunlight) > 0.0:
        light += (0.5 + 0.5 * np.maximum(normal @ air.sun.direction, 0.0))[:, None] * np.array(air.sunlight, F32)
    if air.lamps:
        light += _artificial(surface, lit, air)
    colour = albedo * light
    glass = finish.glass[lit]
    shiny = np.flatnonzero(glass > 0)
    colour[shiny] += _mirrored(surface, lit[shiny], glass[shiny], air)
    colour += finish.beacon[lit] * (0.35 if air.lamps < 0.5 else 1.0)
    if air.lamps:
        colour += finish.glow[lit] * (min(1.0, 0.15 + air.lamps) if air.lamps < 1 else 1.0)
    out[lit], out[above] = colour, backdrop
    if air.wet > 0.1:
        _reflect(surface, out, air)
    clear = np.exp(-surface.reach[lit] * F32(air.thickness))[:, None]
    haze = np.array(air.haze, F32)
    out[lit] = out[lit] * clear + haze * (1.0 - clear)
    return out


def _artificial(surface: Surface, lit: NDArray[np.int64], air: Air) -> Array:
    """Street lamps and our own headlights."""
    lamp = lamplight(surface)[lit] * (0.55 * air.lamps)
    light = lamp[:, None] * np.array(surface.scene.street.lamp_colour, F32)
    camera = surface.scene.camera
    ray = surface.ray[lit] @ camera.turn.T.astype(F32)
    beam = np.exp(-((ray[:, 0] / 0.42) ** 2)) * np.clip(0.5 - (ray[:, 1] + camera.turn[2, 1] * -1.0 + 0.03) * 14.0, 0.06, 1.0)
    reach = surface.reach[lit]
    head = beam * np.clip(reach / 5.0, 0.15, 1.0) * (60.0 / (60.0 + reach * reach)) * (0.9 * max(0.0, air.lamps - 0.3))
    facing = np.clip(-(surface.ray[lit] * surface.normal[lit]).sum(1), 0.05, 1.0)
    return light + (head * (0.35 + 0.65 * facing))[:, None] * np.array([1.0, 0.96, 0.86], F32)


def _mirrored(surface: Surface, at: NDArray[np.int64], glass: Array, air: Air) -> Array:
    """Sky and a dull street seen in glass and paint."""
    ray, normal = surface.ray[at], surface.normal[at]
    cosine = (ray * normal).sum(1)
    back = ray - 2.0 * cosine[:, None] * normal
    fresnel = 0.12 + 0.88 * (1.0 - np.clip(-cosine, 0, 1)) ** 3
    view = sky(air, back, surface.scene.street.seed, 0.0)
    edge = np.clip(back[:, 1] * 5.0 - 0.5 + 0.8 * sample("blotch", back[:, 0] * 3 + surface.point[at, 2] * 0.1, back[:, 1], 60.0), 0, 1)
    street = np.array(air.skylight, F32) * F32(0.16)
    return (glass * (0.25 + fresnel))[:, None] * (street + (view - street) * edge[:, None])


def _snowed(surface: Surface, lit: NDArray[np.int64], albedo: Array, amount: float) -> Array:
    """White on everything that faces up; wheels keep two dark tracks in each lane."""
    normal, point, lateral = surface.normal[lit], surface.point[lit], surface.lateral[lit]
    material = surface.material[lit]
    patch = sample("blotch", point[:, 0], point[:, 2], 9.0)
    cover = np.clip((normal[:, 1] - 0.30) * 2.2, 0.0, 1.0) * np.clip(0.75 + 0.5 * amount + 0.25 * patch, 0.0, 1.0)
    leaf = material == shapes.M_LEAF
    cover = np.where(leaf, np.clip(normal[:, 1] * 0.9 + 0.1 + 0.25 * patch, 0.0, 0.85), cover)
    road = material == shapes.M_ROAD
    lane = surface.scene.street.lane_width
    track = np.exp(-((np.abs((lateral % lane) - lane / 2) - 0.75) / 0.24) ** 2)
    worn = np.clip(track * (1.15 - 0.3 * patch) + (1.0 - amount) * 0.9 * (patch > 0.3), 0.0, 0.92)
    cover = np.where(road, np.clip(1.0 - worn, 0.0, 1.0) * np.clip(0.9 + 0.08 * patch, 0, 1), cover)
    cover = np.where((material == shapes.M_SKIN) | (material == shapes.M_TYRE), cover * 0.1, cover)
    cover = np.where(material == shapes.M_CLOTH, cover * 0.5, cover)[:, None]
    grain = 0.80 + 0.03 * sample("grain", point[:, 0], point[:, 2], 18.0) + 0.03 * patch
    return albedo * (1 - cover) + cover * grain[:, None] * np.array([0.97, 0.99, 1.02], F32)


def _reflect(surface: Surface, out: Array, air: Air) -> None:
    """Wet ground mirrors what stands behind it: rays bounced off it are looked up in the picture itself."""
    height, width = surface.shape
    camera = surface.scene.camera
    wet = np.flatnonzero((surface.material == shapes.M_ROAD) | (surface.material == shapes.M_WALK))
    point, ray = surface.point[wet], surface.ray[wet].copy()
    ray[:, 1] *= -1.0
    ripple = sample("blotch", point[:, 0], point[:, 2], 8.0)
    puddle = np.clip(0.45 + 0.4 * ripple, 0.12, 1.0) * np.where(surface.material[wet] == shapes.M_ROAD, 1.0, 0.5)
    total = np.zeros((len(wet), 3), F32)
    turn = camera.turn.astype(F32)
    for away, weight in ((3.0, 0.3), (9.0, 0.35), (25.0, 0.35)):
        far = point + ray * F32(away) - camera.position.astype(F32)
        far[:, 1] += ripple * F32(0.03 * away)
        seen = far @ turn.T
        depth = np.maximum(seen[:, 2], 0.2)
        row = np.clip(height / 2 - seen[:, 1] / depth * camera.focal, 0, height - 1).astype(np.int32)
        column = np.clip(width / 2 + seen[:, 0] / depth * camera.focal, 0, width - 1).astype(np.int32)
        total += F32(weight) * out[row * width + column]
    fresnel = 0.06 + 0.94 * (1.0 - np.clip(-surface.ray[wet, 1], 0.0, 1.0)) ** 4
    share = (fresnel * puddle * air.wet * 0.85)[:, None]
    out[wet] = out[wet] * (1.0 - 0.6 * share) + np.minimum(total, 4.0) * share
