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
class Surface:
    """Arrays over the N = H * W pixels, all read-only by agreement; metres in world axes.

    `depth` is along the optical axis (inf = sky), `reach` along the ray; `body` holds the pixels that show a body,
    `which` the row each of them shows and `local` (len(body), 3) the point in that row's axes.
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
    which: NDArray[np.int32]
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
    ray = ((u[:, None] * turn[0] + turn[2])[None] + (v[:, None] * turn[1])[:, None]).reshape(-1, 3)
    inverse = seen.inverse.ravel()
    with np.errstate(divide="ignore"):
        depth = 1.0 / inverse
    stretch = np.sqrt((u * u)[None] + (v * v)[:, None] + 1.0).ravel()
    reach = depth * stretch
    finite = np.minimum(depth, F32(1e4))
    point = ray * finite[:, None] + camera.position.astype(F32)
    material = ground.material.ravel()
    label = _GROUND_LABEL[material]
    normal = np.zeros_like(point)
    normal[:, 1] = 1.0
    which = seen.which.ravel()
    body = np.flatnonzero(which >= 0)
    which = which[body]
    table = scene.rows.astype(F32)
    material[body] = table[which, 11].astype(np.uint8)
    label[body] = table[which, 12].astype(np.uint8)
    local, side, facing = _local(table[which], point[body])
    normal[body] = facing
    lateral = point[:, 0] - np.asarray(scene.street.shift(point[:, 2]), F32)
    ray /= stretch[:, None]
    return Surface(scene, ground.plan, depth, reach, ray, point, normal, lateral, material, label, body, which, local,
                   side)  # fmt: skip


def _local(
    rows: NDArray[np.float32], point: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32]]:
    """Local points in metres, the axis each hull face looks along (0, 1, 2) and world normals."""
    cos, sin = np.cos(rows[:, 3]), np.sin(rows[:, 3])
    dx, dy, dz = (point[:, k] - rows[:, k] for k in range(3))
    lx, ly, lz = cos * dx - sin * dz, dy, sin * dx + cos * dz
    half = rows[:, 4:7]
    hull = rows[:, 10] == HULL
    share = (1.0 + ly / half[:, 1]) * 0.5
    taper_z = np.where(lz > 0, rows[:, 8], rows[:, 9])
    wx = np.abs(lx) / (half[:, 0] * np.maximum(1.0 - rows[:, 7] * share, 0.02))
    wz = np.abs(lz) / (half[:, 2] * np.maximum(1.0 - taper_z * share, 0.02))
    wy = np.abs(ly) / half[:, 1]
    side = np.where(wy >= np.maximum(wx, wz) - 2e-3, 1, np.where(wx > wz, 0, 2)).astype(np.uint8)
    side[hull & (wy < 0.995) & (side == 1)] = np.where(wx > wz, 0, 2)[hull & (wy < 0.995) & (side == 1)]
    lean_x = rows[:, 7] * half[:, 0] / (2.0 * half[:, 1])
    lean_z = taper_z * half[:, 2] / (2.0 * half[:, 1])
    nx = np.where(hull, np.where(side == 0, np.sign(lx), 0.0), lx / half[:, 0] ** 2)
    nz = np.where(hull, np.where(side == 2, np.sign(lz), 0.0), lz / half[:, 2] ** 2)
    lean = np.where(side == 0, lean_x, np.where(side == 2, lean_z, np.sign(ly)))
    ny = np.where(hull, lean, np.where(rows[:, 10] == CYLINDER, 0.0, ly / half[:, 1] ** 2))
    length = np.sqrt(nx * nx + ny * ny + nz * nz) + F32(1e-9)
    nx, ny, nz = nx / length, ny / length, nz / length
    normal = np.stack([cos * nx + sin * nz, ny, -sin * nx + cos * nz], 1).astype(F32)
    return np.stack([lx, ly, lz], 1).astype(F32), side, normal
