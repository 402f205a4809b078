"""What light reaches the visible surfaces: sun, shade below and beside things, street lamps and headlights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .materials import Finish
from .overhead import Site, Sun, lamp_map, look_up, nearness, shadows, stamp
from .raycast import F32
from .shapes import M_SKY
from .surface import Surface

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Lit:
    """The L pixels below the sky with what light needs of them, and maps of light and shade worked out once.

    `at` (L,) and `above` index the pixels of the picture; `normal`, `point`, `ray` (L, 3), `lateral`, `reach`,
    `material` (L,), `albedo` (3, L). `shiny` and `glowing` index into L; `glass`, `glow`, `beacon` belong to them.
    """

    surface: Surface
    at: NDArray[np.int64]
    above: NDArray[np.int64]
    normal: Array
    point: Array
    ray: Array
    lateral: Array
    reach: Array
    material: NDArray[np.uint8]
    albedo: Array
    shiny: NDArray[np.int64]
    glass: Array
    glowing: NDArray[np.int64]
    glow: Array
    beacon: Array
    _suns: dict[Sun, Array]

    @staticmethod
    def make(surface: Surface, finish: Finish) -> Lit:
        """The lit part of a surface."""
        sky = surface.material == M_SKY
        at = np.flatnonzero(~sky)
        glass = finish.glass[at]
        shiny = np.flatnonzero(glass > 0)
        glowing = np.flatnonzero((finish.glow[at, 0] + finish.beacon[at].max(1)) > 0)
        normal, point, ray = (field.T.take(at, 1).T for field in (surface.normal, surface.point, surface.ray))
        return Lit(
            surface, at, np.flatnonzero(sky), normal, point, ray,
            surface.lateral[at], surface.reach[at], surface.material[at], np.ascontiguousarray(finish.albedo[at].T),
            shiny, glass[shiny], glowing, finish.glow[at[glowing]].T.copy(), finish.beacon[at[glowing]].T.copy(), {},
        )  # fmt: skip

    def sunshine(self, sun: Sun) -> Array:
        """Share of the sun that reaches each pixel, 0..1."""
        if sun not in self._suns:
            scene = self.surface.scene
            site = Site.of(scene)
            hidden = shadows(site, sun).copy()
            moving = scene.rows[scene.moving :]
            near = np.abs(moving[:, 2] - scene.camera.position[2]) < 60.0
            _trail(hidden, moving[near & (moving[:, 5] > 0.2)], site, sun)
            x = self.lateral + F32(0.3) * self.normal[:, 0]
            z = self.point[:, 2] + F32(0.3) * self.normal[:, 2]
            clear = (self.point[:, 1] + F32(0.05) - look_up(hidden, x, z, site.origin)) * F32(2.5) + F32(0.5)
            self._suns[sun] = np.clip(clear, 0.0, 1.0)
        return self._suns[sun]

    def sunlit(self, sun: Sun) -> Array:
        """Sun that falls on each pixel of the picture (N,), 1 where it shines straight onto it."""
        out = np.zeros(len(self.surface.material), F32)
        out[self.at] = np.maximum(self.normal @ sun.direction, 0.0) * self.sunshine(sun)
        return out

    @cached_property
    def contact(self) -> Array:
        """How open to the sky each pixel is near the ground, 0..1: less beside walls and below cars."""
        scene = self.surface.scene
        site = Site.of(scene)
        grid = nearness(site).copy()
        moving = scene.rows[scene.moving :].copy()
        moving[:, 1], moving[:, 5] = 0.0, 0.5
        stamp(grid, moving, site, -0.05)
        moving[:, 5] = 0.3
        stamp(grid, moving, site, 0.2)
        shade = look_up(grid, self.lateral, self.point[:, 2], site.origin)
        return 1.0 - F32(0.75) * np.clip(shade, 0.0, 1.0) * np.clip(1.0 - self.point[:, 1] / F32(0.9), 0.0, 1.0)

    @cached_property
    def lamplight(self) -> Array:
        """Street lamps' light, 1 on the ground straight below a lamp; fades above their heads."""
        site = Site.of(self.surface.scene)
        ground = look_up(lamp_map(site), self.lateral, self.point[:, 2], site.origin)
        return ground * np.clip(F32(1.35) - self.point[:, 1] / F32(5.5), 0.02, 1.0)

    @cached_property
    def headlight(self) -> Array:
        """Our own low beam: bright from 4 to 20 m, cut off at the horizon."""
        turn = self.surface.scene.camera.turn.astype(F32)
        aside = self.ray @ turn[0]
        beam = np.exp(-((aside / F32(0.42)) ** 2)) * np.clip(0.1 - self.ray[:, 1] * 14.0, 0.06, 1.0)
        fall = np.clip(self.reach / F32(5.0), 0.15, 1.0) * (60.0 / (60.0 + self.reach * self.reach))
        facing = np.clip(-(self.ray.T * self.normal.T).sum(0), 0.05, 1.0)
        return beam * fall * (0.35 + 0.65 * facing)


def _trail(grid: Array, rows: NDArray[np.float64], site: Site, sun: Sun) -> None:
    """Lay the shadows of moving bodies over the map."""
    fall, step = math.tan(sun.elevation), 0.4
    for k in range(12):
        moved = rows.copy()
        moved[:, 0] -= math.sin(sun.azimuth) * step * k
        moved[:, 2] -= math.cos(sun.azimuth) * step * k
        moved[:, 1] -= fall * step * k
        moved = moved[moved[:, 1] + moved[:, 5] * 0.55 > 0.0]
        if len(moved) == 0:
            return
        moved[:, [4, 6]] *= 0.9
        stamp(grid, moved, site, 0.0)
