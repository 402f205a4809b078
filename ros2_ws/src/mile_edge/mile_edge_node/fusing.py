"""Sensors of one viewpoint: their newest frames, when a fused mask is due, and whose header it takes; no ROS."""

from __future__ import annotations

import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mile_edge.runtime import SensorFrame

# A sensor that was not heard of for so long has no say in what the newest stamp is: clocks and bags jump back.
_FORGET_S = 1.0
# A sensor that is silent for so many of its own periods gives no header any more.
_MISSED = 2.5


@dataclass(frozen=True)
class FusedMask:
    """What one pass made of several sensors.

    Attributes:
        message: of the sensor whose size and header the mask takes.
        mask: (H, W) uint8.
        confidence: (H, W) uint8.
        weights: sensor to its share; they sum to 1.
        absent: sensor to why it took no part.
    """

    message: Any
    mask: np.ndarray
    confidence: np.ndarray
    weights: Mapping[str, float]
    absent: Mapping[str, str]


class Moment:
    """The newest frames of the sensors that are fused.

    A fused mask is due with every frame of the first sensor that is alive, in the order given, so that masks come at a
    sensor's own rate and no header comes twice.

    Args:
        names: of the sensors, the one whose size and header the fused mask takes first.

    Attributes:
        tolerance: seconds that a stamp may lie behind the newest; may be set any time.
        wanted: whether anybody wants fused masks; may be set any time.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names, self.tolerance, self.wanted = tuple(names), 0.05, False
        self._newest: dict[str, tuple[Any, SensorFrame, float]] = {}
        self._period: dict[str, int] = {}
        self._published: int | None = None

    @property
    def tolerance_ns(self) -> int:
        """The tolerance in nanoseconds."""
        return round(self.tolerance * 1e9)

    def put(self, name: str, message: Any, frame: np.ndarray, received: float) -> None:
        """Take the newest frame of a sensor, (H, W, 3) uint8, which came at `received` (seconds, monotonic)."""
        stamp = message.header.stamp
        given = SensorFrame(frame, stamp.sec * 10**9 + stamp.nanosec)
        if name in self._newest:
            self._period[name] = min(max(given.stamp - self._newest[name][1].stamp, 0), round(_FORGET_S * 1e9))
        self._newest[name] = message, given, received

    def frames(self) -> dict[str, SensorFrame]:
        """The newest frame of every sensor that was heard of lately, in the order of the names."""
        now = time.monotonic()
        return {
            name: self._newest[name][1]
            for name in self.names
            if name in self._newest and now - self._newest[name][2] <= max(_FORGET_S, self.tolerance)
        }

    def silent(self, frames: Mapping[str, SensorFrame]) -> dict[str, str]:
        """The sensors that were not heard of lately, and that this is so."""
        return {name: "silent" for name in self.names if name not in frames}

    def lead(self, frames: Mapping[str, SensorFrame]) -> str | None:
        """The first sensor that is alive: not behind the newest stamp by more than its own next frame could be."""
        newest = max((given.stamp for given in frames.values()), default=0)
        for name, given in frames.items():
            period = self._period.get(name, round(_FORGET_S * 1e9))
            if newest - given.stamp <= max(self.tolerance_ns, _MISSED * period):
                return name
        return None

    def due(self, fresh: Container[str], frames: Mapping[str, SensorFrame]) -> bool:
        """Whether a fused mask is due now that the frames of these sensors are new."""
        lead = self.lead(frames)
        return lead is not None and lead in fresh

    def header_of(self, name: str) -> Any:
        """The message of a sensor's newest frame, None where a fused mask of its stamp or a later one is out."""
        message, given, _ = self._newest[name]
        last, self._published = self._published, given.stamp
        if last is not None and last - round(_FORGET_S * 1e9) < given.stamp <= last:
            self._published = last
            return None
        return message
