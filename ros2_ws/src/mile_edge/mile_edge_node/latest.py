"""The newest frame of every sensor: one slot each, a newer frame takes the place of an older one."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Intervals of which the median is a sensor's period: few enough to follow another rate, and a lost frame, a pause or a
# scheduler's jitter does not move it.
_INTERVALS = 7
# Share of the greatest cost that is left after one more pass.
_DECAY = 0.9


@dataclass(frozen=True)
class Arrival:
    """A message as it came in: whose it is, and when it came (seconds, monotonic)."""

    sensor: str
    message: Any
    received: float


class LatestFrames:
    """Slots between subscriptions and the worker; any thread may call anything.

    A frame that would be more than one period old when its mask is out, were inference instant, is about to be
    replaced: the worker then waits the few milliseconds for its successor. So a mask is never older than one inference
    and one period, even where the next frame is late by `lateness`.

    Args:
        sensors: names of the sensors.
        due_within: seconds in which a frame must be due to be waited for, beside what a pass costs; DDS's delay.
        lateness: seconds beyond its period, at most half of it, for which a frame is waited for before it counts as
            lost: more than a camera's jitter and what the scheduler of a busy machine adds.
    """

    def __init__(self, sensors: Sequence[str], due_within: float = 0.003, lateness: float = 0.02) -> None:
        self._due_within, self._lateness = due_within, lateness
        self._cost = 0.0
        self._slots: dict[str, Arrival] = {}
        self._dropped = dict.fromkeys(sensors, 0)
        self._limited = dict.fromkeys(sensors, 0)
        self._next = dict.fromkeys(sensors, 0.0)
        self._last: dict[str, float] = {}
        self._intervals: dict[str, deque[float]] = {name: deque(maxlen=_INTERVALS) for name in sensors}
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
            first, patience = self._about_to_be_replaced()
            if first is not None:
                self._changed.wait_for(lambda: self._closed or self._slots[first.sensor] is not first, patience)
            taken = [] if self._closed else list(self._slots.values())[:most]
            for arrival in taken:
                del self._slots[arrival.sensor]
            return taken

    def passed(self, cost: float) -> None:
        """Take note of what a pass cost beyond the network: seconds of decoding, resizing and publication."""
        self._cost = max(cost, self._cost * _DECAY)

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
        if sensor in self._last:
            self._intervals[sensor].append(now - self._last[sensor])
        self._last[sensor] = now

    def _about_to_be_replaced(self) -> tuple[Arrival | None, float]:
        """The longest waiting frame where its sensor's next one is due, and the seconds until that counts as lost."""
        first = next(iter(self._slots.values()), None)
        if first is None or not (intervals := sorted(self._intervals[first.sensor])):
            return None, 0.0
        interval = intervals[len(intervals) // 2]
        left = interval - (time.monotonic() - first.received)
        lateness = min(self._lateness, interval / 2)
        # A sensor about as fast as the wait is long would be waited for at every pass.
        due = -lateness < left < min(self._due_within + self._cost, interval / 2) and self._due_within < interval / 2
        return (first, left + lateness) if due else (None, 0.0)
