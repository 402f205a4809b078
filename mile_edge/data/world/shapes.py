"""The bodies that stand in the street, each made of a few boxes, ellipsoids and cylinders.

A body is a list of `Row`s. Local axes: x to the right, y up, z forward; `yaw` turns z towards x.
"""

from __future__ import annotations

import math
from random import Random
from typing import NamedTuple

from . import classes

HULL, ELLIPSOID, CYLINDER, LEAFY = range(4)

(
    M_SKY, M_ROAD, M_WALK, M_KERB, M_GRASS, M_FACADE, M_ROOF, M_METAL, M_SIGN, M_LEAF, M_BARK, M_PAINT, M_CABIN,
    M_TYRE, M_SKIN, M_CLOTH, M_LAMP, M_FAR, M_PLAIN, M_SIGNAL, M_BUS,
) = range(21)  # fmt: skip

Colour = tuple[float, float, float]


class Row(NamedTuple):
    """One primitive: centre, half sizes and tapers in metres, linear colour, and what it is."""

    x: float
    y: float
    z: float
    yaw: float
    hx: float
    hy: float
    hz: float
    taper_x: float
    taper_front: float
    taper_back: float
    kind: int
    material: int
    label: int
    red: float
    green: float
    blue: float
    seed: float
    warmth: float


def row(
    kind: int, material: int, label: int, at: Colour, half: Colour, colour: Colour,
    yaw: float = 0.0, taper: Colour = (0.0, 0.0, 0.0), seed: float = 0.5, warmth: float = 0.0,
) -> Row:  # fmt: skip
    """A `Row` from grouped values; `warmth` is kelvin above the surroundings, `taper` the share lost at the top."""
    return Row(*at, yaw, *half, *taper, kind, material, label, *colour, seed, warmth)


