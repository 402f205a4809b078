"""Which surface each pixel sees: boxes, ellipsoids and cylinders cast against a buffer of inverse depth.

Inverse depth is used because a plane's is linear in pixel coordinates: a convex body costs one addition per face.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .noise import tile
from .scene import Camera
from .shapes import CYLINDER, HULL, LEAFY

F32 = np.float32
Floats = NDArray[np.floating[Any]]
Hit = tuple[Floats, NDArray[np.bool_]]
NEAR = 0.15
_CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)


@dataclass(frozen=True)
class Cast:
    """`inverse` (H, W) float32 1/metres along the optical axis (0 = nothing), `which` (H, W) int32 row or -1."""

    inverse: NDArray[np.float32]
    which: NDArray[np.int32]


@dataclass(frozen=True)
class _Prepared:
    """Per visible row: its window in pixels, and its shape in camera axes."""

    order: NDArray[np.int64]
    window: NDArray[np.int64]
    axes: NDArray[np.float64]
    offset: NDArray[np.float64]
    nearest: NDArray[np.float64]
    spread: NDArray[np.float64]


def _prepare(rows: NDArray[np.float64], camera: Camera) -> _Prepared:
    cos, sin, zero = np.cos(rows[:, 3]), np.sin(rows[:, 3]), np.zeros(len(rows))
    one = np.ones(len(rows))
    world = np.stack([np.stack([cos, zero, -sin], 1), np.stack([zero, one, zero], 1), np.stack([sin, zero, cos], 1)], 2)
    axes = camera.turn @ world
    centre = (rows[:, :3] - camera.position) @ camera.turn.T
    corners = centre[:, None] + np.einsum("mij,mkj->mki", axes, _CORNERS * rows[:, None, 4:7])
    z = corners[..., 2]
    clipped = np.maximum(z, NEAR)
    px = corners[..., 0] / clipped * camera.focal + camera.width / 2
    py = camera.height / 2 - corners[..., 1] / clipped * camera.focal
    low_x, high_x = np.floor(px.min(1)), np.ceil(px.max(1))
    low_y, high_y = np.floor(py.min(1)), np.ceil(py.max(1))
    window = np.stack([low_y.clip(0, camera.height), high_y.clip(0, camera.height), low_x.clip(0, camera.width),
                       high_x.clip(0, camera.width)], 1).astype(np.int64)  # fmt: skip
    seen = (z.max(1) > NEAR) & (window[:, 1] > window[:, 0]) & (window[:, 3] > window[:, 2])
    seen &= (high_x - low_x) * (high_y - low_y) > 8.0
    seen &= centre[:, 2] < 190.0
    nearest = np.maximum(z.min(1), NEAR)
    index = np.flatnonzero(seen)
    index = index[np.argsort(nearest[index], kind="stable")]
    offset = -np.einsum("mij,mi->mj", axes, centre)
    spread = np.stack([(low_y + high_y) / 2, (low_x + high_x) / 2, centre[:, 2]], 1)
    return _Prepared(index, window, axes, offset, nearest, spread)


def _faces(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Outward normals (M, 6, 3) and offsets (M, 6) of hulls in local axes: +x -x +y -y +z -z."""
    m = len(rows)
    hx, hy, hz, tx, front, back = rows[:, 4:10].T
    normals = np.zeros((m, 6, 3))
    offsets = np.ones((m, 6))
    normals[:, 0, 0], normals[:, 1, 0] = 1 / hx, -1 / hx
    normals[:, 0, 1] = normals[:, 1, 1] = tx / (2 * hy)
    offsets[:, 0] = offsets[:, 1] = 1 - tx / 2
    normals[:, 2, 1], normals[:, 3, 1] = 1 / hy, -1 / hy
    normals[:, 4, 2], normals[:, 5, 2] = 1 / hz, -1 / hz
    normals[:, 4, 1], normals[:, 5, 1] = front / (2 * hy), back / (2 * hy)
    offsets[:, 4], offsets[:, 5] = 1 - front / 2, 1 - back / 2
    return normals, offsets


