"""From light to a picture: rain streaks, flakes, drops, lamp halos, blur, exposure and sensor noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .air import Air
from .raycast import F32
from .surface import Surface

Array = NDArray[np.float32]


def smooth(image: Array, weight: float) -> Array:
    """A 3-tap blur along the last two axes of (..., H, W), `weight` on each neighbour."""
    side = F32(weight)
    for _ in range(2):
        out = image * F32(1 - 2 * weight)
        out[..., 1:] += side * image[..., :-1]
        out[..., :-1] += side * image[..., 1:]
        out[..., 0] += side * image[..., 0]
        out[..., -1] += side * image[..., -1]
        image = out.swapaxes(-1, -2)
    return image


def _box(image: Array, radius: int) -> Array:
    """Box blur of (..., H, W), edges repeated."""
    for axis in (-2, -1):
        pad = [(0, 0)] * image.ndim
        pad[axis] = (radius + 1, radius)
        total = np.cumsum(np.pad(image, pad, mode="edge"), axis=axis, dtype=F32)
        n = image.shape[axis]
        span = 2 * radius + 1
        high, low = np.arange(span, span + n), np.arange(n)
        image = (total.take(high, axis) - total.take(low, axis)) * F32(1.0 / span)
    return image


def bloom(image: Array, strength: float, spread: int) -> Array:
    """Add a soft halo around everything brighter than white to (3, H, W); works at quarter size."""
    height, width = image.shape[1:]
    h, w = height // 4 * 4, width // 4 * 4
    bright = np.clip(image[:, :h, :w] - F32(0.9), 0.0, 12.0).reshape(3, h // 4, 4, w // 4, 4).mean((2, 4))
    if not bright.any():
        return image
    halo = _box(_box(bright, spread), spread) + 0.4 * _box(_box(bright, max(1, spread // 3)), max(1, spread // 3))
    big = smooth(smooth(np.repeat(np.repeat(halo * F32(strength), 4, 1), 4, 2), 0.3), 0.3)
    out = image.copy()
    out[:, :h, :w] += big
    return out


def _streaks(image: Array, rng: np.random.Generator, air: Air) -> Array:
    """Falling rain as slanted, half transparent strokes."""
    height, width = image.shape[1:]
    count = int(rng.uniform(0.002, 0.011) * height * width)
    slant = rng.uniform(-0.35, 0.35)
    length = rng.integers(int(0.03 * height) + 2, int(0.12 * height) + 4, count)
    y = rng.integers(-20, height, count)
    x = rng.integers(-10, width + 10, count)
    strength = rng.uniform(0.02, 0.16, count).astype(F32)
    step = np.arange(int(length.max()))
    rows = y[:, None] + step[None]
    columns = (x[:, None] + slant * step[None]).astype(np.int64)
    good = (step[None] < length[:, None]) & (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    veil = np.zeros(height * width, F32)
    np.maximum.at(veil, (rows * width + columns)[good], np.broadcast_to(strength[:, None], rows.shape)[good])
    haze = np.array(air.haze, F32)[:, None, None] * F32(1.5)
    return image + (haze - image) * veil.reshape(height, width)


def _drops(image: Array, rng: np.random.Generator) -> Array:
    """A few drops on the glass: small, blurred, upside-down pieces of the picture."""
    height, width = image.shape[1:]
    soft: Array | None = None
    for _ in range(int(rng.integers(0, 9))):
        radius = int(rng.uniform(0.008, 0.028) * width) + 1
        cy, cx = int(rng.integers(0, height)), int(rng.integers(0, width))
        y0, y1, x0, x1 = max(0, cy - radius), min(height, cy + radius), max(0, cx - radius), min(width, cx + radius)
        if y1 - y0 < 2 or x1 - x0 < 2:
            continue
        if soft is None:
            soft = _box(image, max(2, width // 60))
        yy, xx = np.mgrid[y0:y1, x0:x1]
        away = np.hypot((yy - cy) * 0.85, xx - cx) / radius
        cover = (np.clip(1.6 - 1.6 * away, 0.0, 0.85)).astype(F32)
        far = soft[:, np.clip(2 * cy - yy - radius, 0, height - 1), np.clip(2 * cx - xx, 0, width - 1)]
        image[:, y0:y1, x0:x1] = image[:, y0:y1, x0:x1] * (1 - cover) + cover * far * F32(1.05)
    return image


def _flakes(image: Array, depth: Array, rng: np.random.Generator, air: Air) -> Array:
    """Snowflakes between camera and street: many small far ones, a few large soft near ones."""
    height, width = image.shape[1:]
    veil = np.zeros((height, width), F32)
    count = int(rng.uniform(0.006, 0.018) * height * width)
    y, x = rng.integers(0, height - 1, count), rng.integers(0, width - 1, count)
    away = rng.uniform(4.0, 45.0, count)
    seen = depth[y, x] > away
    power = np.clip(5.0 / away, 0.2, 0.85).astype(F32) * seen
    for dy, dx, share in ((0, 0, 1.0), (1, 0, 0.55), (0, 1, 0.45)):
        np.maximum.at(veil, (y + dy, x + dx), power * F32(share))
    for _ in range(int(rng.integers(10, 50))):
        size = rng.uniform(0.8, 3.2) * width / 320
        cy, cx = rng.uniform(0, height), rng.uniform(0, width)
        r = int(size * 2) + 2
        y0, y1, x0, x1 = max(0, int(cy) - r), min(height, int(cy) + r), max(0, int(cx) - r), min(width, int(cx) + r)
        yy, xx = np.mgrid[y0:y1, x0:x1]
        blob = rng.uniform(0.35, 0.85) * np.exp(-(((yy - cy) / (size * 1.3)) ** 2 + ((xx - cx) / size) ** 2))
        patch = veil[y0:y1, x0:x1]
        np.maximum(patch, blob.astype(F32), out=patch)
    return image + (np.array(air.haze, F32)[:, None, None] * F32(1.25) - image) * veil


def photograph(surface: Surface, radiance: Array, air: Air, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The camera's picture (H, W, 3) uint8 of radiance (3, N)."""
    height, width = surface.shape
    image = radiance.reshape(3, height, width)
    if air.lamps > 0.1 or air.wet > 0.5:
        thick = air.thickness > 0.005
        image = bloom(image, 0.3 if thick else 0.16, max(2, width // (40 if thick else 64)))
    if air.domain == "rain":
        image = _drops(_streaks(image, rng, air), rng)
    elif air.domain == "snow":
        image = _flakes(image, surface.depth.reshape(height, width), rng, air)
    image = smooth(image, 0.13 if air.domain == "rain" else 0.09)
    exposure = air.exposure * float(rng.uniform(0.86, 1.16))
    image = image * (rng.uniform(0.96, 1.04, (3, 1, 1)).astype(F32) * F32(exposure))
    image *= (1.36 + 0.245 * image) / (1.0 + 0.95 * image)
    light = np.clip(image, 0.0, 1.0)
    root = np.sqrt(light)
    shot = rng.standard_normal(light.shape, dtype=F32)
    shot *= F32(0.48 * air.noise) + F32(0.64 * air.noise) * root
    root *= 0.92 + 0.08 * light
    root += shot
    root *= 255.0
    root += 0.5
    np.clip(root, 0.0, 255.0, out=root)
    return np.ascontiguousarray(root.astype(np.uint8).transpose(1, 2, 0))
