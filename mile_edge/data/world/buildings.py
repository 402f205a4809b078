"""Houses, blocks of flats, towers and what stands between them."""

from __future__ import annotations

from random import Random

from . import classes
from .shapes import HULL, M_FACADE, M_METAL, M_PLAIN, M_ROOF, Colour, Pose, Row, _jitter, row

_WALLS: tuple[Colour, ...] = (
    (0.30, 0.12, 0.08), (0.36, 0.20, 0.13), (0.50, 0.44, 0.34), (0.56, 0.52, 0.46), (0.40, 0.38, 0.36),
    (0.24, 0.22, 0.21), (0.55, 0.40, 0.22), (0.42, 0.30, 0.26), (0.34, 0.38, 0.42), (0.60, 0.56, 0.48),
    (0.20, 0.12, 0.10), (0.46, 0.46, 0.45), (0.38, 0.42, 0.34),
)  # fmt: skip
_ROOFS: tuple[Colour, ...] = ((0.24, 0.09, 0.06), (0.12, 0.10, 0.10), (0.18, 0.13, 0.10), (0.09, 0.10, 0.12))
_AWNINGS: tuple[Colour, ...] = ((0.40, 0.04, 0.04), (0.04, 0.16, 0.09), (0.05, 0.09, 0.28), (0.50, 0.40, 0.22))

STYLES = ("urban", "downtown", "suburb", "works", "park")


def building(rng: Random, pose: Pose, width: float, depth: float, style: str, side: int) -> list[Row]:
    """A building `width` metres along the street; `side` = +1 stands right of the road (its front faces local -x)."""
    floors = {
        "urban": rng.choice((3, 3, 4, 4, 5, 6)), "downtown": rng.choice((5, 6, 8, 10, 14)),
        "suburb": rng.choice((1, 2, 2, 2)), "works": rng.choice((1, 2, 2, 3)), "park": rng.choice((2, 3, 4)),
    }[style]  # fmt: skip
    storey = rng.uniform(2.9, 3.5) * (1.35 if style == "works" else 1.0)
    height = floors * storey + rng.uniform(0.5, 1.4)
    wall = _jitter(rng, rng.choice(_WALLS), 0.3)
    seed = rng.random()
    warmth = rng.uniform(-1.5, 2.5)
    half = (depth / 2, height / 2, width / 2)
    rows = [row(HULL, M_FACADE, classes.BUILDING, pose.at(0, height / 2, 0), half, wall, pose.yaw, seed=seed,
                warmth=warmth)]  # fmt: skip
    pitched = style == "suburb" or (style in ("urban", "park") and rng.random() < 0.4)
    if pitched:
        rise = rng.uniform(1.2, 2.6)
        roof = _jitter(rng, rng.choice(_ROOFS))
        gable = rng.random() < 0.5
        taper = (0.96, 0.0, 0.0) if gable else (0.75, 0.6, 0.6)
        rows.append(row(HULL, M_ROOF, classes.BUILDING, pose.at(0, height + rise, 0),
                        (half[0] + 0.35, rise, half[2] + (0.1 if gable else 0.35)), roof, pose.yaw, taper, seed,
                        warmth - 1.0))  # fmt: skip
        if rng.random() < 0.6:
            rows.append(
                row(
                    HULL,
                    M_PLAIN,
                    classes.BUILDING,
                    pose.at(rng.uniform(-0.3, 0.3) * depth, height + rise * 1.6, rng.uniform(-0.3, 0.3) * width),
                    (0.35, rise * 0.9, 0.35),
                    wall,
                    seed=seed,
                    warmth=warmth + 3.0,
                )
            )
    else:
        rows.append(row(HULL, M_PLAIN, classes.BUILDING, pose.at(0, height, 0),
                        (half[0] + 0.18, 0.22, half[2] + 0.02), _jitter(rng, wall, 0.4), pose.yaw, seed=seed,
                        warmth=warmth))  # fmt: skip
        if floors > 3 and rng.random() < 0.5:
            rows.append(
                row(
                    HULL,
                    M_PLAIN,
                    classes.BUILDING,
                    pose.at(0, height + 1.1, rng.uniform(-0.25, 0.25) * width),
                    (1.8, 1.1, 2.2),
                    _jitter(rng, wall, 0.3),
                    pose.yaw,
                    seed=seed,
                    warmth=warmth + 2.0,
                )
            )
    front = -side * half[0]
    if style in ("urban", "downtown") and rng.random() < 0.55:
        rows.append(row(HULL, M_PLAIN, classes.BUILDING, pose.at(front - side * 0.55, 2.75, 0),
                        (0.6, 0.13, half[2] * rng.uniform(0.5, 0.9)), _jitter(rng, rng.choice(_AWNINGS)), pose.yaw,
                        seed=seed))  # fmt: skip
    if style == "urban" and rng.random() < 0.5:
        rows += _balconies(rng, pose, front, side, half[2], floors, storey, wall)
    if style == "downtown" and rng.random() < 0.5:
        rows.append(row(HULL, M_FACADE, classes.BUILDING, pose.at(side * half[0] * 0.15, height + 4.0, 0),
                        (half[0] * 0.7, 4.2, half[2] * 0.7), wall, pose.yaw, seed=seed, warmth=warmth))  # fmt: skip
    return rows


def _balconies(
    rng: Random, pose: Pose, front: float, side: int, half_width: float, floors: int, storey: float, wall: Colour
) -> list[Row]:
    column = rng.uniform(-0.5, 0.5) * half_width
    tint = _jitter(rng, wall, 0.4)
    return [
        row(HULL, M_PLAIN, classes.BUILDING, pose.at(front - side * 0.5, storey * level + 0.55, column),
            (0.5, 0.5, min(1.5, half_width * 0.4)), tint, pose.yaw)
        for level in range(1, min(floors, 6))
    ]  # fmt: skip


def fence(rng: Random, pose: Pose, length: float) -> list[Row]:
    """A garden wall or a low fence along local z; labelled building, as walls are."""
    height = rng.uniform(0.4, 0.8)
    colour = _jitter(rng, rng.choice(((0.35, 0.30, 0.25), (0.5, 0.48, 0.45), (0.2, 0.12, 0.07))), 0.3)
    return [row(HULL, M_PLAIN, classes.BUILDING, pose.at(0, height, 0), (0.12, height, length / 2), colour, pose.yaw)]


def bollards(rng: Random, pose: Pose, length: float) -> list[Row]:
    """Short posts along the kerb."""
    step = rng.uniform(1.5, 2.5)
    count = max(1, int(length / step))
    tint = rng.choice(((0.05, 0.05, 0.05), (0.3, 0.3, 0.3), (0.35, 0.05, 0.04)))
    return [
        row(HULL, M_METAL, classes.POLE, pose.at(0, 0.5, (k - count / 2) * step), (0.07, 0.45, 0.07), tint, pose.yaw)
        for k in range(count)
    ]  # fmt: skip
