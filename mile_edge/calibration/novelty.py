"""What the novelty of known frames looks like: its scale per expert, and the limit that few frames exceed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mile_edge.bundle import Gate, Novelty, Scale
from mile_edge.calibration.frames import Seen
from mile_edge.calibration.reader import GateView
from mile_edge.calibration.tail import tolerance_limit

# Of a deviation that few frames tell, so much is taken from all experts together: as if so many more groups agreed.
_PRIOR_GROUPS = 5
_LEAST_DEVIATION = 1e-3


def fit_novelty(view: GateView, gate: Gate, known: Mapping[str, Seen], share: float) -> Novelty:
    """Scales and limit from known frames, so that at most ``share`` of frames like them exceed it.

    Every expert's scales are measured on frames that are nearest to it; a few frames too many at one expert are better
    judged by the mean of all of them, towards which the scales are drawn.
    """
    scales = _scales(view, known)
    draft = Novelty(1.0, share, 1, scales)
    own = scores(view, gate, draft, known)
    groups = np.concatenate([seen.groups for seen in known.values()])
    limit = tolerance_limit(np.concatenate(list(own.values())), groups, share)
    return replace(draft, limit=round(max(limit, 1e-3), 4), groups=len(np.unique(groups)))


def scores(view: GateView, gate: Gate, novelty: Novelty, seen: Mapping[str, Seen]) -> dict[str, np.ndarray]:
    """The score over the limit, (N,), of each domain's frames."""
    model = view.calibrated(replace(gate, novelty=novelty))
    found = {}
    for name, frames in seen.items():
        distance = view.distances(frames.values)
        found[name] = model.score(distance, model.nearest(distance)) / model.limit
    return found


def held_out_scores(
    view: GateView, gate: Gate, known: Mapping[str, Seen], share: float
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Scores of known frames by scales and limit from the other half of the groups, and the groups (N,) in that order.

    Nothing where an expert has a single group.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in known}
    halves = [{name: _half(seen, which) for name, seen in known.items()} for which in (0, 1)]
    if any(len(seen.groups) == 0 for half in halves for seen in half.values()):
        return {}, np.zeros(0, int)
    order: dict[str, list[np.ndarray]] = {name: [] for name in known}
    for fitted, judged in (halves, halves[::-1]):
        for name, of in scores(view, gate, fit_novelty(view, gate, fitted, share), judged).items():
            found[name].append(of)
            order[name].append(judged[name].groups)
    return (
        {name: np.concatenate(of) for name, of in found.items()},
        np.concatenate([np.concatenate(of) for of in order.values()]),
    )


def _half(seen: Seen, which: int) -> Seen:
    """Every other group."""
    place = np.unique(seen.groups, return_inverse=True)[1]
    chosen = place % 2 == which
    return Seen(seen.values[chosen], seen.groups[chosen])


def _scales(view: GateView, known: Mapping[str, Seen]) -> dict[str, Scale]:
    measured: dict[str, np.ndarray] = {}
    groups: dict[str, int] = {}
    for name, seen in sorted(known.items()):
        distance = view.distances(seen.values)
        measured[name] = view.model.measures(distance, np.full(len(distance), view.rows[name]))
        groups[name] = len(np.unique(seen.groups))
    means = {name: of.mean(axis=0) for name, of in measured.items()}
    variances = {name: of.var(axis=0) for name, of in measured.items()}
    total = sum(groups.values())
    usual = np.sum([groups[name] * variances[name] for name in measured], axis=0) / total
    found = {}
    for name in measured:
        drawn = (groups[name] * variances[name] + _PRIOR_GROUPS * usual) / (groups[name] + _PRIOR_GROUPS)
        own, across = np.maximum(np.sqrt(drawn), _LEAST_DEVIATION).tolist()
        mean, mean_across = means[name].tolist()
        found[name] = Scale(*(round(number, 6) for number in (mean, own, mean_across, across)))
    return found
