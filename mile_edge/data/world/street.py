"""The plan of one endless street: its curve, widths and blocks, each made from the seed and the block's number."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import buildings, shapes
from .shapes import Pose, Row

WALK_HEIGHT = 0.14
LOT_WALK, LOT_GRASS, LOT_YARD = 0, 1, 2


def stream(*keys: int) -> Random:
    """A random stream of its own for these integers."""
    mixed = 0x51ED2701
    for key in keys:
        mixed = ((mixed ^ (key & 0xFFFFFFFF)) * 0x9E3779B97F4A7C15 + 0x7F4A7C15) & 0xFFFFFFFFFFFFFFFF
        mixed ^= mixed >> 29
    return Random(mixed)


@dataclass(frozen=True)
class Walker:
    """A pedestrian's path: walks `span` metres back and forth from (x, z) along z, or across the road."""

    seed: int
    x: float
    z: float
    span: float
    speed: float
    phase: float
    crossing: bool


@dataclass(frozen=True)
class Block:
    """One block between two cross streets; lengths in metres, x relative to the street's axis."""

    rows: NDArray[np.float64]
    walkers: tuple[Walker, ...]
    lamps: tuple[tuple[float, float, float], ...]
    start: float
    cross: float
    lots: tuple[int, int]
    crosswalk: bool


@dataclass(frozen=True)
class Street:
    """The constants of one street, drawn from its seed."""

    seed: int
    lanes: int
    lane_width: float
    parking: tuple[bool, bool]
    walk_width: tuple[float, float]
    block_length: float
    bend: tuple[float, float, float]
    style: str
    speed: float
    eye_height: float
    eye_pitch: float
    focal: float
    on_walk: bool
    lamp_colour: tuple[float, float, float]
    marking: int
    tint: tuple[float, float, float] = field(default=(1.0, 1.0, 1.0))

    @staticmethod
    def make(seed: int) -> Street:
        """The street of this seed."""
        rng = stream(seed, 1)
        road = rng.uniform(0.85, 1.15)
        warm = rng.uniform(-0.05, 0.05)
        walk = rng.uniform(1.8, 4.2)
        on_walk = walk > 2.4 and rng.random() < 0.25
        return Street(
            seed=seed,
            lanes=rng.choice((1, 1, 1, 2)),
            lane_width=rng.uniform(2.9, 3.6),
            parking=(rng.random() < 0.7, rng.random() < 0.7),
            walk_width=(rng.uniform(1.8, 4.2), walk),
            block_length=rng.uniform(46.0, 84.0),
            bend=(rng.choice((0.0, 1.0, 1.0)) * rng.uniform(1.5, 8.0), rng.uniform(160.0, 300.0), rng.uniform(0, 6.28)),
            style=rng.choice(buildings.STYLES),
            speed=rng.uniform(2.0, 3.5) if on_walk else rng.uniform(5.0, 11.0),
            eye_height=rng.uniform(0.75, 1.4)
            if on_walk
            else rng.choice((rng.uniform(1.15, 1.6), rng.uniform(1.5, 2.4))),
            on_walk=on_walk,
            eye_pitch=rng.uniform(-0.11, 0.03),
            focal=rng.uniform(0.72, 1.05),
            lamp_colour=rng.choice(((1.0, 0.62, 0.25), (1.0, 0.78, 0.5), (0.88, 0.95, 1.0))),
            marking=rng.randrange(3),
            tint=(road * (1 + warm), road, road * (1 - warm)),
        )

    def half(self, side: int) -> float:
        """Metres from the axis to the kerb of a side (0 left, 1 right)."""
        return self.lanes * self.lane_width + (2.15 if self.parking[side] else 0.25)

    def shift(self, z: Any) -> Any:
        """How far the axis lies to the right at z, metres; floats and arrays alike."""
        a, length, phase = self.bend
        return a * np.sin(z * (2 * math.pi / length) + phase)

    def slope(self, z: float) -> float:
        """The axis's heading at z, radians towards +x."""
        a, length, phase = self.bend
        return math.atan(a * 2 * math.pi / length * math.cos(z * (2 * math.pi / length) + phase))

    def pose(self, x: float, z: float, yaw: float = 0.0, y: float = 0.0) -> Pose:
        """A pose given relative to the street's axis."""
        return Pose(x + float(self.shift(z)), z, yaw + self.slope(z), y)

    def block_at(self, z: float) -> int:
        """The number of the block that holds z."""
        return math.floor((z + 70.0) / self.block_length)

    def block(self, index: int) -> Block:
        """Block number `index`, always the same."""
        return _block(self, index)


