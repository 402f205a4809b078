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
# Parts that an expert's groups are split into, so that each is judged by scales from the others when the limit is set.
_PARTS = 5
# With fewer groups than this, scales from a part of them say little of scales from all: one odd street left out would
# be measured by the others alone, and set a limit that nothing exceeds. Such an expert's frames are judged by their own
# scales, and about twice as many of new ones will exceed the limit as were asked for.
_FEW_GROUPS = 10


def fit_novelty(view: GateView, gate: Gate, known: Mapping[str, Seen], share: float) -> Novelty:
    """Scales and limit from known frames, so that at most ``share`` of frames like them exceed it.

    Every expert's scales are measured on frames that are nearest to it; a few frames too many at one expert are better
    judged by the mean of all of them, towards which the scales are drawn. The limit is set by scores under scales from
    other groups: under its own scales a frame looks more usual than it will on a robot.
    """
    unseen, groups = _unseen_scores(view, gate, known, share)
    limit = tolerance_limit(unseen, groups, share)
    return Novelty(round(max(limit, 1e-3), 4), share, len(np.unique(groups)), _scales(view, known))


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
    halves = [{name: _split(seen, which, 2)[0] for name, seen in known.items()} for which in (0, 1)]
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


def _unseen_scores(
    view: GateView, gate: Gate, known: Mapping[str, Seen], share: float
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N,) of known frames, each by scales from the other parts of the groups, and the groups (N,) in order."""
    found: list[np.ndarray] = []
    groups: list[np.ndarray] = []
    enough = {name: len(np.unique(seen.groups)) >= _FEW_GROUPS for name, seen in known.items()}
    for part in range(_PARTS):
        chosen = {name: _split(seen, part, _PARTS) for name, seen in known.items()}
        rest = {name: others if enough[name] else known[name] for name, (_, others) in chosen.items()}
        judged = {name: mine for name, (mine, _) in chosen.items() if len(mine.groups)}
        found += scores(view, gate, Novelty(1.0, share, 1, _scales(view, rest)), judged).values()
        groups += [seen.groups for seen in judged.values()]
    return np.concatenate(found), np.concatenate(groups)


def _split(seen: Seen, part: int, parts: int) -> tuple[Seen, Seen]:
    """Every so-manieth group, and the others."""
    chosen = np.unique(seen.groups, return_inverse=True)[1] % parts == part
    return Seen(seen.values[chosen], seen.groups[chosen]), Seen(seen.values[~chosen], seen.groups[~chosen])


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