class Pose(NamedTuple):
    """Where a body stands: metres, and radians about the vertical."""

    x: float
    z: float
    yaw: float
    y: float = 0.0

    def at(self, lx: float, y: float, lz: float) -> Colour:
        """World position of a local point."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        return self.x + c * lx + s * lz, self.y + y, self.z - s * lx + c * lz


_PAINTS: tuple[Colour, ...] = (
    (0.60, 0.61, 0.63), (0.72, 0.72, 0.70), (0.03, 0.03, 0.035), (0.16, 0.17, 0.18), (0.30, 0.31, 0.33),
    (0.35, 0.03, 0.03), (0.04, 0.09, 0.30), (0.03, 0.14, 0.09), (0.45, 0.33, 0.16), (0.10, 0.22, 0.36),
    (0.50, 0.42, 0.05), (0.20, 0.06, 0.04),
)  # fmt: skip
_CLOTHES: tuple[Colour, ...] = (
    (0.02, 0.025, 0.05), (0.05, 0.05, 0.05), (0.30, 0.03, 0.04), (0.06, 0.12, 0.32), (0.40, 0.38, 0.34),
    (0.10, 0.18, 0.08), (0.42, 0.28, 0.08), (0.62, 0.62, 0.60), (0.22, 0.10, 0.22), (0.02, 0.20, 0.24),
)  # fmt: skip
_SKINS: tuple[Colour, ...] = ((0.52, 0.30, 0.20), (0.40, 0.22, 0.13), (0.22, 0.11, 0.06), (0.60, 0.38, 0.28))
_LEAVES: tuple[Colour, ...] = (
    (0.055, 0.115, 0.022), (0.080, 0.130, 0.030), (0.040, 0.085, 0.025), (0.110, 0.125, 0.025), (0.045, 0.100, 0.045),
)  # fmt: skip


def _jitter(rng: Random, colour: Colour, amount: float = 0.25) -> Colour:
    gain = 1.0 + rng.uniform(-amount, amount)
    red, green, blue = (max(0.0, c * gain * (1.0 + rng.uniform(-0.08, 0.08))) for c in colour)
    return red, green, blue


def car(rng: Random, pose: Pose, driving: bool) -> list[Row]:
    """A saloon, hatchback, estate, van or bus; a driving one has a warm bonnet, wheels and lights on (seed > 0.5)."""
    style = rng.random()
    colour = _jitter(rng, rng.choice(_PAINTS))
    seed = rng.uniform(0.51, 0.99) if driving else rng.uniform(0.01, 0.49)
    warm = rng.uniform(9.0, 18.0) if driving else rng.choice((0.0, 0.0, 1.0, 7.0))
    if style > 0.965:
        return _bus(rng, pose, colour, seed, warm)
    van = style > 0.86
    length, width = (rng.uniform(4.7, 5.6), rng.uniform(1.9, 2.05)) if van else (
        rng.uniform(3.7, 4.7), rng.uniform(1.66, 1.86))  # fmt: skip
    hx, hz, belt = width / 2, length / 2, rng.uniform(0.86, 0.98)
    if van:
        belt, roof = rng.uniform(1.05, 1.2), rng.uniform(1.9, 2.3)
        cabin, taper = (0.0, hz * 0.97), (0.12, 0.42, 0.03)
    elif style > 0.45:
        roof = belt + rng.uniform(0.5, 0.72)
        cabin, taper = (-hz * 0.22, hz * 0.72), (0.22, 0.62, rng.uniform(0.14, 0.4))
    else:
        roof = belt + rng.uniform(0.46, 0.56)
        cabin, taper = (-hz * 0.1, hz * 0.58), (0.24, 0.7, 0.62)
    sill = rng.uniform(0.2, 0.28)
    rows = [
        row(HULL, M_PAINT, classes.CAR, pose.at(0, (sill + belt) / 2, 0), (hx, (belt - sill) / 2, hz), colour,
            pose.yaw, (0.05, 0.05, 0.03), seed, warm),
        row(HULL, M_CABIN, classes.CAR, pose.at(0, (belt + roof) / 2 - 0.01, cabin[0]),
            (hx * 0.97, (roof - belt) / 2 + 0.01, cabin[1]), colour, pose.yaw, taper, seed, warm * 0.15),
    ]  # fmt: skip
    radius = 0.33 if van else rng.uniform(0.29, 0.33)
    rows += [
        row(ELLIPSOID, M_TYRE, classes.CAR, pose.at(sx * (hx - 0.07), radius, sz * hz * 0.62), (0.13, radius, radius),
            (0.018, 0.018, 0.02), pose.yaw, seed=seed, warmth=warm * 0.8 if driving else 0.5)
        for sx in (-1, 1) for sz in (-1, 1)
    ]  # fmt: skip
    return rows


def _bus(rng: Random, pose: Pose, colour: Colour, seed: float, warm: float) -> list[Row]:
    rows = [
        row(HULL, M_BUS, classes.CAR, pose.at(0, 1.68, 0), (1.24, 1.36, 5.2), colour, pose.yaw, (0.03, 0.03, 0.0),
            seed, warm * 0.3)
    ]  # fmt: skip
    rows += [
        row(ELLIPSOID, M_TYRE, classes.CAR, pose.at(sx * 1.16, 0.46, sz), (0.16, 0.46, 0.46), (0.018, 0.018, 0.02),
            pose.yaw, seed=seed, warmth=warm * 0.6)
        for sx in (-1, 1) for sz in (-3.2, 3.3)
    ]  # fmt: skip
    return rows


def person(rng: Random, pose: Pose, stride: float) -> list[Row]:
    """A pedestrian; `stride` in -1..1 is the phase of the walk."""
    size = rng.choice((1.0, 1.0, 1.0, 0.94, 1.06, 0.7)) * rng.uniform(0.96, 1.04)
    top, legs = _jitter(rng, rng.choice(_CLOTHES)), _jitter(rng, rng.choice(_CLOTHES[:6]))
    skin = rng.choice(_SKINS)
    seed, reach = rng.random(), 0.17 * stride * size
    wide = rng.uniform(0.19, 0.25) * size

    def part(lx: float, y: float, lz: float, half: Colour, material: int, colour: Colour, warmth: float) -> Row:
        return row(ELLIPSOID, material, classes.PERSON, pose.at(lx * size, y * size, lz), (half[0] * size,
                   half[1] * size, half[2] * size), colour, pose.yaw, seed=seed, warmth=warmth)  # fmt: skip

    rows = [
        part(-0.095, 0.43, reach, (0.085, 0.45, 0.1), M_CLOTH, legs, 7.0),
        part(0.095, 0.43, -reach, (0.085, 0.45, 0.1), M_CLOTH, legs, 7.0),
        part(0.0, 1.13, 0.0, (wide / size, 0.36, 0.14), M_CLOTH, top, 9.0),
        part(0.0, 1.60, 0.02, (0.095, 0.13, 0.11), M_SKIN, skin, 18.0),
        part(-wide / size - 0.02, 1.08, -reach * 0.8, (0.06, 0.31, 0.075), M_CLOTH, top, 9.0),
        part(wide / size + 0.02, 1.08, reach * 0.8, (0.06, 0.31, 0.075), M_CLOTH, top, 9.0),
        part(0.0, 1.66, -0.03, (0.1, 0.1, 0.105), M_CLOTH, rng.choice(((0.02, 0.015, 0.01), (0.15, 0.08, 0.03), top)),
             9.0),
    ]  # fmt: skip
    if rng.random() < 0.3:
        rows.append(part(0.0, 1.2, -0.17, (0.15, 0.22, 0.1), M_CLOTH, _jitter(rng, rng.choice(_CLOTHES)), 1.0))
    return rows


def tree(rng: Random, pose: Pose) -> list[Row]:
    """A broad-leaved tree, a poplar or a conifer."""
    leaf = _jitter(rng, rng.choice(_LEAVES), 0.3)
    bark = _jitter(rng, (0.075, 0.055, 0.04), 0.3)
    style, seed = rng.random(), rng.random()
    height = rng.uniform(4.5, 9.5)
    trunk = height * rng.uniform(0.28, 0.42) if style < 0.8 else height * 0.14
    rows = [row(CYLINDER, M_BARK, classes.VEGETATION, pose.at(0, trunk * 0.62, 0),
                (0.1 + height * 0.014, trunk * 0.64, 0.1 + height * 0.014), bark, seed=seed)]  # fmt: skip
    if style > 0.8:
        for k in range(3):
            low = height * (0.12 + 0.27 * k)
            wide = height * (0.22 - 0.06 * k)
            rows.append(row(LEAFY, M_LEAF, classes.VEGETATION, pose.at(0, low + height * 0.2, 0),
                            (wide, height * 0.24, wide), leaf, seed=seed))  # fmt: skip
        return rows
    slim = 0.5 if style > 0.7 else 1.0
    crown = (height - trunk) / 2
    wide = crown * rng.uniform(0.75, 1.15) * slim
    centre = trunk + crown * 0.92
    rows.append(row(LEAFY, M_LEAF, classes.VEGETATION, pose.at(0, centre, 0), (wide * 0.8, crown * 0.85, wide * 0.8),
                    leaf, seed=seed))  # fmt: skip
    for k in range(rng.randint(4, 6)):
        angle, lift = k * 2.4 + seed * 6, rng.uniform(-0.5, 0.55)
        size = rng.uniform(0.42, 0.62)
        rows.append(
            row(
                LEAFY,
                M_LEAF,
                classes.VEGETATION,
                pose.at(math.cos(angle) * wide * 0.55, centre + lift * crown, math.sin(angle) * wide * 0.55),
                (wide * size, crown * size * 0.8, wide * size),
                _jitter(rng, leaf, 0.18),
                seed=seed,
            )
        )
    return rows


def bush(rng: Random, pose: Pose) -> list[Row]:
    """A low round shrub."""
    leaf = _jitter(rng, rng.choice(_LEAVES), 0.3)
    return [
        row(LEAFY, M_LEAF, classes.VEGETATION, pose.at(rng.uniform(-0.5, 0.5), rng.uniform(0.3, 0.6),
            rng.uniform(-0.5, 0.5)), (rng.uniform(0.4, 0.8), rng.uniform(0.4, 0.75), rng.uniform(0.4, 0.8)), leaf,
            seed=rng.random())
        for _ in range(rng.randint(1, 3))
    ]  # fmt: skip


def hedge(rng: Random, pose: Pose, length: float) -> list[Row]:
    """A clipped hedge along local z."""
    height, leaf = rng.uniform(0.45, 0.95), _jitter(rng, rng.choice(_LEAVES), 0.3)
    return [row(HULL, M_LEAF, classes.VEGETATION, pose.at(0, height, 0), (rng.uniform(0.3, 0.5), height, length / 2),
                leaf, pose.yaw, (0.15, 0.0, 0.0), rng.random())]  # fmt: skip


def lamp(rng: Random, pose: Pose, height: float, side: int) -> list[Row]:
    """A street lamp whose arm reaches towards the road (`side` = +1: the road lies towards local +x)."""
    metal = _jitter(rng, rng.choice(((0.10, 0.10, 0.11), (0.22, 0.23, 0.24), (0.04, 0.07, 0.05))), 0.2)
    arm = rng.uniform(1.0, 2.2)
    return [
        row(CYLINDER, M_METAL, classes.POLE, pose.at(0, height / 2, 0), (0.085, height / 2, 0.085), metal),
        row(CYLINDER, M_METAL, classes.POLE, pose.at(0, 0.5, 0), (0.13, 0.5, 0.13), metal),
        row(HULL, M_METAL, classes.POLE, pose.at(side * arm / 2, height - 0.04, 0), (arm / 2, 0.045, 0.045), metal,
            pose.yaw),
        row(HULL, M_LAMP, classes.POLE, pose.at(side * (arm + 0.2), height - 0.08, 0), (0.32, 0.075, 0.14), metal,
            pose.yaw, seed=0.9),
    ]  # fmt: skip


def sign(rng: Random, pose: Pose) -> list[Row]:
    """A traffic sign: a disc, a board or a name plate on a thin post, facing -z."""
    height = rng.uniform(2.0, 2.7)
    metal: Colour = (0.26, 0.27, 0.28)
    rows = [
        row(CYLINDER, M_METAL, classes.POLE, pose.at(0, height / 2 + 0.2, 0), (0.04, height / 2 + 0.2, 0.04), metal)
    ]
    style, seed = rng.random(), rng.random()
    face = rng.choice(((0.55, 0.02, 0.03), (0.03, 0.10, 0.45), (0.65, 0.65, 0.62), (0.60, 0.42, 0.02)))
    if style < 0.55:
        rows.append(row(ELLIPSOID, M_SIGN, classes.POLE, pose.at(0, height, -0.06), (0.33, 0.33, 0.03), face,
                        pose.yaw, seed=seed))  # fmt: skip
    else:
        half = (0.3, 0.3, 0.02) if style < 0.85 else (0.5, 0.22, 0.02)
        rows.append(row(HULL, M_SIGN, classes.POLE, pose.at(0, height, -0.06), half, face, pose.yaw, seed=seed))
    return rows


def signal(rng: Random, pose: Pose) -> list[Row]:
    """A traffic light facing -z; the seed says which lens is lit."""
    seed = rng.random()
    return [
        row(CYLINDER, M_METAL, classes.POLE, pose.at(0, 1.7, 0), (0.06, 1.7, 0.06), (0.12, 0.12, 0.12)),
        row(HULL, M_SIGNAL, classes.POLE, pose.at(0, 2.85, -0.1), (0.17, 0.48, 0.12), (0.02, 0.02, 0.02), pose.yaw,
            seed=seed),
    ]  # fmt: skip
