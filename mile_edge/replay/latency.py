"""Latency percentiles per stage, in memory that does not grow with the bag."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np

PERCENTILES = (50, 95, 99)
# Exact up to this many frames; beyond, a uniform sample of this size, whose p99 is off by a tenth of a rank or so.
SAMPLE = 16384


class Latency:
    """Milliseconds per stage."""

    def __init__(self) -> None:
        self._samples: dict[str, list[float]] = {}
        self._seen = 0
        self._random = random.Random(0)

    def add(self, stages: Mapping[str, float]) -> None:
        """Add one frame: stage to milliseconds, the same stages for every frame."""
        self._seen += 1
        # Reservoir sampling; one place for all stages, so that the stages of a frame stay together.
        place = self._seen - 1 if self._seen <= SAMPLE else self._random.randrange(self._seen)
        for stage, value in stages.items():
            sample = self._samples.setdefault(stage, [])
            if place == len(sample):
                sample.append(value)
            elif place < len(sample):
                sample[place] = value

    def percentiles(self) -> dict[str, dict[str, float]]:
        """Stage to {"p50", "p95", "p99"} in milliseconds; empty where no frame was added."""
        return {
            stage: {f"p{rank}": round(float(np.percentile(sample, rank)), 3) for rank in PERCENTILES}
            for stage, sample in self._samples.items()
        }
