"""What stands in front of the camera at a moment: the camera itself, the blocks in sight, traffic and pedestrians."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import shapes
from .shapes import Row
from .street import WALK_HEIGHT, Block, Street, Walker, stream

SIGHT = 150.0
"""Metres ahead within which bodies are drawn."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: position in metres, `turn` (3, 3) float64 world to camera (x right, y up, z forward)."""

    position: NDArray[np.float64]
    turn: NDArray[np.float64]
    focal: float
    height: int
    width: int

    def rays(self) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
        """u (W,) and v (H,): the ray of pixel (r, c) is (u[c], v[r], 1) in camera axes."""
        u = (np.arange(self.width) + 0.5 - self.width / 2) / self.focal
        v = -(np.arange(self.height) + 0.5 - self.height / 2) / self.focal
        return u, v


@dataclass(frozen=True)
class Scene:
    """Everything one picture is made of; `moving` marks the rows after the static ones."""

    street: Street
    camera: Camera
    blocks: tuple[Block, ...]
    first_block: int
    rows: NDArray[np.float64]
    moving: int
    time: float


def camera_at(street: Street, t: float, size: tuple[int, int]) -> Camera:
    """The moving camera at t seconds: it keeps its lane, sways and follows the street's curve."""
    height, width = size
    rng = stream(street.seed, 3)
    lane = (rng.randrange(street.lanes) + 0.5) * street.lane_width + rng.uniform(-0.3, 0.3)
    if street.on_walk:
        lane = street.half(1) + 0.62 * street.walk_width[1]
    phase = rng.uniform(0.0, 6.28)
    z = street.speed * t
    x = lane + (0.12 if street.on_walk else 0.35) * math.sin(0.23 * t + phase) + float(street.shift(z))
    y = street.eye_height + (WALK_HEIGHT if street.on_walk else 0.0) + 0.03 * math.sin(5.1 * t + phase)
    yaw = street.slope(z + 6.0) + 0.05 * math.sin(0.41 * t + phase) + 0.03 * math.sin(1.3 * t)
    pitch = street.eye_pitch + 0.012 * math.sin(1.7 * t + phase) + 0.006 * math.sin(4.3 * t)
    roll = 0.012 * math.sin(0.9 * t + phase)
    cy, sy, cp, sp, cr, sr = (f(a) for a in (yaw, pitch, roll) for f in (math.cos, math.sin))
    forward = np.array([sy * cp, sp, cy * cp])
    right = np.array([cy, 0.0, -sy])
    up = np.cross(forward, right)
    turn = np.stack([cr * right + sr * up, cr * up - sr * right, forward])
    return Camera(np.array([x, y, z]), turn, street.focal * width, height, width)


def compose(street: Street, t: float, size: tuple[int, int]) -> Scene:
    """The scene at t seconds."""
    camera = camera_at(street, t, size)
    z = float(camera.position[2])
    first, last = street.block_at(z - 8.0), street.block_at(z + SIGHT)
    blocks = tuple(street.block(k) for k in range(first, last + 1))
    static = np.concatenate([b.rows for b in blocks])
    away = np.hypot(static[:, 0] - camera.position[0], static[:, 2] - z)
    static = static[(static[:, 10] != shapes.LEAFY) | (away > static[:, 4] + 0.8)]
    moving = _traffic(street, t, z) + [r for b in blocks for w in b.walkers for r in _walk(street, w, t, z)]
    rows = np.concatenate([static, np.array(moving, np.float64).reshape(-1, static.shape[1])])
    return Scene(street, camera, blocks, first, rows, len(static), t)


def _traffic(street: Street, t: float, here: float) -> list[Row]:
    """Cars ahead in our lanes keep their distance; oncoming ones pass; some wait in the cross streets."""
    rng = stream(street.seed, 4)
    rows: list[Row] = []
    loop = 170.0
    for lane in range(street.lanes):
        x = (lane + 0.5) * street.lane_width
        for _ in range(rng.randint(0, 3)):
            body, gap = rng.randrange(1 << 30), rng.uniform(9.0, 90.0)
            ahead = gap + 5.0 * math.sin(t * rng.uniform(0.1, 0.3) + rng.uniform(0, 6.28))
            rows += shapes.car(stream(body), street.pose(x, here + max(8.0, ahead)), True)
        for _ in range(rng.randint(0, 4)):
            body, speed, start = rng.randrange(1 << 30), rng.uniform(6.0, 12.0), rng.uniform(0.0, loop)
            lap, ahead = divmod(start - (speed + street.speed) * t, loop)
            rows += shapes.car(stream(body, int(lap) & 0xFFFF), street.pose(-x, here + ahead - 12.0, math.pi), True)
    first = street.block_at(here - 5.0)
    for index in range(first, first + 4):
        block = street.block(index)
        rng = stream(street.seed, 5, index)
        if block.cross == 0.0 or rng.random() < 0.45:
            continue
        sign = rng.choice((-1, 1))
        z = block.start + block.cross * (0.3 if sign > 0 else 0.7)
        x = sign * (street.half(0 if sign < 0 else 1) + rng.uniform(3.0, 14.0))
        rows += shapes.car(rng, street.pose(x, z, -sign * math.pi / 2), True)
    return rows


def _walk(street: Street, walker: Walker, t: float, here: float) -> list[Row]:
    way = walker.speed * (t + walker.phase)
    rng = stream(walker.seed)
    stride = math.sin(way * 4.2)
    if walker.crossing:
        wide = street.half(0) + street.half(1) + 6.0
        lap = way % (2.0 * wide)
        x = (lap if lap < wide else 2.0 * wide - lap) - street.half(0) - 3.0
        if walker.z - here < 5.0:
            return []
        kerb = street.half(1 if x > 0 else 0)
        yaw = math.pi / 2 if lap < wide else -math.pi / 2
        pose = street.pose(x, walker.z, yaw, WALK_HEIGHT if abs(x) > kerb else 0.0)
    else:
        lap = way % (2.0 * walker.span)
        z = walker.z + (lap if lap < walker.span else 2.0 * walker.span - lap)
        if street.on_walk and walker.x > 0.0 and abs(z - here) < 2.2:
            return []
        pose = street.pose(walker.x, z, 0.0 if lap < walker.span else math.pi, WALK_HEIGHT)
    return shapes.person(rng, pose, stride)
