"""Pairing images with their labels by stamp, in a stream, with a bounded wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

# Stamps that went through a float differ by microseconds; the next frame of a fast camera is 5 ms away.
TOLERANCE_NS = 1_000_000
# How long an image waits for its label in bag time: offline labellers copy the stamp, live ones lag by their latency.
WAIT_NS = 2_000_000_000
MAX_WAITING_BYTES = 64 << 20


@dataclass(eq=False)
class Label:
    """A label on its way to its image.

    Attributes:
        stamp, time: of its header and of its recording, nanoseconds.
        value: whatever its reader wants back.
        problem: why it cannot be used; its image need not wait for another all the same.
        used: for its reader to note that an image took it.
    """

    stamp: int
    time: int
    value: Any
    problem: str | None = None
    used: bool = False


@dataclass(eq=False)
class Waiting:
    """An image message, with what must be remembered of the moment it arrived."""

    stamp: int
    time: int
    value: Any
    domain: str | None
    size: int
    label: Label | None = field(default=None)


class Pairing:
    """Pairs the images of one topic with the labels of another.

    An image takes the label with its own stamp, or the nearest within `TOLERANCE_NS` once waiting is over. Images come
    out in the order in which they came in. Waiting ends after `WAIT_NS` of bag time or beyond `MAX_WAITING_BYTES`.
    """

    def __init__(self) -> None:
        self._images: deque[Waiting] = deque()
        self._bytes = 0
        self._labels: dict[int, Label] = {}

    def add_label(self, label: Label) -> None:
        """Keep a label until its image comes, or for `WAIT_NS`; one that cannot be used displaces none."""
        if label.problem is None or label.stamp not in self._labels:
            self._labels[label.stamp] = label

    def add_image(self, image: Waiting) -> None:
        """Keep an image until its label comes."""
        self._images.append(image)
        self._bytes += image.size

    def ready(self, now: int) -> Iterator[Waiting]:
        """Yield the images that need not wait any longer at bag time `now`, nanoseconds."""
        while self._images:
            image = self._images[0]
            label = self._labels.get(image.stamp)
            if label is None:
                if now - image.time <= WAIT_NS and self._bytes <= MAX_WAITING_BYTES:
                    break
                label = self._nearest(image.stamp)
            yield self._take(label)
        self._forget(now)

    def rest(self) -> Iterator[Waiting]:
        """Yield all images that still wait: the bag is over."""
        while self._images:
            stamp = self._images[0].stamp
            yield self._take(self._labels.get(stamp) or self._nearest(stamp))

    def _take(self, label: Label | None) -> Waiting:
        image = self._images.popleft()
        self._bytes -= image.size
        if label is not None:
            image.label = self._labels.pop(label.stamp)
        return image

    def _nearest(self, stamp: int) -> Label | None:
        nearest = min(self._labels.values(), key=lambda label: abs(label.stamp - stamp), default=None)
        return nearest if nearest is not None and abs(nearest.stamp - stamp) <= TOLERANCE_NS else None

    def _forget(self, now: int) -> None:
        """Drop labels whose image never came, oldest first; an image that still waits keeps those near it."""
        horizon = min(now, self._images[0].time if self._images else now) - WAIT_NS
        while self._labels:
            oldest = next(iter(self._labels.values()))
            if oldest.time >= horizon and len(self._labels) <= 256:
                break
            del self._labels[oldest.stamp]
