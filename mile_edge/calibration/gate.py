"""Novelty thresholds and hysteresis of a bundle's gate, from frames that no expert was trained on."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mile_edge.calibration.roc import Roc, make_roc
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
        false_alarms: share of known frames beyond their expert's threshold, which these very frames have set.
        false_alarms_unseen: the same with each half of an expert's frames judged by a threshold from the other half;
            ``None`` where an expert has a single frame.
        auroc: known against unknown frames by distance beyond the threshold; ``None`` without unknown frames.
        detected: share of unknown frames beyond the threshold of the expert they went to; ``None`` without any.
        frames: frames looked at, known and unknown.
        roc: for each unknown domain, and for each expert's own frames as unknown when its row is switched off; among
            experts with a threshold, since the others never call a frame novel.
    """

    thresholds: dict[str, float]
    hysteresis: float
    accuracy: float
    false_alarms: float
    false_alarms_unseen: float | None
    auroc: float | None
    detected: float | None
    frames: tuple[int, int]
    roc: tuple[Roc, ...]

    def account(self) -> dict[str, Any]:
        """All of it as plain values, but for the points of the curves."""
        values = asdict(self)
        for curve in values["roc"]:
            del curve["curve"]
        return values


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
    experts = segmenter.bundle.choices()
    frames: dict[str, list[np.ndarray]] = defaultdict(list)
    foreign: dict[str, list[np.ndarray]] = defaultdict(list)
    done = 0
    for folder in folders:
        right = right_expert(experts, folder.sensor, folder.domain)
        for sample in folder:
            distance = segmenter(sample.frame, sensor=folder.sensor).distance[0]
            (frames[right] if right else foreign[folder.domain]).append(distance)
            done += 1
            report(done)
    if not frames:
        domains = ", ".join(sorted({folder.domain for folder in folders}))
        raise DataError(f"no expert knows the domains {domains}; give held-out frames of at least one known domain")
    rows = segmenter.rows
    known = {name: np.stack(of) for name, of in frames.items()}
    unknown = {name: np.stack(of) for name, of in foreign.items()}
    thresholds = _thresholds(known, rows, percentile)
    before = segmenter.manifest.gate.thresholds
    nearest = _judge(rows, {**before, **thresholds})
    # How far a frame of one domain was ever drawn to a wrong expert: a stream that stays put needs no more than this.
    gaps = np.concatenate([of[:, rows[name]] - of[:, nearest.used].min(axis=1) for name, of in known.items()])
    wrong = gaps[gaps > 0]
    inside = nearest.beyond(np.concatenate(list(known.values())))
    outside = nearest.beyond(np.concatenate(list(unknown.values()))) if unknown else np.zeros(0)
    margin = float(np.percentile(wrong, 95)) if len(wrong) else 0.0
    score = nearest.calibrated().beyond
    alike = score(np.concatenate(list(known.values())))
    curves = [make_roc(name, False, alike, score(of)) for name, of in sorted(unknown.items())]
    together = make_roc("", False, inside, outside) if unknown else None
    return GateCalibration(
        thresholds=dict(sorted(thresholds.items())),
        hysteresis=round(max(HYSTERESIS[segmenter.manifest.gate.kind], margin), 4),
        accuracy=1 - len(wrong) / len(gaps),
        false_alarms=float((inside > 0).mean()),
        false_alarms_unseen=_unseen(known, rows, before, percentile),
        auroc=together.auc if together else None,
        detected=float((outside > 0).mean()) if unknown else None,
        frames=(len(inside), len(outside)),
        roc=(*curves, *_left_out(known, nearest.calibrated(), rows)),
    )


def _judge(rows: Mapping[str, int], thresholds: Mapping[str, float]) -> _Nearest:
    limits = np.full(max(rows.values()) + 1, np.inf)
    for name, limit in thresholds.items():
        limits[rows[name]] = limit
    return _Nearest(np.array(sorted(rows.values())), limits)


def _thresholds(known: Mapping[str, np.ndarray], rows: Mapping[str, int], percentile: float) -> dict[str, float]:
    # Four digits are written, rounded up: rounded down, the very frame that set a threshold would lie beyond it.
    return {name: math.ceil(np.percentile(of[:, rows[name]], percentile) * 1e4) / 1e4 for name, of in known.items()}


def _unseen(
    known: Mapping[str, np.ndarray], rows: Mapping[str, int], before: Mapping[str, float], percentile: float
) -> float | None:
    """False alarms on frames that did not set the threshold; halves, since neighbours in a film are nearly equal."""
    if any(len(of) < 2 for of in known.values()):
        return None
    alarms: list[np.ndarray] = []
    for order in ((0, 1), (1, 0)):
        halves = [{name: np.array_split(of, 2)[which] for name, of in known.items()} for which in order]
        nearest = _judge(rows, {**before, **_thresholds(halves[0], rows, percentile)})
        alarms += [nearest.beyond(of) > 0 for of in halves[1].values()]
    return float(np.concatenate(alarms).mean())


def _left_out(known: Mapping[str, np.ndarray], nearest: _Nearest, rows: Mapping[str, int]) -> list[Roc]:
    """Each expert's frames as unknown to the others. The whitening still knows its scatter, as with a row closed."""
    curves = []
    for name, of in known.items():
        others = [theirs for other, theirs in known.items() if other != name]
        if others:
            score = nearest.without(rows[name]).beyond
            curves.append(make_roc(name, True, score(np.concatenate(others)), score(of)))
    return curves


class _Nearest:
    """Judges frames as the runtime does: by the threshold of the nearest expert.

    Args:
        used: rows that hold an expert; the others' distances have no meaning.
        limits: (E,) threshold of each row, infinite where there is none.
    """

    def __init__(self, used: np.ndarray, limits: np.ndarray) -> None:
        self.used, self._limits = used, limits

    def calibrated(self) -> _Nearest:
        """The same without the rows that have no threshold."""
        return _Nearest(self.used[np.isfinite(self._limits[self.used])], self._limits)

    def without(self, row: int) -> _Nearest:
        """The same with one row switched off."""
        return _Nearest(self.used[self.used != row], self._limits)

    def beyond(self, distances: np.ndarray) -> np.ndarray:
        """(N, E) distances to (N,) by how much each frame's nearest expert is farther than its threshold."""
        best = self.used[distances[:, self.used].argmin(axis=1)]
        return distances[np.arange(len(distances)), best] - self._limits[best]
