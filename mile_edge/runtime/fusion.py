"""Several sensors at once: who takes part in a moment, and what comes out of the pass that they share."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mile_edge.errors import FusionError

if TYPE_CHECKING:
    from mile_edge.runtime.segmentation import Segmentation

TOLERANCE_NS = 50_000_000
# A picture whose values differ by less than this shows nothing: a covered lens, a dead sensor, a depth without returns.
FLAT = 2
# The very same picture under so many new stamps is a driver that repeats itself; noise changes some bit of every frame.
REPEATS = 5


@dataclass(frozen=True)
class SensorFrame:
    """The newest frame of one sensor.

    Attributes:
        frame: (H, W, 3) uint8, mapped by the sensor's profile.
        stamp: nanoseconds, of the message's header.
        sensor: its kind, camera, depth or thermal; for people only.
    """

    frame: np.ndarray
    stamp: int
    sensor: str | None = None


@dataclass(frozen=True)
class Fused:
    """What one pass says about a moment.

    Attributes:
        mask: (H, W) uint8 fused class ids, of the size of ``stream``'s frame.
        confidence: (H, W) uint8, 255 for certain.
        stream: whose size and header the fused mask takes.
        stamp: newest of those that took part, nanoseconds.
        sensors: stream to its own answer, a batch of one, for each that took part.
        weights: stream to its share of the fused mask; they sum to 1.
        absent: stream to why it took no part.
        timings: milliseconds spent in ``resize``, ``network``, ``restore`` and in ``total``.
    """

    mask: np.ndarray
    confidence: np.ndarray
    stream: Hashable
    stamp: int
    sensors: Mapping[Hashable, Segmentation]
    weights: Mapping[Hashable, float]
    absent: Mapping[Hashable, str]
    timings: Mapping[str, float] = field(default_factory=dict)


@dataclass
class _Seen:
    stamp: int
    check: int
    repeats: int = 0


class Watch:
    """Tells live sensors from dead and frozen ones; remembers of each only its last picture's check sum."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, _Seen] = {}
        self._lock = threading.Lock()

    def live(
        self, frames: Mapping[Any, SensorFrame], tolerance_ns: int
    ) -> tuple[dict[Hashable, SensorFrame], dict[Hashable, str]]:
        """Sort a moment's sensors.

        A sensor is out while its stamp is more than ``tolerance_ns`` behind the newest, its picture is one flat value,
        or it repeats one picture though others change theirs; it is in again with the next frame that is none of these.

        Returns:
            those that take part, by the names of their streams, and for the others why not.
        """
        newest = max((given.stamp for given in frames.values()), default=0)
        live: dict[Hashable, SensorFrame] = {}
        absent: dict[Hashable, str] = {}
        with self._lock:
            repeats = {stream: self._repeats(stream, given) for stream, given in frames.items()}
        # A robot that stands still in a simulator without noise repeats all of its pictures: then none is broken.
        moving = any(count == 0 for count in repeats.values())
        for stream, given in sorted(frames.items(), key=lambda item: str(item[0])):
            behind = newest - given.stamp
            if behind > tolerance_ns:
                absent[stream] = f"stale: {behind / 1e6:.0f} ms behind the newest"
            elif _is_flat(given.frame):
                absent[stream] = "constant image"
            elif moving and repeats[stream] >= REPEATS:
                absent[stream] = f"frozen: the same image for {repeats[stream]} frames"
            else:
                live[stream] = given
        return live, absent

    def _repeats(self, stream: Hashable, given: SensorFrame) -> int:
        check = zlib.crc32(np.ascontiguousarray(given.frame[::4, ::4]).data)
        last = self._seen.get(stream)
        if last is None or last.check != check:
            self._seen[stream] = _Seen(given.stamp, check)
        elif last.stamp != given.stamp:
            last.stamp, last.repeats = given.stamp, last.repeats + 1
        return self._seen[stream].repeats


def checked(frames: Mapping[Any, SensorFrame]) -> None:
    """Refuse what is no moment of sensors.

    Raises:
        FusionError: there are no frames, or one is no `SensorFrame` of a (H, W, 3) uint8 array.
    """
    if not frames:
        raise FusionError("no sensor was given, so there is nothing to fuse; give at least one stream's frame")
    for stream, given in frames.items():
        if not isinstance(given, SensorFrame):
            raise FusionError(
                f"what was given for {stream} is a {type(given).__name__}; give a mile_edge.runtime.SensorFrame of the "
                "frame and its stamp"
            )
        frame = given.frame
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            kind = f"{getattr(frame, 'dtype', type(frame).__name__)} {getattr(frame, 'shape', '')}".strip()
            raise FusionError(f"the frame of {stream} is {kind}, expected (H, W, 3) uint8; map it by its profile first")
        if 0 in frame.shape:
            raise FusionError(f"the frame of {stream} is empty, shape {frame.shape}; give a frame with pixels")


def largest(frames: Mapping[Any, SensorFrame]) -> Hashable:
    """The stream with the most pixels, the first by name of equals."""
    return min(frames, key=lambda stream: (-frames[stream].frame.size, str(stream)))


def _is_flat(frame: np.ndarray) -> bool:
    # A coarse look first: nearly every frame is done with it.
    return _spread(frame[::16, ::16]) < FLAT and _spread(frame) < FLAT


def _spread(frame: np.ndarray) -> int:
    """Largest less smallest value of the channel that varies most: a dead camera may be green, or blue, all over."""
    return int(np.ptp(frame, axis=(0, 1)).max())
