"""What a pass says about frames."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Segmentation:
    """What one pass says about a batch.

    Attributes:
        mask: (B, H, W) uint8 class ids, of the frames' own size; on the device where that was asked for.
        confidence: (B, H, W) uint8, 255 for certain; on the device where that was asked for.
        expert: name of the expert that each sample went through.
        expert_index: (B,) int32, its row in the bank.
        distance: (B, E) float32 from each sample to each row's nearest prototype; rows without an
            expert hold a number without meaning.
        weights: (B, E) float32, how much of each row went into the sample's mask: 1 for the expert, unless the gate
            mixes several, of which ``expert`` is the nearest.
        novel: (B,) bool, the sample's stream shows a domain that no expert knows, by its last frames together.
        novelty: (B,) float32, the smoothed score that this follows from, 1 at the limit; NaN without calibration.
        frame_novelty: (B,) float32, the score of the sample alone, novel by itself beyond 1.
        timings: milliseconds spent in ``resize``, ``network``, ``restore`` and in ``total``.
    """

    mask: Any
    confidence: Any
    expert: tuple[str, ...]
    expert_index: np.ndarray
    distance: np.ndarray
    weights: np.ndarray
    novel: np.ndarray
    novelty: np.ndarray
    frame_novelty: np.ndarray
    timings: Mapping[str, float]


def stage_times(started: float, ready: float, passed: float) -> dict[str, float]:
    """Milliseconds of the stages up to now, from the moments at which the earlier ones ended."""
    done = time.perf_counter()
    parts = {"resize": ready - started, "network": passed - ready, "restore": done - passed, "total": done - started}
    return {stage: seconds * 1e3 for stage, seconds in parts.items()}
