"""The air of each domain over each street: where the sun stands, how bright and thick everything is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .overhead import Sun
from .street import stream

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Air:
    """One domain's light and air on one street; colours are linear, `thickness` is per metre."""

    domain: str
    sun: Sun
    sunlight: Colour
    skylight: Colour
    zenith: Colour
    horizon: Colour
    clouds: float
    thickness: float
    haze: Colour
    lamps: float
    wet: float
    snow: float
    exposure: float
    noise: float

    @staticmethod
    def make(domain: str, seed: int) -> Air:
        """The air of a domain over the street of this seed."""
        rng = stream(seed, 6, sum(map(ord, domain)))
        azimuth = rng.uniform(-math.pi, math.pi)
        high, low = Sun(azimuth, rng.uniform(0.5, 1.05)), Sun(azimuth, rng.uniform(0.07, 0.16))
        gain = rng.uniform(0.8, 1.25)
        grey = rng.uniform(0.85, 1.1)
        dull = (0.60 * grey, 0.64 * grey, 0.70 * grey)
        if domain == "dusk":
            warm = rng.uniform(0.8, 1.2)
            return Air(domain, low, (1.15 * warm, 0.55, 0.22), (0.20, 0.22, 0.34), (0.10, 0.15, 0.34),
                       (1.05 * warm, 0.52, 0.24), rng.uniform(0.3, 0.8), 0.0012, (0.72, 0.44, 0.30), 0.35, 0.0, 0.0,
                       1.25 * gain, 0.012)  # fmt: skip
        if domain == "night":
            return Air(domain, high, (0.0, 0.0, 0.0), (0.012, 0.014, 0.022), (0.006, 0.008, 0.016),
                       (0.030, 0.026, 0.026), rng.uniform(0.1, 0.5), 0.0015, (0.02, 0.018, 0.018), 1.0,
                       0.25 * (rng.random() < 0.3), 0.0, 1.7 * gain, 0.03)  # fmt: skip
        if domain == "fog":
            sight = rng.uniform(38.0, 110.0)
            fog = rng.uniform(0.55, 0.72)
            return Air(domain, high, (0.06, 0.06, 0.06), (0.72, 0.74, 0.76), (fog, fog * 1.01, fog * 1.02),
                       (fog, fog * 1.01, fog * 1.02), 0.05, 3.0 / sight, (fog, fog * 1.01, fog * 1.02),
                       0.25 * (rng.random() < 0.5), 0.15, 0.0, 1.05 * gain, 0.008)  # fmt: skip
        if domain == "rain":
            dark = rng.uniform(0.36, 0.52)
            return Air(domain, high, (0.02, 0.02, 0.02), (0.50, 0.53, 0.58), (dark * 0.8, dark * 0.86, dark * 0.95),
                       (dark, dark * 1.04, dark * 1.1), 0.6, rng.uniform(0.007, 0.016),
                       (dark, dark * 1.03, dark * 1.08),
                       0.3, 1.0, 0.0, 1.2 * gain, 0.012)  # fmt: skip
        if domain == "snow":
            pale = rng.uniform(0.62, 0.8)
            return Air(domain, high, (0.10, 0.10, 0.10), dull, (pale * 0.94, pale * 0.97, pale),
                       (pale, pale, pale), 0.25,
                       rng.uniform(0.006, 0.016), (pale, pale, pale * 1.01), 0.15, 0.2, rng.uniform(0.75, 1.0),
                       1.0 * gain, 0.009)  # fmt: skip
        bright = rng.uniform(0.8, 1.15)
        return Air(domain, high, (1.50 * bright, 1.40 * bright, 1.22 * bright), (0.34, 0.41, 0.54),
                   (0.16, 0.32, 0.68), (0.60, 0.72, 0.88), rng.uniform(0.0, 1.0), 0.0007, (0.62, 0.70, 0.80), 0.0, 0.0,
                   0.0, 1.12 * gain, 0.006)  # fmt: skip