def cast(rows: NDArray[np.float64], camera: Camera, inverse: NDArray[np.float32], which: NDArray[np.int32]) -> Cast:
    """Draw `rows` over a background of `inverse` depth (written in place, as is `which`)."""
    ready = _prepare(rows, camera)
    u, v = camera.rays()
    u32, v32 = u.astype(F32), v.astype(F32)[:, None]
    v64 = v[:, None]
    normals, offsets = _faces(rows)
    gap = np.einsum("mfi,mi->mf", normals, ready.offset) - offsets
    gap[np.abs(gap) < 1e-6] = 1e-6
    planes = -np.einsum("mij,mfj->mfi", ready.axes, normals) / gap[..., None]
    outside = gap > 0
    inverse_half = 1.0 / rows[:, 4:7]
    scaled = ready.axes.transpose(0, 2, 1) * inverse_half[..., None]
    origin = ready.offset * inverse_half
    kinds = rows[:, 10].astype(np.int64)
    leaf = tile("leaf")
    for m in ready.order.tolist():
        y0, y1, x0, x1 = ready.window[m].tolist()
        depth = inverse[y0:y1, x0:x1]
        if depth.min() > 1.0 / ready.nearest[m]:
            continue
        found: Hit | None
        if kinds[m] == HULL:
            found = _hull(planes[m], outside[m], u32[x0:x1], v32[y0:y1])
        else:
            found = _quadric(scaled[m], origin[m], int(kinds[m]), u[x0:x1], v64[y0:y1])
        if found is None:
            continue
        near, hit = found
        if kinds[m] == LEAFY:
            near, hit = _ragged(
                near, hit, leaf, ready.spread[m], (y0, y1, x0, x1), camera.focal, int(rows[m, 16] * 509)
            )
        hit &= near > depth
        np.copyto(depth, near, where=hit, casting="same_kind")
        np.copyto(which[y0:y1, x0:x1], m, where=hit)
    return Cast(inverse, which)


def _hull(planes: NDArray[np.float64], outside: NDArray[np.bool_], u: Floats, v: Floats) -> Hit | None:
    """Inverse depth of entry, and where the ray enters before it leaves."""
    near: Floats | None = None
    far: Floats | None = None
    for (a, b, c), front in zip(planes.tolist(), outside.tolist(), strict=True):
        plane = (F32(a) * u + F32(c)) + F32(b) * v
        if front:
            near = plane if near is None else np.minimum(near, plane, out=near)
        else:
            far = plane if far is None else np.maximum(far, plane, out=far)
    if near is None or far is None:
        return None
    return near, near > np.maximum(far, 0, out=far)


def _quadric(scaled: NDArray[np.float64], origin: NDArray[np.float64], kind: int, u: Floats, v: Floats) -> Hit | None:
    turn, start = scaled, origin
    if kind == CYLINDER:
        turn, start = scaled[[0, 2]], origin[[0, 2]]
    inside = float(start @ start) - 1.0
    if inside <= 0.0:
        return None
    b = turn.T @ start
    q = np.outer(b, b) - inside * (turn.T @ turn)
    disc = (q[0, 0] * u * u + 2 * q[0, 2] * u + q[2, 2]) + (q[1, 1] * v * v + 2 * q[1, 2] * v) + (2 * q[0, 1] * u) * v
    hit = disc > 0
    near = (np.sqrt(np.maximum(disc, 0.0)) - (b[0] * u + b[2]) - b[1] * v) / inside
    hit &= near > 0
    if kind == CYLINDER:
        up = scaled[1]
        level = origin[1] * near + (up[0] * u + up[2]) + up[1] * v
        hit &= np.abs(level) <= near
    return near, hit


def _ragged(
    near: Floats, hit: NDArray[np.bool_], leaf: NDArray[np.float32], spread: NDArray[np.float64],
    window: tuple[int, int, int, int], focal: float, salt: int,
) -> Hit:  # fmt: skip
    """Foliage: texture locked to the crown's middle eats its rim and gives the leaves depth."""
    y0, y1, x0, x1 = window
    step = spread[2] / focal * 26.0
    iy = ((np.arange(y0, y1) - spread[0]) * step + salt).astype(np.int64) & 511
    ix = ((np.arange(x0, x1) - spread[1]) * step + salt * 7).astype(np.int64) & 511
    texture = leaf[iy[:, None], ix]
    back = 1.0 / max(spread[2], 0.5)
    lift = (near - back) / max(1e-9, near.max() - back)
    return near * (1.0 + 0.012 * texture), hit & (lift > 0.30 * texture - 0.14)