@lru_cache(maxsize=64)
def _block(street: Street, index: int) -> Block:
    rng = stream(street.seed, 2, index)
    start = index * street.block_length - 70.0
    cross = rng.uniform(7.0, 12.0) if rng.random() < 0.72 else 0.0
    style = street.style if rng.random() < 0.7 else rng.choice(buildings.STYLES)
    rows: list[Row] = []
    lots = []
    for side in (0, 1):
        lot = {"suburb": LOT_GRASS, "park": LOT_GRASS, "works": LOT_YARD}.get(style, LOT_WALK)
        lots.append(lot if rng.random() < 0.85 else LOT_GRASS)
        rows += _frontage(street, rng, side, start + cross, start + street.block_length, style, cross > 0.0)
    lamps: list[tuple[float, float, float]] = []
    rows += _furniture(street, rng, start + cross, start + street.block_length, style, lamps, cross > 0.0)
    rows += _parked(street, rng, start + cross + 6.0, start + street.block_length - 6.0)
    walkers = _walkers(street, rng, start, cross, style)
    return Block(np.array(rows, np.float64).reshape(-1, len(Row._fields)), tuple(walkers), tuple(lamps), start, cross,
                 (lots[0], lots[1]), cross > 0.0 and rng.random() < 0.8)  # fmt: skip


def _frontage(street: Street, rng: Random, side: int, low: float, high: float, style: str, corner: bool) -> list[Row]:
    """Buildings, gardens and gaps of one side between two z."""
    sign = 1 if side else -1
    kerb = street.half(side) + street.walk_width[side]
    setback = {"urban": 0.0, "downtown": 0.5, "suburb": 4.5, "works": 3.0, "park": 6.0}[style] * rng.uniform(0.7, 1.4)
    gap = {"urban": 0.12, "downtown": 0.15, "suburb": 0.5, "works": 0.5, "park": 0.75}[style]
    rows: list[Row] = []
    z = low + (2.0 if corner else 0.0)
    while z < high - 5.0:
        width = min(rng.uniform(7.0, 20.0), high - z)
        if rng.random() < gap * 0.6:
            rows += _garden(street, rng, sign, kerb, z, z + width)
        else:
            depth = rng.uniform(9.0, 15.0)
            away = kerb + setback + rng.choice((0.0, 0.0, 0.6, 1.2))
            at = street.pose(sign * (away + depth / 2), z + width / 2)
            rows += buildings.building(
                rng, at, width - (0.05 if gap < 0.3 else rng.uniform(1.0, 4.0)), depth, style, sign
            )
            if setback > 1.5:
                rows += _front_garden(street, rng, sign, kerb, z, z + width, setback)
        z += width
    for _ in range(2):
        at = street.pose(sign * (kerb + rng.uniform(32.0, 55.0)), rng.uniform(low, high))
        rows += buildings.building(
            rng, at, rng.uniform(14.0, 26.0), 12.0, "urban" if style != "downtown" else style, sign
        )
    return rows


def _garden(street: Street, rng: Random, sign: int, kerb: float, low: float, high: float) -> list[Row]:
    rows: list[Row] = []
    for _ in range(rng.randint(1, 4)):
        rows += shapes.tree(rng, street.pose(sign * (kerb + rng.uniform(1.5, 12.0)), rng.uniform(low, high)))
    for _ in range(rng.randint(0, 3)):
        rows += shapes.bush(rng, street.pose(sign * (kerb + rng.uniform(0.8, 6.0)), rng.uniform(low, high)))
    border = street.pose(sign * (kerb + 0.45), (low + high) / 2)
    choice = rng.random()
    if choice < 0.4:
        rows += shapes.hedge(rng, border, high - low - 0.8)
    elif choice < 0.65:
        rows += buildings.fence(rng, border, high - low)
    return rows


