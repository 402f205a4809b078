"""The newest frame of every sensor: one slot each, a newer frame takes the place of an older one."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Weight of the newest interval in a sensor's mean interval.
_SMOOTHING = 0.2


@dataclass(frozen=True)
class Arrival:
    """A message as it came in: whose it is, and when it came (seconds, monotonic)."""

    sensor: str
    message: Any
    received: float


class LatestFrames:
    """Slots between subscriptions and the worker; any thread may call anything.

    A frame that is almost one period old when the worker asks is about to be replaced: the worker then waits the few
    milliseconds for its successor, so that a mask is never older than one period when its pass begins.

    Args:
        sensors: names of the sensors.
        due_within: seconds in which a frame must be due to be waited for; more than a camera's and DDS's jitter.
    """

    def __init__(self, sensors: Sequence[str], due_within: float = 0.003) -> None:
        self._due_within = due_within
        self._slots: dict[str, Arrival] = {}
        self._dropped = dict.fromkeys(sensors, 0)
        self._limited = dict.fromkeys(sensors, 0)
        self._next = dict.fromkeys(sensors, 0.0)
        self._last: dict[str, float] = {}
        self._interval = dict.fromkeys(sensors, 0.0)
        self._period = 0.0
        self._changed = threading.Condition()
        self._closed = False

    @property
    def max_rate(self) -> float:
        """Frames per second that each sensor may give, 0 for any number."""
        return 1 / self._period if self._period else 0.0

    @max_rate.setter
    def max_rate(self, rate: float) -> None:
        with self._changed:
            self._period = 1 / rate if rate else 0.0
            self._next = dict.fromkeys(self._next, 0.0)

    def put(self, sensor: str, message: Any) -> None:
        """Offer a message; what waited in the sensor's slot is dropped and counted."""
        now = time.monotonic()
        with self._changed:
            if self._closed:
                return
            if self._period and now < self._next[sensor]:
                self._limited[sensor] += 1
                return
            # From the due time, not from now: otherwise jitter would lower the rate below what was asked for.
            self._next[sensor] = max(self._next[sensor] + self._period, now)
            self._observe(sensor, now)
            waited = sensor in self._slots
            self._dropped[sensor] += waited
            # A newer frame keeps its sensor's place in the line: with a fresh place a sensor could wait for ever.
            self._slots[sensor] = Arrival(sensor, message, now)
            self._changed.notify()

    def take(self, most: int) -> list[Arrival]:
        """Wait for messages and take up to `most` of them, longest waiting sensor first; none once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._slots or self._closed)
            if due := self._about_to_be_replaced():
                self._changed.wait_for(lambda: self._closed or self._slots[due.sensor] is not due, self._due_within)
            taken = [] if self._closed else list(self._slots.values())[:most]
            for arrival in taken:
                del self._slots[arrival.sensor]
            return taken

    def dropped(self, sensor: str) -> int:
        """How many frames of a sensor were replaced by newer ones."""
        return self._dropped[sensor]

    def limited(self, sensor: str) -> int:
        """How many frames of a sensor came faster than the rate limit."""
        return self._limited[sensor]

    def close(self) -> None:
        """Take nothing more and wake the worker."""
        with self._changed:
            self._closed = True
            self._slots.clear()
            self._changed.notify_all()

    def _observe(self, sensor: str, now: float) -> None:
        """Keep the mean interval between a sensor's frames; another rate, or a pause, starts it anew."""
        interval, mean = now - self._last.get(sensor, now), self._interval[sensor]
        self._last[sensor] = now
        steady = mean / 4 < interval < mean * 4
        self._interval[sensor] = mean + _SMOOTHING * (interval - mean) if steady else interval

    def _about_to_be_replaced(self) -> Arrival | None:
        """The longest waiting frame, where its sensor's next one is due any moment."""
        first = next(iter(self._slots.values()), None)
        if first is None:
            return None
        interval = self._interval[first.sensor]
        left = interval - (time.monotonic() - first.received)
        # A sensor about as fast as the wait is long would be waited for at every pass.
        return first if abs(left) < self._due_within < interval / 2 else None
