"""Latency percentiles per stage, in memory that does not grow with the bag."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import numpy as np

PERCENTILES = (50, 95, 99)
# Exact up to this many frames; beyond, a uniform sample of this size, whose p99 is off by a tenth of a rank or so.
SAMPLE = 16384


class Latency:
    """Milliseconds per stage."""

    def __init__(self) -> None:
        self._samples: dict[str, list[float]] = {}
        self._merged: list[tuple[dict[str, list[float]], float]] = []
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

    def sample(self, most: int = 1024) -> dict[str, list[float]]:
        """Stage to at most `most` of its values, evenly spread over its range, in rising order."""
        spread = {}
        for stage, values in self._samples.items():
            ordered = sorted(values)
            places = np.linspace(0, len(ordered) - 1, min(most, len(ordered))).round().astype(int)
            spread[stage] = [round(ordered[place], 3) for place in places]
        return spread

    def merge(self, sample: Mapping[str, Sequence[float]], frames: int) -> None:
        """Add what another replay's `sample` stands for: so many frames."""
        count = max((len(values) for values in sample.values()), default=0)
        if count:
            self._merged.append(({stage: list(values) for stage, values in sample.items()}, frames / count))

    def percentiles(self) -> dict[str, dict[str, float]]:
        """Stage to {"p50", "p95", "p99"} in milliseconds; empty where no frame was added."""
        if self._merged:
            own = [(self._samples, self._seen / max(map(len, self._samples.values())))] if self._samples else []
            return _weighted([*own, *self._merged])
        return {
            stage: {f"p{rank}": round(float(np.percentile(sample, rank)), 3) for rank in PERCENTILES}
            for stage, sample in self._samples.items()
        }


def _weighted(parts: Sequence[tuple[Mapping[str, Sequence[float]], float]]) -> dict[str, dict[str, float]]:
    found = {}
    for stage in dict.fromkeys(stage for samples, _ in parts for stage in samples):
        values = np.concatenate([np.asarray(samples.get(stage, ()), np.float64) for samples, _ in parts])
        weights = np.concatenate([np.full(len(samples.get(stage, ())), weight) for samples, weight in parts])
        order = np.argsort(values, kind="stable")
        # A value stands for the middle of its share, so that the median of two equal parts lies between them.
        ranks = (np.cumsum(weights[order]) - weights[order] / 2) / weights.sum() * 100
        found[stage] = {f"p{rank}": round(float(np.interp(rank, ranks, values[order])), 3) for rank in PERCENTILES}
    return found
