"""How novel one frame is, told from the distances to all experts that the graph puts out.

Two distances of a frame from its nearest expert are compared with what is expected of them: the one in all directions
of the gate's feature, and the one *across*, in the few directions in which the experts themselves differ. The second
tells far more: an unusual street under a known weather moves a frame in all directions, an unknown weather in those in
which weathers differ. The gate's distances to several fixed points give it without a look at the feature itself:
squared distances to known points are linear in the place between them (multilateration).

What is expected follows in closed form from the scatter that every expert file carries, so a new expert is judged from
its first frame on; calibration measures what is left, per expert. Cube roots of squared distances are nearly normal
whatever the number of directions (Wilson and Hilferty, PNAS 1931), which makes both comparable. [choice, measured in
docs/results.md]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mile_edge.bundle import Expert, Gate, Scale
from mile_edge.bundle.gate import MIXING_KINDS, SIGNED_KINDS
from mile_edge.errors import BundleError

# What the standardised distance in all directions weighs beside the one across, divided by the number of directions
# across: with two experts there is one, which misses much; with eight the seven tell nearly all. Looked for on some of
# the world's streets (seven directions) and on CamVid's day beside thermal (one).
WEIGHT = 2.5
# Directions in which experts lie closer together than this share of their greatest spread would only add rounding.
_FLAT = 1e-3
_SINGLE_POINT = ("mahalanobis", *MIXING_KINDS, "l2", "cosine", "attribute")


class NoveltyModel:
    """Scores distances; made anew whenever an expert comes or goes.

    Args:
        experts: that the gate may choose, in any order.
        rows: expert name to its place among the distances.
        gate: of the bundle, calibrated or not.
        prototypes: (E, K, D) as the graph reads them.
        whitening: (D, D) as the graph reads it.

    Attributes:
        limit: score beyond which a frame is novel.
        calibrated: whether there is anything to judge by; without it nothing is ever novel.

    Raises:
        BundleError: the experts' statistics give no finite distances.
    """

    def __init__(
        self,
        experts: Sequence[Expert],
        rows: Mapping[str, int],
        gate: Gate,
        prototypes: np.ndarray,
        whitening: np.ndarray,
    ) -> None:
        ordered = sorted((expert for expert in experts if expert.name in rows), key=lambda expert: rows[expert.name])
        self._rows = np.array([rows[expert.name] for expert in ordered], int)
        self._place = np.full(len(prototypes), -1)
        self._place[self._rows] = np.arange(len(ordered))
        self._signed = gate.kind in SIGNED_KINDS
        self._points, self._solve, self._directions = _span(gate, prototypes[self._rows, 0], whitening)
        self._expected = self._expectations(ordered, gate, whitening)
        for place, expert in enumerate(ordered):
            if not np.isfinite(self._expected[place]).all():
                raise BundleError(
                    f"the gate statistics of {expert.name} give no finite distances; remove it, or calibrate it again"
                )
        self._scales, self._votes = self._scale_table([expert.name for expert in ordered], gate)
        self.calibrated = self._scales is not None or bool(np.isfinite(self._votes).any())
        self.limit = gate.novelty.limit if gate.novelty is not None and self._scales is not None else 1.0

    def nearest(self, distance: np.ndarray) -> np.ndarray:
        """The row (B,) of the nearest expert of each sample, by distances (B, E)."""
        return np.asarray(self._rows[distance[:, self._rows].argmin(axis=1)])

    def measures(self, distance: np.ndarray, nearest: np.ndarray) -> np.ndarray:
        """(B, 2): cube-rooted squared distance over its expectation, in all directions and across; (B,) rows given."""
        place = self._place[nearest]
        own = distance[np.arange(len(distance)), nearest].astype(np.float64)
        if self._signed:
            return np.stack([own, np.zeros_like(own)], axis=1)
        found = [own]
        if len(self._solve):
            squared = distance[:, self._rows].astype(np.float64) ** 2
            given = (np.square(self._points).sum(axis=1) - squared) / 2
            where = (given - given.mean(axis=1, keepdims=True)) @ self._solve.T
            found.append(np.sqrt(np.square(where - self._points[place]).sum(axis=1)))
        else:
            found.append(np.zeros_like(own))
        return np.asarray((np.stack(found, axis=1) / self._expected[place]) ** (2 / 3))

    def score(self, distance: np.ndarray, nearest: np.ndarray) -> np.ndarray:
        """The novelty (B,) of distances (B, E), about 0 for a usual frame and beyond ``limit`` for a novel one.

        A bundle with thresholds only says 2 for a frame beyond its expert's and 0 for others; NaN is for nothing known.
        """
        if self._scales is None:
            own = distance[np.arange(len(distance)), nearest]
            known = self._votes[nearest]
            return np.where(np.isfinite(known), np.where(own > known, 2.0, 0.0), np.nan)
        scales = self._scales[self._place[nearest]]
        standard = (self.measures(distance, nearest) - scales[:, 0::2]) / scales[:, 1::2]
        directions = len(self._solve)
        return np.asarray(standard[:, 1] + WEIGHT / directions * standard[:, 0] if directions else standard[:, 0])

    def _expectations(self, experts: Sequence[Expert], gate: Gate, whitening: np.ndarray) -> np.ndarray:
        """(E, 2) root mean square distances of each expert's own training frames from their mean."""
        found = np.ones((len(experts), 2))
        if self._signed or gate.kind == "cosine":
            return found
        whitening = whitening.astype(np.float64)
        for place, expert in enumerate(experts):
            covariance = np.asarray(expert.scatter, np.float64) / max(1, expert.count - 1)
            spread = whitening @ covariance @ whitening.T
            across = np.trace(self._directions.T @ spread @ self._directions) if self._directions.size else 1.0
            found[place] = np.sqrt(np.maximum((np.trace(spread), across), 1e-12))
        return found

    def _scale_table(self, names: Sequence[str], gate: Gate) -> tuple[np.ndarray | None, np.ndarray]:
        """(E, 4) scales of the experts in order, and (rows,) plain thresholds for bundles that have no scales."""
        votes = np.full(len(self._place), np.inf)
        for name, row in zip(names, self._rows, strict=True):
            votes[row] = gate.thresholds.get(name, np.inf)
        known = gate.novelty.experts if gate.novelty is not None else {}
        if not known:
            return None, votes
        usual = Scale(*np.mean([_numbers(scale) for scale in known.values()], axis=0).tolist())
        return np.array([_numbers(known.get(name, usual)) for name in names]), votes


def _numbers(scale: Scale) -> tuple[float, float, float, float]:
    return scale.mean, scale.deviation, scale.across, scale.across_deviation


def _span(gate: Gate, means: np.ndarray, whitening: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where experts lie among themselves: points (E, k), the solver (k, E), and directions (D, k) in the gate's space.

    Empty where a distance is not that to a single point, or there is but one expert.
    """
    empty = np.zeros((len(means), 0)), np.zeros((0, len(means))), np.zeros((0, 0))
    if gate.kind not in _SINGLE_POINT or len(means) < 2:
        return empty
    means = means.astype(np.float64)
    if not (np.isfinite(means).all() and np.isfinite(whitening).all()):
        raise BundleError("the experts' gate statistics give no finite distances; remove the expert that came last")
    if gate.kind == "cosine":
        means = means / np.linalg.norm(means, axis=1, keepdims=True)
    points = means @ whitening.astype(np.float64).T
    points -= points.mean(axis=0)
    directions, lengths, _ = np.linalg.svd(points.T, full_matrices=False)
    directions = directions[:, lengths > _FLAT * max(1e-12, lengths[0])]
    if not directions.size:
        return empty
    places = points @ directions
    return places, np.linalg.pinv(places), directions
