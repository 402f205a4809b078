"""Novelty thresholds and hysteresis of a bundle's gate, from frames that no expert was trained on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mile_edge.data.folder import FolderDataset
from mile_edge.errors import DataError
from mile_edge.replay.gate import right_expert
from mile_edge.runtime import Segmenter
from mile_edge.runtime.gate_inputs import HYSTERESIS


@dataclass(frozen=True)
class GateCalibration:
    """What was found.

    Attributes:
        thresholds: expert name to the distance beyond which a frame is novel.
        hysteresis: distance by which another expert must be nearer before a stream changes to it.
        accuracy: share of known frames whose nearest expert is the right one, before hysteresis.
        false_alarms: share of known frames beyond their expert's threshold.
        auroc: known against unknown frames by distance beyond the threshold; ``None`` without unknown frames.
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
    nearest = _Nearest(rows, {**segmenter.manifest.gate.thresholds, **thresholds})
    # How far a frame of one domain was ever drawn to a wrong expert: a stream that stays put needs no more than this.
    gaps = [float(d[rows[name]] - d[nearest.used].min()) for name, of in known.items() for d in of]
    wrong = [gap for gap in gaps if gap > 0]
    inside = nearest.beyond(np.concatenate([np.stack(of) for of in known.values()]))
    outside = nearest.beyond(np.stack(unknown)) if unknown else np.zeros(0)
    margin = float(np.percentile(wrong, 95)) if wrong else 0.0
    return GateCalibration(
        thresholds={name: round(limit, 4) for name, limit in sorted(thresholds.items())},
        hysteresis=round(max(HYSTERESIS[segmenter.manifest.gate.kind], margin), 4),
        accuracy=1 - len(wrong) / len(gaps),
        false_alarms=float((inside > 0).mean()),
        auroc=auroc(inside, outside) if unknown else None,
        detected=float((outside > 0).mean()) if unknown else None,
        frames=(len(inside), len(outside)),
    )


class _Nearest:
    """Judges frames as the runtime does: by the threshold of the nearest expert, rows without one left out."""

    def __init__(self, rows: Mapping[str, int], thresholds: Mapping[str, float]) -> None:
        self.used = np.array(sorted(rows.values()))
        self._limits = np.full(self.used.max() + 1, np.inf)
        for name, limit in thresholds.items():
            self._limits[rows[name]] = limit

    def beyond(self, distances: np.ndarray) -> np.ndarray:
        """(N, E) distances to (N,) by how much each frame's nearest expert is farther than its threshold."""
        best = self.used[distances[:, self.used].argmin(axis=1)]
        return distances[np.arange(len(distances)), best] - self._limits[best]


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """Chance that an unknown frame scores higher than a known one, ties counting half.

    >>> auroc(np.array([0.1, 0.2]), np.array([0.2, 0.9]))
    0.875
    """
    higher = (unknown[:, None] > known[None]).mean()
    return float(higher + 0.5 * (unknown[:, None] == known[None]).mean())
