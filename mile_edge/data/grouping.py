"""Frames of several topics that belong to one moment, by their stamps, in a stream, with a bounded wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator

from mile_edge.data.bag_frames import BagFrame
from mile_edge.data.pairing import WAIT_NS

# A frame may wait for its label that long before it comes here, so its neighbours wait a little longer.
_PATIENCE_NS = WAIT_NS + 500_000_000
_MAX_WAITING = 96


def stamp_of(frame: BagFrame) -> int:
    """A frame's stamp in nanoseconds; the moment of recording where its driver never set one."""
    seconds, nanoseconds = frame.stamp
    return seconds * 1_000_000_000 + nanoseconds or frame.time


def moments(frames: Iterable[BagFrame], topics: Collection[str], tolerance_ns: int) -> Iterator[list[BagFrame]]:
    """Group frames: a moment is the oldest frame that waits and the first of every other topic not later by more.

    Args:
        frames: in the order of each topic.
        topics: that frames may come from.
        tolerance_ns: how much later than the oldest of a moment its others may be stamped, nanoseconds.

    Yields:
        at most one frame per topic, at least one in all; every frame is in one moment.
    """
    waiting: dict[str, deque[BagFrame]] = {topic: deque() for topic in topics}
    for frame in frames:
        waiting.setdefault(frame.topic, deque()).append(frame)
        while moment := _ready(waiting, frame.time, tolerance_ns):
            yield moment
    while any(waiting.values()):
        yield _take(waiting, tolerance_ns)


def _ready(waiting: dict[str, deque[BagFrame]], now: int, tolerance_ns: int) -> list[BagFrame]:
    """The next moment if no topic can still add to it; else nothing."""
    heads = [queue[0] for queue in waiting.values() if queue]
    if not heads:
        return []
    oldest = min(heads, key=stamp_of)
    overdue = now - oldest.time > _PATIENCE_NS or sum(map(len, waiting.values())) > _MAX_WAITING
    return _take(waiting, tolerance_ns) if overdue or all(waiting.values()) else []


def _take(waiting: dict[str, deque[BagFrame]], tolerance_ns: int) -> list[BagFrame]:
    end = min(stamp_of(queue[0]) for queue in waiting.values() if queue) + tolerance_ns
    return [queue.popleft() for queue in waiting.values() if queue and stamp_of(queue[0]) <= end]