def _front_garden(
    street: Street, rng: Random, sign: int, kerb: float, low: float, high: float, setback: float
) -> list[Row]:
    rows: list[Row] = []
    choice = rng.random()
    if choice < 0.35:
        rows += shapes.hedge(rng, street.pose(sign * (kerb + 0.5), (low + high) / 2), high - low - 2.0)
    elif choice < 0.5:
        rows += buildings.fence(rng, street.pose(sign * (kerb + 0.4), (low + high) / 2), high - low - 1.0)
    for _ in range(rng.randint(0, 2)):
        rows += shapes.bush(rng, street.pose(sign * (kerb + rng.uniform(0.8, setback)), rng.uniform(low, high)))
    if setback > 3.0 and rng.random() < 0.45:
        rows += shapes.tree(rng, street.pose(sign * (kerb + rng.uniform(1.4, setback)), rng.uniform(low, high)))
    return rows


def _furniture(
    street: Street, rng: Random, low: float, high: float, style: str,
    lamps: list[tuple[float, float, float]], corner: bool,
) -> list[Row]:  # fmt: skip
    """Lamps, street trees, signs, signals and bollards on both pavements."""
    rows: list[Row] = []
    height, pitch = rng.uniform(5.0, 8.0), rng.uniform(19.0, 28.0)
    both = rng.random() < 0.6
    planted = (rng.random() < 0.55, rng.random() < 0.55)
    for side, sign in ((0, -1), (1, 1)):
        edge = street.half(side) + 0.45
        z = low + 3.0 + (pitch / 2 if side else 0.0)
        while z < high and (both or side == 1):
            rows += shapes.lamp(rng, street.pose(sign * edge, z), height, -sign)
            lamps.append((sign * (edge - 1.6), z, height))
            z += pitch
        if planted[side] and street.walk_width[side] > 2.4:
            z, step = low + rng.uniform(5.0, 9.0), rng.uniform(8.0, 13.0)
            while z < high - 2.0:
                rows += shapes.tree(rng, street.pose(sign * (edge + 0.25), z))
                z += step
        for _ in range(rng.randint(0, 2)):
            rows += shapes.sign(rng, street.pose(sign * edge, rng.uniform(low + 1.0, high - 1.0)))
        if rng.random() < 0.2:
            rows += buildings.bollards(rng, street.pose(sign * (edge - 0.15), (low + high) / 2), rng.uniform(8.0, 20.0))
        if corner and rng.random() < 0.75:
            rows += shapes.signal(rng, street.pose(sign * edge, low + rng.uniform(0.4, 1.4)))
    return rows


def _parked(street: Street, rng: Random, low: float, high: float) -> list[Row]:
    rows: list[Row] = []
    for side, sign in ((0, -1), (1, 1)):
        if not street.parking[side]:
            continue
        crowd, z = rng.choice((0.25, 0.55, 0.8)), low
        while z < high:
            if rng.random() < crowd:
                x = sign * (street.half(side) - 1.08 + rng.uniform(-0.12, 0.12))
                turn = (0.0 if side else math.pi) + rng.uniform(-0.03, 0.03)
                rows += shapes.car(rng, street.pose(x, z, turn), driving=False)
            z += rng.uniform(5.6, 6.8)
    return rows


def _walkers(street: Street, rng: Random, start: float, cross: float, style: str) -> list[Walker]:
    crowd = {"urban": 14, "downtown": 18, "suburb": 8, "works": 6, "park": 9}[style]
    people = []
    for _ in range(rng.randint(crowd // 2, crowd)):
        side = rng.randrange(2)
        x = (1 if side else -1) * (street.half(side) + rng.uniform(0.6, street.walk_width[side] - 0.3))
        people.append(Walker(rng.randrange(1 << 30), x, rng.uniform(start + cross, start + street.block_length),
                             rng.uniform(3.0, 12.0), rng.uniform(0.7, 1.5), rng.uniform(0, 40.0), False))  # fmt: skip
    if rng.random() < 0.65:
        for _ in range(rng.randint(1, 4)):
            z = start + cross + rng.uniform(0.6, 2.4) if cross else start + rng.uniform(20.0, 40.0)
            people.append(
                Walker(rng.randrange(1 << 30), 0.0, z, 0.0, rng.uniform(0.9, 1.5), rng.uniform(0, 40.0), True)
            )
    return people
