"""Sample frames for the report as small JPEGs: evenly spread ones, and the hardest and strangest."""

from __future__ import annotations

import heapq
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mile_edge.data.encodings import JPEG_SIDE

PER_STRIP = 6
EXTREMES = 6
MAX_STRIPS = 24
_WIDTH, _HEIGHT = 320, 960
_QUALITY = 80


@dataclass(frozen=True)
class Shot:
    """One frame as the report shows it.

    Attributes:
        topic, kind, domain, expert, right: what it is; `right` is the expert that would be right, None where unknown.
        time: bag time, nanoseconds.
        confidence: mean over the pixels, 0..1.
        novelty: its stream's score, 1 at the limit.
        novel: the segmenter called it novel.
        miou: against its label, None where it has none.
        picture, overlay, truth: JPEG bytes; truth None where there is no label.
    """

    topic: str
    kind: str
    domain: str | None
    expert: str
    right: str | None
    time: int
    confidence: float
    novelty: float
    novel: bool
    miou: float | None
    picture: bytes
    overlay: bytes
    truth: bytes | None


class Film:
    """Keeps at most `PER_STRIP` shots for each topic and domain, and the `EXTREMES` worst and most novel frames."""

    def __init__(self) -> None:
        self._strips: dict[tuple[str, str | None], _Strip] = {}
        self._hard: list[tuple[float, int, Shot]] = []
        self._novel: list[tuple[float, int, Shot]] = []
        self._serial = 0

    def offer(
        self,
        topic: str,
        domain: str | None,
        miou: float | None,
        novelty: float | None,
        shoot: Callable[[], Shot],
    ) -> None:
        """Offer a frame; `shoot` is called, once, only if it is kept.

        Args:
            topic: half of the strip it belongs to.
            domain: the other half.
            miou: against its label, None where it has none.
            novelty: how novel it is, None where it is not.
            shoot: makes the shot, which costs a few milliseconds.
        """
        self._serial += 1
        taken: list[Shot] = []

        def once() -> Shot:
            if not taken:
                taken.append(shoot())
            return taken[0]

        if (topic, domain) in self._strips or len(self._strips) < MAX_STRIPS:
            self._strips.setdefault((topic, domain), _Strip()).offer(once)
        if miou is not None:
            self._keep(self._hard, -miou, once)
        if novelty is not None:
            self._keep(self._novel, novelty, once)

    def strips(self) -> dict[tuple[str, str | None], list[Shot]]:
        """(topic, domain) to its shots in order of time."""
        return {key: strip.spread() for key, strip in self._strips.items()}

    def hardest(self) -> list[Shot]:
        """The frames with the lowest mean IoU, worst first."""
        return [shot for _, _, shot in sorted(self._hard, reverse=True)]

    def most_novel(self) -> list[Shot]:
        """The most novel frames, strangest first."""
        return [shot for _, _, shot in sorted(self._novel, reverse=True)]

    def _keep(self, heap: list[tuple[float, int, Shot]], rank: float, shoot: Callable[[], Shot]) -> None:
        if len(heap) < EXTREMES:
            heapq.heappush(heap, (rank, self._serial, shoot()))
        elif rank > heap[0][0]:
            heapq.heapreplace(heap, (rank, self._serial, shoot()))


class _Strip:
    """Every n-th frame, n doubling whenever more than twice `PER_STRIP` are kept."""

    def __init__(self) -> None:
        self.shots: list[Shot] = []
        self._seen = 0
        self._stride = 1

    def offer(self, shoot: Callable[[], Shot]) -> None:
        if self._seen % self._stride == 0:
            self.shots.append(shoot())
            if len(self.shots) > 2 * PER_STRIP:
                self.shots = self.shots[::2]
                self._stride *= 2
        self._seen += 1

    def spread(self) -> list[Shot]:
        """At most `PER_STRIP` shots, from the first to the last."""
        last = len(self.shots) - 1
        if last < PER_STRIP:
            return self.shots
        return [self.shots[round(place * last / (PER_STRIP - 1))] for place in range(PER_STRIP)]


def palette(colors: list[tuple[int, int, int]]) -> np.ndarray:
    """(256, 3) uint8: class id to colour; ids without one, void among them, are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colors)] = colors
    return table


def blend(frame: np.ndarray, mask: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Lay class colours over a frame.

    Args:
        frame: (H, W, 3) uint8.
        mask: (H, W) uint8 class ids.
        colors: (256, 3) uint8.

    Returns:
        (H, W, 3) uint8.
    """
    # In Pillow, which takes a quarter of numpy's time for both steps.
    painted = Image.fromarray(mask)
    painted.putpalette(colors.tobytes())
    mixed = Image.blend(Image.fromarray(np.ascontiguousarray(frame)), painted.convert("RGB"), 0.6)
    return np.asarray(mixed)


def thumbnails(
    frame: np.ndarray, mask: np.ndarray, truth: np.ndarray | None, colors: np.ndarray
) -> tuple[bytes, bytes, bytes | None]:
    """JPEG bytes of a frame, its overlay, and the overlay of its truth, each within 320 x 960 pixels."""
    small = _within(Image.fromarray(np.ascontiguousarray(frame)), _WIDTH, _HEIGHT)
    base = np.asarray(small)

    def over(ids: np.ndarray) -> bytes:
        fitted = np.asarray(Image.fromarray(ids).resize(small.size, Image.Resampling.NEAREST))
        return jpeg(blend(base, fitted, colors), _QUALITY)

    return jpeg(base, _QUALITY), over(mask), None if truth is None else over(truth)


def jpeg(picture: np.ndarray, quality: int) -> bytes:
    """JPEG bytes of a picture (H, W, 3) uint8; a side beyond `JPEG_SIDE` is shrunk, and the other in proportion."""
    sink = io.BytesIO()
    _within(Image.fromarray(picture), JPEG_SIDE, JPEG_SIDE).save(sink, "JPEG", quality=quality)
    return sink.getvalue()


def _within(picture: Image.Image, width: int, height: int) -> Image.Image:
    """A picture shrunk so that it fits; one that does is given back."""
    share = min(width / picture.width, height / picture.height)
    if share >= 1:
        return picture
    size = (max(1, round(picture.width * share)), max(1, round(picture.height * share)))
    return picture.resize(size, Image.Resampling.BILINEAR)
