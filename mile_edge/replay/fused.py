"""What is gathered of fused moments while a bag is replayed, and what the report says of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mile_edge.bundle import ClassLabel
from mile_edge.data.bag_frames import BagFrame
from mile_edge.replay.film import Film, Shot, palette, thumbnails
from mile_edge.replay.scores import LabelScores, mean_iou
from mile_edge.runtime import Fused

# Its outputs lie under /fused, as those of /camera/image_raw lie under /camera.
FUSED = "/fused/image"
NOT_THERE = "no frame within the tolerance"


class FusedTally:
    """Scores, shares and pictures of fused masks, beside those of each sensor at the very same moments.

    Args:
        classes: label space of the masks.
        topics: all that may take part.
    """

    def __init__(self, classes: tuple[ClassLabel, ...], topics: Sequence[str]) -> None:
        self.moments = self.labelled = self.complete = 0
        self.film = Film()
        self._topics = tuple(topics)
        self._scores = LabelScores(len(classes))
        self._colors = palette([label.color for label in classes])
        self._weights: defaultdict[str, float] = defaultdict(float)
        self._took_part: Counter[str] = Counter()
        self._absent: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def add(self, frames: Sequence[BagFrame], result: Fused, domain: str) -> BagFrame:
        """Add one moment; returns the frame whose size and header the fused mask has."""
        shown = next(frame for frame in frames if frame.topic == result.stream)
        self.moments += 1
        self.complete += len(result.sensors) == len(self._topics)
        present = {frame.topic for frame in frames}
        for topic in self._topics:
            if topic not in present:
                self._absent[topic][NOT_THERE] += 1
        for stream, reason in result.absent.items():
            self._absent[str(stream)][reason.partition(":")[0]] += 1
        for stream, share in result.weights.items():
            self._weights[str(stream)] += share
            self._took_part[str(stream)] += 1
        truth = self._truth(frames, shown)
        miou = None if truth is None else self._score(frames, result, truth, domain)
        confidence = float(result.confidence.mean()) / 255

        def shoot() -> Shot:
            pictures = thumbnails(shown.frame, result.mask, truth, self._colors)
            told = "fused: " + ", ".join(f"{stream} {share:.2f}" for stream, share in result.weights.items())
            return Shot(
                FUSED, shown.kind, domain, told, None, shown.time, confidence, 0.0, False, miou, *pictures
            )  # fmt: skip

        self.film.offer(FUSED, domain, miou, None, shoot)
        return replace(shown, topic=FUSED)

    def report(self) -> dict[str, Any]:
        """As plain values for `report.json`."""
        return {
            "moments": self.moments,
            "complete": self.complete,
            "labelled": self.labelled,
            "miou": _rounded(self._scores.of(topic=FUSED)),
            "miou_by_domain": self._by_domain(FUSED),
            "sensors": {
                topic: {
                    "moments": self._took_part[topic],
                    "weight": round(self._weights[topic] / self._took_part[topic], 4)
                    if self._took_part[topic]
                    else None,
                    "miou": _rounded(self._scores.of(topic=topic)),
                    "miou_by_domain": self._by_domain(topic),
                    "absent": dict(self._absent[topic].most_common()),
                }
                for topic in self._topics
            },
        }

    def _by_domain(self, topic: str) -> dict[str, float | None]:
        return {domain: _rounded(self._scores.of(topic=topic, domain=domain)) for domain in self._scores.domains}

    @staticmethod
    def _truth(frames: Sequence[BagFrame], shown: BagFrame) -> np.ndarray | None:
        """The label of the frame that is shown, or of a sensor that sees the same pixels."""
        for frame in (shown, *frames):
            if frame.label is not None and frame.label.shape == shown.frame.shape[:2]:
                return frame.label
        return None

    def _score(self, frames: Sequence[BagFrame], result: Fused, truth: np.ndarray, domain: str) -> float | None:
        self.labelled += 1
        for frame in frames:
            if frame.label is not None and frame.topic in result.sensors:
                self._scores.add(frame.topic, domain, frame.label, result.sensors[frame.topic].mask[0])
        return self._scores.add(FUSED, domain, truth, result.mask)


def _rounded(counts: np.ndarray) -> float | None:
    value = mean_iou(counts)
    return None if value is None else round(value, 4)
