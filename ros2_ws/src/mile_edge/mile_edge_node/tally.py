"""What a sensor did lately: counts, rates and the last trouble, from which status and diagnostics are told."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

OK, WARN, ERROR = 0, 1, 2
_WINDOW = 50
_NOVEL_SHARE = 0.5


@dataclass(frozen=True)
class Verdict:
    """A line of diagnostics: level (0 fine, 1 warning, 2 error), a sentence, and keys with values."""

    level: int
    message: str
    values: dict[str, str]


class SensorTally:
    """Counts of one sensor since activation; written by the worker, read by anybody."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._published: deque[tuple[float, float, bool]] = deque(maxlen=_WINDOW)
        self._refused_at: float | None = None
        self.published = 0
        self.refused = 0
        self.expert = ""
        self.distance = float("nan")
        self.reason = ""

    def add(self, expert: str, distance: float, novel: bool, age: float) -> None:
        """Count a mask; `age` is seconds from the frame's stamp until it was published."""
        with self._lock:
            self.published += 1
            self.expert, self.distance = expert, distance
            self._published.append((time.monotonic(), age, novel))

    def refuse(self, reason: str) -> bool:
        """Count a message that gave no mask; True where the reason is another than the last one."""
        with self._lock:
            self.refused += 1
            self._refused_at = time.monotonic()
            fresh, self.reason = reason != self.reason, reason
            return fresh

    def verdict(self, *, subscribed: bool, publishers: int, dropped: int, limited: int, stale_after: float) -> Verdict:
        """How the sensor does.

        Args:
            subscribed: its images are listened to.
            publishers: nodes that publish them.
            dropped: frames replaced by newer ones.
            limited: frames held back by the rate limit.
            stale_after: seconds without a mask until that is worth a warning.
        """
        with self._lock:
            now = time.monotonic()
            recent = list(self._published)
            span = now - recent[0][0] if recent else 0.0
            rate = (len(recent) - 1) / (recent[-1][0] - recent[0][0]) if len(recent) > 1 and span > 0 else 0.0
            share = sum(novel for _, _, novel in recent) / len(recent) if recent else 0.0
            silent = now - (recent[-1][0] if recent else self._began)
            values = {
                "rate (Hz)": f"{rate if silent <= stale_after else 0:.1f}",
                "stamp age (s)": f"{recent[-1][1]:.3f}" if recent else "",
                "expert": self.expert,
                "distance": f"{self.distance:.2f}",
                "novel share": f"{share:.2f}",
                "published": str(self.published),
                "dropped": str(dropped),
                "rate limited": str(limited),
                "refused": str(self.refused),
                "publishers": str(publishers),
            }
            if not subscribed:
                return Verdict(OK, "idle: nobody listens to its results", values)
            if self._refused_at is not None and now - self._refused_at <= stale_after:
                return Verdict(ERROR, self.reason, values)
            if silent > stale_after:
                lost = "frames do not arrive; compare QoS settings and DDS buffers"
                why = lost if publishers else "nobody publishes its topic"
                return Verdict(WARN, f"no frame for {silent:.1f} s: {why}", values)
            if share > _NOVEL_SHARE:
                return Verdict(WARN, f"unknown domain: {share:.0%} of the last {len(recent)} frames are novel", values)
            return Verdict(OK, f"segmenting with expert {self.expert}", values)
