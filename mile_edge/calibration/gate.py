"""Novelty thresholds and hysteresis of a bundle's gate, from frames that no expert was trained on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mile_edge.data.folder import FolderDataset
from mile_edge.errors import DataError
from mile_edge.replay.gate import right_expert
from mile_edge.runtime import Segmenter


@dataclass(frozen=True)
class GateCalibration:
    """What was found.

    Attributes:
        thresholds: expert name to the distance beyond which a frame is novel.
        hysteresis: distance by which another expert must be nearer before a stream changes to it.
        accuracy: share of known frames whose nearest expert is the right one, before hysteresis.
        false_alarms: share of known frames beyond their expert's threshold.
        auroc: known against unknown frames by distance over threshold; ``None`` without unknown frames.
        detected: share of unknown frames beyond the threshold of the expert they went to; ``None`` without any.
        frames: frames looked at, known and unknown.
    """

    thresholds: dict[str, float]
    hysteresis: float
    accuracy: float
    false_alarms: float
    auroc: float | None
    detected: float | None
    frames: tuple[int, int]


def calibrate_gate(
    segmenter: Segmenter,
    folders: Sequence[FolderDataset],
    percentile: float = 99.0,
    report: Callable[[int], None] = lambda _: None,
) -> GateCalibration:
    """Distances of held-out frames decide each expert's threshold and the margin between experts.

    Args:
        segmenter: an open bundle.
        folders: held-out frames; those of domains that no expert is right for count as unknown.
        percentile: of an expert's own distances that its threshold lies at.

    Raises:
        DataError: no folder shows a domain that an expert knows.
    """
    experts = segmenter.bundle.experts()
    known: dict[str, list[np.ndarray]] = defaultdict(list)
    unknown: list[np.ndarray] = []
    done = 0
    for folder in folders:
        right = right_expert(experts, folder.sensor, folder.domain)
        for sample in folder:
            distance = segmenter(sample.frame, sensor=folder.sensor).distance[0]
            (known[right] if right else unknown).append(distance)
            done += 1
            report(done)
    if not known:
        domains = ", ".join(sorted({folder.domain for folder in folders}))
        raise DataError(f"no expert knows the domains {domains}; give held-out frames of at least one known domain")
    rows = segmenter.rows
    thresholds = {name: float(np.percentile(np.stack(of)[:, rows[name]], percentile)) for name, of in known.items()}
    limits = np.full(len(next(iter(known.values()))[0]), np.inf)
    for name, limit in thresholds.items():
        limits[rows[name]] = limit
    # How far a frame of one domain was ever drawn to a wrong expert: a stream that stays put needs no more than this.
    excess = [d[rows[name]] - d.min() for name, of in known.items() for d in of]
    wrong = [gap for gap in excess if gap > 0]
    everything = np.concatenate([np.stack(of) for of in known.values()])
    known_ratio = (everything / limits).min(axis=1)
    unknown_ratio = (np.stack(unknown) / limits).min(axis=1) if unknown else np.zeros(0)
    return GateCalibration(
        thresholds={name: round(limit, 4) for name, limit in sorted(thresholds.items())},
        hysteresis=round(max(0.5, float(np.percentile(wrong, 95)) if wrong else 0.5), 4),
        accuracy=1 - len(wrong) / len(excess),
        false_alarms=float((known_ratio > 1).mean()),
        auroc=auroc(known_ratio, unknown_ratio) if unknown else None,
        detected=float((unknown_ratio > 1).mean()) if unknown else None,
        frames=(len(everything), len(unknown)),
    )


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """Chance that an unknown frame scores higher than a known one, ties counting half.

    >>> auroc(np.array([0.1, 0.2]), np.array([0.2, 0.9]))
    0.875
    """
    higher = (unknown[:, None] > known[None]).mean()
    return float(higher + 0.5 * (unknown[:, None] == known[None]).mean())
