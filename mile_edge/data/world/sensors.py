"""The two other eyes of the robot: a depth camera and a thermal camera."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import shapes
from .air import Air
from .lens import smooth
from .materials import Finish
from .noise import sample
from .raycast import F32
from .street import stream
from .surface import Surface

RANGE = 60.0
"""Metres the depth camera reaches in clear air; 16 bit of millimetres end at 65.5 m."""


def depth_image(surface: Surface, finish: Finish, air: Air, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Depth (H, W) uint16 millimetres along the optical axis, 0 where nothing returned."""
    height, width = surface.shape
    n = height * width
    depth = surface.depth.reshape(height, width)
    near = np.minimum(depth, F32(1e3))
    luck = rng.random((height, width), dtype=F32)
    coarse = np.repeat(np.repeat(rng.random((height // 4 + 1, width // 4 + 1), dtype=F32), 4, 0), 4, 1)[:height, :width]
    limit = RANGE if air.thickness < 0.004 else min(RANGE, 1.3 / air.thickness)
    limit *= float(rng.uniform(0.9, 1.0))
    lost = near > limit * (0.92 + 0.08 * coarse)
    lost |= near < 0.3
    jump = np.zeros((height, width), F32)
    rise = np.abs(np.diff(1.0 / near, axis=1)) * near[:, 1:]
    jump[:, 1:], jump[:, :-1] = rise, np.maximum(jump[:, :-1], rise)
    rise = np.abs(np.diff(1.0 / near, axis=0)) * near[1:]
    jump[1:], jump[:-1] = np.maximum(jump[1:], rise), np.maximum(jump[:-1], rise)
    lost |= (jump > 0.12) & (luck < 0.55)
    facing = np.abs((surface.ray.T * surface.normal.T).sum(0)).reshape(height, width)
    lost |= (facing < 0.10) & (0.65 * coarse + 0.35 * luck < 0.85 - facing * 6.0)
    glass = (finish.glass > 0.55).reshape(height, width)
    lost |= glass & (coarse < 0.62)
    lost |= (finish.glass > 0.4).reshape(height, width) & (coarse < 0.2)
    share = 0.004 + 0.05 * (air.wet > 0.5) + min(0.4, 4.0 * air.thickness) * np.clip(near / limit, 0, 1)
    lost |= 0.5 * (luck + coarse) < share
    wet = (air.wet > 0.5) & np.isin(surface.material, (shapes.M_ROAD,)).reshape(height, width)
    lost |= wet & (coarse < 0.25)
    spread = 0.004 + 0.0011 * near * near * (1.0 + 12.0 * air.thickness)
    error = smooth(rng.standard_normal((height, width), dtype=F32), 0.25) * F32(1.3)
    measured = near + spread * error
    if air.domain in ("rain", "snow"):
        speck = rng.random(n, dtype=F32).reshape(height, width) < 0.004
        measured = np.where(speck, rng.uniform(0.5, 8.0, (height, width)), measured)
        lost &= ~speck
    millimetres = np.clip(measured * 1000.0 + 0.5, 0, 65535)
    return np.where(lost, 0, millimetres).astype(np.uint16)


_KELVIN = np.zeros(32, F32)
"""Each material's kelvin above the air on an overcast day."""
for _material, _value in {
    shapes.M_ROAD: 3.2, shapes.M_WALK: 1.2, shapes.M_KERB: 1.0, shapes.M_GRASS: -2.2, shapes.M_FACADE: 4.0,
    shapes.M_ROOF: -1.0, shapes.M_METAL: -1.8, shapes.M_SIGN: -2.0, shapes.M_LEAF: -2.0, shapes.M_BARK: 0.2,
    shapes.M_PAINT: 0.6, shapes.M_CABIN: -0.5, shapes.M_TYRE: 1.5, shapes.M_SKIN: 3.0, shapes.M_CLOTH: 1.0,
    shapes.M_LAMP: 3.0, shapes.M_FAR: -0.5, shapes.M_PLAIN: 2.5, shapes.M_SIGNAL: 4.0, shapes.M_BUS: 1.5,
}.items():  # fmt: skip
    _KELVIN[_material] = _value

_AIR = {"clear": (285.0, 298.0), "dusk": (282.0, 294.0), "night": (276.0, 289.0), "fog": (276.0, 285.0),
        "rain": (279.0, 288.0), "snow": (267.0, 274.0)}  # fmt: skip


def thermal_image(
    surface: Surface, finish: Finish, air: Air, sunny: NDArray[np.float32] | None, rng: np.random.Generator
) -> NDArray[np.uint16]:
    """Apparent temperature (H, W) uint16 in 0.01 K; `sunny` (N,) is the share of sun on each pixel, if any."""
    height, width = surface.shape
    street = stream(surface.scene.street.seed, 8)
    outside = street.uniform(*_AIR[air.domain])
    indoors = {"snow": 1.6, "night": 1.3}.get(air.domain, 1.0)
    kelvin = outside + _KELVIN[surface.material] * indoors
    warmth = finish.warmth * (1.2 if air.domain in ("night", "snow") else 0.55 if air.domain == "rain" else 1.0)
    person = (surface.material == shapes.M_SKIN) | (surface.material == shapes.M_CLOTH)
    share = np.clip((305.0 - outside) / 18.0, 0.25, 1.6)
    kelvin += np.where(person, finish.warmth * share, warmth)
    if sunny is not None:
        gain = {"clear": 11.0, "dusk": 4.0}.get(air.domain, 0.0)
        dark = 1.0 - finish.albedo.mean(1)
        leafy = np.isin(surface.material, (shapes.M_LEAF, shapes.M_GRASS, shapes.M_FAR))
        kelvin += gain * sunny * dark * np.where(leafy, 0.25, 1.0)
    kelvin += 0.35 * sample("blotch", surface.point[:, 0] + surface.point[:, 1], surface.point[:, 2], 6.0)
    wet = {"rain": 0.45, "snow": 0.35, "fog": 0.2}.get(air.domain, 0.0)
    kelvin = kelvin * (1 - wet) + wet * np.where(person, kelvin, outside)
    up = np.maximum(surface.ray[:, 1], 0.0)
    cover = {"clear": 42.0, "dusk": 38.0, "night": 38.0, "fog": 6.0, "rain": 12.0, "snow": 14.0}[air.domain]
    above = surface.material == shapes.M_SKY
    skyward = (
        outside - cover * (1.0 - np.exp(-3.0 * up) * 0.75) + 1.5 * sample("cloud", surface.ray[:, 0] * 80, up * 90, 1.0)
    )
    mirror = np.clip(finish.glass, 0, 0.3)
    kelvin = kelvin * (1 - mirror * 0.35) + mirror * 0.35 * (outside - 0.5 * cover)
    through = np.exp(-np.minimum(surface.reach, F32(1e4)) * F32(0.0015 + 0.30 * air.thickness))
    kelvin = outside + (kelvin - outside) * through
    kelvin = np.where(above, skyward, kelvin).astype(F32).reshape(height, width)
    kelvin = smooth(smooth(kelvin, 0.16), 0.12)
    columns = rng.standard_normal((1, width), dtype=F32) * F32(0.06)
    drift = float(rng.normal(0.0, 0.4))
    kelvin = outside + (kelvin - outside) * F32(street.uniform(0.9, 1.4))
    kelvin += rng.standard_normal((height, width), dtype=F32) * F32(0.11) + columns + F32(drift)
    return np.clip(kelvin * 100.0 + 0.5, 0, 65535).astype(np.uint16)
