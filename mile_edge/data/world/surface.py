"""The visible surfaces of a scene: where every pixel's point lies, which way it faces and what it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import classes
from .ground import Plan, cast_ground
from .raycast import F32, cast
from .scene import Scene
from .shapes import CYLINDER, HULL, M_FAR, M_GRASS, M_KERB, M_ROAD, M_SKY, M_WALK

_GROUND_LABEL = np.zeros(32, np.uint8)
_GROUND_LABEL[[M_SKY, M_ROAD, M_WALK, M_KERB, M_GRASS, M_FAR]] = [
    classes.SKY, classes.ROAD, classes.SIDEWALK, classes.SIDEWALK, classes.VEGETATION, classes.VEGETATION,
]  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """The scene's rows as columns, `table` (18, M), and which of them each of K pixels shows, (K,)."""

    table: NDArray[np.float32]
    which: NDArray[np.int32]

    def column(self, index: int) -> NDArray[np.float32]:
        """One column's value at every pixel, (K,)."""
        return self.table[index].take(self.which)

    def pick(self, at: NDArray[np.int64]) -> Shown:
        """The same for some of the pixels."""
        return Shown(self.table, self.which.take(at))


@dataclass(frozen=True)
class Surface:
    """Arrays over the N = H * W pixels, all read-only by agreement; metres in world axes.

    (N, 3) arrays are transposed views of planes: take columns, not rows.

    `depth` is along the optical axis (inf = sky), `reach` along the ray; `body` holds the pixels that show a body,
    `shown` the row each of them shows and `local` (len(body), 3) the point in that row's axes.
    """

    scene: Scene
    plan: Plan
    depth: NDArray[np.float32]
    reach: NDArray[np.float32]
    ray: NDArray[np.float32]
    point: NDArray[np.float32]
    normal: NDArray[np.float32]
    lateral: NDArray[np.float32]
    material: NDArray[np.uint8]
    label: NDArray[np.uint8]
    body: NDArray[np.int64]
    shown: Shown
    local: NDArray[np.float32]
    side: NDArray[np.uint8]

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.scene.camera.height, self.scene.camera.width


def visible(scene: Scene) -> Surface:
    """Cast the scene and work out every pixel's surface."""
    camera = scene.camera
    ground = cast_ground(scene)
    seen = cast(scene.rows, camera, ground.inverse, np.full(ground.inverse.shape, -1, np.int32))
    u, v = (a.astype(F32) for a in camera.rays())
    turn = camera.turn.astype(F32)
    planes = np.empty((3, len(v), len(u)), F32)
    for axis in range(3):
        np.add((u * turn[0, axis] + turn[2, axis])[None], (v * turn[1, axis])[:, None], out=planes[axis])
    ray = planes.reshape(3, -1)
    inverse = seen.inverse.ravel()
    with np.errstate(divide="ignore"):
        depth = 1.0 / inverse
    stretch = np.sqrt((u * u)[None] + (v * v)[:, None] + 1.0).ravel()
    reach = depth * stretch
    finite = np.minimum(depth, F32(1e4))
    point = ray * finite + camera.position.astype(F32)[:, None]
    material = ground.material.ravel()
    label = _GROUND_LABEL[material]
    normal = np.zeros_like(point)
    normal[1] = 1.0
    which = seen.which.ravel()
    body = np.flatnonzero(which >= 0)
    which = which[body]
    shown = Shown(np.ascontiguousarray(scene.rows.astype(F32).T), which)
    material[body] = shown.column(11)
    label[body] = shown.column(12)
    local, side, facing = _local(shown, point.take(body, 1))
    normal[:, body] = facing
    lateral = point[0] - np.asarray(scene.street.shift(point[2]), F32)
    ray /= stretch
    return Surface(scene, ground.plan, depth, reach, ray.T, point.T, normal.T, lateral, material, label, body, shown,
                   local.T, side)  # fmt: skip


def _local(
    shown: Shown, point: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32]]:
    """Local points (3, K) in metres, the axis each hull face looks along (0, 1, 2) and world normals (3, K)."""
    cos, sin = (f(shown.table[3]).take(shown.which) for f in (np.cos, np.sin))
    dx, dy, dz = (point[k] - shown.column(k) for k in range(3))
    lx, ly, lz = cos * dx - sin * dz, dy, sin * dx + cos * dz
    hx, hy, hz, taper_x, kind = (shown.column(k) for k in (4, 5, 6, 7, 10))
    hull = kind == HULL
    share = (1.0 + ly / hy) * 0.5
    taper_z = np.where(lz > 0, shown.column(8), shown.column(9))
    wx = np.abs(lx) / (hx * np.maximum(1.0 - taper_x * share, 0.02))
    wz = np.abs(lz) / (hz * np.maximum(1.0 - taper_z * share, 0.02))
    wy = np.abs(ly) / hy
    side = np.where(wy >= np.maximum(wx, wz) - 2e-3, 1, np.where(wx > wz, 0, 2)).astype(np.uint8)
    flank = hull & (wy < 0.995) & (side == 1)
    side[flank] = np.where(wx > wz, 0, 2)[flank]
    lean_x = taper_x * hx / (2.0 * hy)
    lean_z = taper_z * hz / (2.0 * hy)
    nx = np.where(hull, np.where(side == 0, np.sign(lx), 0.0), lx / (hx * hx))
    nz = np.where(hull, np.where(side == 2, np.sign(lz), 0.0), lz / (hz * hz))
    lean = np.where(side == 0, lean_x, np.where(side == 2, lean_z, np.sign(ly)))
    ny = np.where(hull, lean, np.where(kind == CYLINDER, 0.0, ly / (hy * hy)))
    length = np.sqrt(nx * nx + ny * ny + nz * nz) + F32(1e-9)
    nx, ny, nz = nx / length, ny / length, nz / length
    normal = np.stack([cos * nx + sin * nz, ny, cos * nz - sin * nx]).astype(F32)
    return np.stack([lx, ly, lz]).astype(F32), side, normal
