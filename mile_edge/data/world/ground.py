"""The ground: carriageway, kerb, pavements, lots and cross streets, and the skyline where it ends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .noise import sample
from .scene import Scene
from .shapes import M_FAR, M_GRASS, M_KERB, M_ROAD, M_SKY, M_WALK
from .street import LOT_GRASS, LOT_YARD, WALK_HEIGHT

F32 = np.float32
_STEP = 0.1
_SIGHT = 420.0


@dataclass(frozen=True)
class Plan:
    """Per 0.1 m of z from `origin`: is it a cross street, a crosswalk, and the kind of lot on each side."""

    origin: float
    cross: NDArray[np.bool_]
    stripes: NDArray[np.bool_]
    lots: NDArray[np.uint8]
    corner: NDArray[np.float32]

    @staticmethod
    def make(scene: Scene) -> Plan:
        """The plan of the blocks in a scene."""
        street, blocks = scene.street, scene.blocks
        origin = blocks[0].start
        cells = int(len(blocks) * street.block_length / _STEP) + 1
        cross, stripes = np.zeros(cells, bool), np.zeros(cells, bool)
        lots = np.zeros((2, cells), np.uint8)
        for block in blocks:
            low = round((block.start - origin) / _STEP)
            high = round((block.start + street.block_length - origin) / _STEP)
            end = round((block.start + block.cross - origin) / _STEP)
            cross[low:end] = True
            lots[0, low:high], lots[1, low:high] = block.lots
            if block.crosswalk:
                stripes[end + 5 : end + 32] = True
        corner = np.full(cells, 1e3, F32)
        edges = np.flatnonzero(np.diff(cross.astype(np.int8)))
        at = np.arange(cells)
        for edge in edges:
            corner = np.minimum(corner, np.abs(at - edge) * F32(_STEP))
        return Plan(origin, cross, stripes, lots, corner.astype(F32))

    def cell(self, z: NDArray[np.float32]) -> NDArray[np.int32]:
        """Index into the plan for each z, clamped to its ends."""
        return np.clip((z - F32(self.origin)) * F32(1 / _STEP), 0, len(self.cross) - 1).astype(np.int32)


@dataclass(frozen=True)
class Ground:
    """(H, W) arrays: inverse depth, material, and metres right of the street's axis (`lateral`)."""

    inverse: NDArray[np.float32]
    material: NDArray[np.uint8]
    plan: Plan


def cast_ground(scene: Scene) -> Ground:
    """The picture without any body in it: ground below the horizon, sky and a far skyline above."""
    camera = scene.camera
    plan = Plan.make(scene)
    u, v = (a.astype(F32) for a in camera.rays())
    turn = camera.turn.astype(F32)
    down = -((turn[0, 1] * u + turn[2, 1])[None] + (turn[1, 1] * v)[:, None])
    eye = float(camera.position[1])
    low = down / F32(eye)
    high = down / F32(eye - WALK_HEIGHT)
    below = low > 1.0 / _SIGHT
    safe = np.maximum(low, F32(1.0 / _SIGHT))
    off_low = _off_road(scene, plan, safe, u, v)
    off_high = _off_road(scene, plan, np.maximum(high, F32(1.0 / _SIGHT)), u, v)
    material = np.full(low.shape, M_ROAD, np.uint8)
    material[off_low > 0] = M_KERB
    raised = off_high > 0
    material[raised] = np.array([M_ROAD, M_WALK, M_GRASS], np.uint8)[off_high[raised]]
    inverse = np.where(raised, high, low)
    material[~below] = M_SKY
    inverse[~below] = 0.0
    skyline = _skyline(scene, u, v)
    far = ~below & (-down < skyline)
    material[far] = M_FAR
    inverse[far] = 1.0 / 380.0
    return Ground(inverse, material, plan)


def _off_road(
    scene: Scene, plan: Plan, inverse: NDArray[np.float32], u: NDArray[np.float32], v: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """0 where a plane's point lies on a carriageway, 1 on a pavement, 2 on a planted lot."""
    street, camera = scene.street, scene.camera
    turn, eye = camera.turn.astype(F32), camera.position
    depth = 1.0 / inverse
    x = ((turn[0, 0] * u + turn[2, 0])[None] + (turn[1, 0] * v)[:, None]) * depth + F32(eye[0])
    z = ((turn[0, 2] * u + turn[2, 2])[None] + (turn[1, 2] * v)[:, None]) * depth + F32(eye[2])
    lateral = x - street.shift(z)
    cell = plan.cell(z)
    left, right = F32(street.half(0)), F32(street.half(1))
    over = np.where(lateral > 0, lateral - right, -lateral - left)
    walk = np.where(lateral > 0, F32(street.walk_width[1]), F32(street.walk_width[0]))
    lot = np.where(lateral > 0, plan.lots[1][cell], plan.lots[0][cell])
    out = ((over > 0) & ~plan.cross[cell]).astype(np.uint8)
    planted = (lot == LOT_GRASS) & (over > walk) & (plan.corner[cell] > 1.8)
    yard = (lot == LOT_YARD) & (over > walk + 0.2) & (sample("blotch", x, z, 4.0) > 1.1)
    out[(out > 0) & (planted | yard)] = 2
    return out


def _skyline(scene: Scene, u: NDArray[np.float32], v: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far above the horizon (as a slope) distant trees and hills reach, per pixel column."""
    turn = scene.camera.turn
    azimuth = np.arctan2(turn[0, 0] * u + turn[2, 0], turn[0, 2] * u + turn[2, 2]).astype(F32)
    seed = np.full_like(azimuth, (scene.street.seed % 97) * 5.0)
    bumps = 0.6 * sample("blotch", azimuth, seed, 260.0) + 0.4 * sample("cloud", azimuth, seed, 800.0)
    return np.maximum(0.006, 0.022 + 0.010 * bumps).astype(F32)[None]
