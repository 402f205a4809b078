"""The procedural street as a user meets it: a seed in, frames of any moment and weather out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mile_edge.errors import DataError

from .air import Air
from .classes import DOMAINS, SENSORS
from .lens import photograph
from .light import Lit
from .materials import Finish, finish
from .scene import compose
from .sensors import depth_image, thermal_image
from .street import Street
from .surface import Surface, visible
from .weather import shade


@dataclass(frozen=True)
class WorldFrame:
    """One moment seen by all sensors from one viewpoint.

    `rgb` (H, W, 3) uint8; `depth` (H, W) uint16 millimetres along the optical axis, 0 = no return; `thermal` (H, W)
    uint16 in 0.01 K; `label` (H, W) uint8 ids of `WORLD_CLASSES`; `time` seconds.
    """

    rgb: NDArray[np.uint8]
    depth: NDArray[np.uint16]
    thermal: NDArray[np.uint16]
    label: NDArray[np.uint8]
    domain: str
    time: float


class World:
    """An endless street made from a seed; the same seed, time, domain and size always give the same frame."""

    def __init__(self, seed: int, size: tuple[int, int] = (240, 320)) -> None:
        """`size` is (height, width) in pixels. Raises DataError for a negative seed or a size out of 32..2160."""
        if not 0 <= int(seed) < 2**31:
            raise DataError(f"The world's seed is {seed}; give a whole number from 0 to 2147483647.")
        if len(size) != 2 or not all(32 <= int(side) <= 4096 for side in size):
            raise DataError(f"The world's size is {size}; give (height, width), each from 32 to 4096 pixels.")
        self.seed = int(seed)
        self.size = (int(size[0]), int(size[1]))
        self._street = Street.make(self.seed)

    @property
    def focal(self) -> float:
        """Focal length of every sensor in pixels; the optical centre is the middle of the picture."""
        return self._street.focal * self.size[1]

    def frame(self, t: float, domain: str = "clear") -> WorldFrame:
        """The frame at `t` seconds in one of `DOMAINS`. Raises DataError for any other domain or a negative time."""
        return self.views(t, (domain,))[domain]

    def views(self, t: float, domains: Sequence[str] = DOMAINS) -> Mapping[str, WorldFrame]:
        """The same moment in several domains; what does not depend on the weather is worked out once."""
        for domain in domains:
            _check_domain(domain)
        moment = self._moment(t)
        frames = {}
        for domain in domains:
            camera, depth, thermal = (moment.image(domain, sensor) for sensor in SENSORS)
            frames[domain] = WorldFrame(camera, depth, thermal, moment.label, domain, t)
        return frames

    def view(
        self, t: float, domain: str, sensor: str
    ) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], NDArray[np.uint8]]:
        """One sensor's image and the label (H, W) uint8; equal to that of `frame`, but the others are not rendered.

        Raises DataError for an unknown domain or sensor, or a negative time.
        """
        _check_domain(domain)
        if sensor not in SENSORS:
            raise DataError(f"The world has no sensor {sensor!r}; choose from {', '.join(SENSORS)}.")
        moment = self._moment(t)
        return moment.image(domain, sensor), moment.label

    def _moment(self, t: float) -> _Moment:
        if not 0.0 <= t < 1e6:
            raise DataError(f"The world's time is {t} s; give a number from 0 to 1000000.")
        surface = visible(compose(self._street, t, self.size))
        coat = finish(surface)
        lit = Lit.make(surface, coat)
        label = surface.label.reshape(self.size)
        label.setflags(write=False)
        return _Moment(surface, coat, lit, label, t)


@dataclass(frozen=True)
class _Moment:
    """What all domains and sensors of one moment share."""

    surface: Surface
    coat: Finish
    lit: Lit
    label: NDArray[np.uint8]
    time: float

    def image(self, domain: str, sensor: str) -> Any:
        """One sensor's image in one domain; every pair has random numbers of its own."""
        seed = self.surface.scene.street.seed
        air = Air.make(domain, seed)
        rng = np.random.default_rng(
            [seed, round(self.time * 1e4), DOMAINS.index(domain), SENSORS.index(sensor), *self.surface.shape]
        )
        if sensor == "camera":
            return photograph(self.surface, shade(self.lit, air), air, rng)
        if sensor == "depth":
            return depth_image(self.surface, self.coat, air, rng)
        sunny = self.lit.sunlit(air.sun) if domain in ("clear", "dusk") else None
        return thermal_image(self.surface, self.coat, air, sunny, rng)


def _check_domain(domain: str) -> None:
    if domain not in DOMAINS:
        raise DataError(f"The world has no domain {domain!r}; choose from {', '.join(DOMAINS)}.")
