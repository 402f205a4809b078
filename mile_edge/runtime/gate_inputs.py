"""From the statistics that experts carry to what the gate in the graph reads: prototypes and whitening.

Everything is recomputed from all experts whenever one comes or goes. It is closed-form and sums in the order of the
experts' names, so the result does not depend on the order in which they were added.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mile_edge.bundle import Expert, Gate
from mile_edge.bundle.gate import MIXING_KINDS, SIGNED_KINDS, SUCCESSIVE_KINDS
from mile_edge.errors import BundleError
from mile_edge.runtime import attributes, probe

# Far enough that an empty row is never nearest, near enough that its square is still a finite float32.
FAR = 1e6
# How much nearer another expert must be before a stream changes to it, in each distance's own scale: a tenth or so of
# what lies between two domains.
HYSTERESIS = {
    "mahalanobis": 0.5,
    "kmeans": 0.5,
    "gaussian": 5.0,
    "l2": 0.05,
    "cosine": 0.01,
    "ridge": 0.05,
    "probe": 0.5,
    "attribute": 0.05,
    "semla": 0.5,
    "uniform": 0.5,
    "dac": 0.5,
    "mora": 0.5,
}
NEVER = np.float32(-1e30)


def prototypes_of(kind: str, wanted: int) -> int:
    """K of a gate's ``prototypes`` input: two vectors where they are no prototypes, else what is wanted."""
    return 2 if kind in SIGNED_KINDS else wanted


def prototype_table(experts: Sequence[Expert], gate: Gate) -> np.ndarray:
    """The rows of ``prototypes`` of all experts, in their order, (len(experts), K, D) float32."""
    if gate.kind == "ridge":
        return np.stack(probe.ridge(experts), axis=1).astype(np.float32)
    if gate.kind == "probe":
        return np.stack(probe.logistic(experts, pooled_whitening(experts, gate)), axis=1).astype(np.float32)
    return np.stack([prototype_rows(expert, gate) for expert in experts])


def prototype_rows(expert: Expert, gate: Gate) -> np.ndarray:
    """One expert's row of the ``prototypes`` input, (K, D) float32; unused prototypes repeat the first."""
    mean = np.asarray(expert.mean, np.float32)
    if gate.kind == "gaussian":
        variance = np.diag(np.asarray(expert.scatter, np.float64)) / max(1, expert.count - 1)
        # A dimension that never varied in training would veto every frame.
        floor = 1e-3 * variance.mean() + 1e-12
        return np.stack([mean, (1 / np.sqrt(np.maximum(variance, floor))).astype(np.float32)])
    if gate.kind in {"kmeans", *SUCCESSIVE_KINDS} and expert.prototypes is not None:
        centres = np.asarray(expert.prototypes, np.float32)[: gate.prototypes]
        return np.concatenate([centres, np.repeat(centres[:1], gate.prototypes - len(centres), axis=0)])
    return np.repeat(mean[None], gate.prototypes, axis=0)


def empty_rows(gate: Gate) -> np.ndarray:
    """A row of ``prototypes`` for no expert, (K, D) float32."""
    if gate.kind in SIGNED_KINDS:
        return np.stack([np.full(gate.dim, FAR, np.float32), np.ones(gate.dim, np.float32)])
    return np.full((gate.prototypes, gate.dim), FAR, np.float32)


def whitening(experts: Sequence[Expert], gate: Gate) -> np.ndarray:
    """What the gate multiplies differences of features by, (D, D) float32.

    Raises:
        BundleError: the statistics are so degenerate that the pooled covariance has no inverse, or no expert has an
            attribute.
    """
    if gate.kind in {"mahalanobis", "kmeans", *MIXING_KINDS, *SUCCESSIVE_KINDS}:
        return pooled_whitening(experts, gate).astype(np.float32)
    if gate.kind == "attribute":
        return attributes.projection(experts, gate).astype(np.float32)
    return np.eye(gate.dim, dtype=np.float32)


def pooled_whitening(experts: Sequence[Expert], gate: Gate) -> np.ndarray:
    """The matrix W with W^T W = S^-1, S the covariance pooled over experts and shrunk a little, (D, D) float64."""
    ordered = sorted(experts, key=lambda expert: expert.name)
    scatter = np.zeros((gate.dim, gate.dim))
    for expert in ordered:
        scatter += np.asarray(expert.scatter, np.float64)
    covariance = scatter / max(1, sum(expert.count - 1 for expert in ordered))
    level = np.trace(covariance) / gate.dim
    covariance = (1 - gate.shrink) * covariance + gate.shrink * level * np.eye(gate.dim)
    try:
        factor = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError as error:
        names = ", ".join(expert.name for expert in ordered)
        raise BundleError(f"the gate statistics of {names} have no inverse; train with more varied frames") from error
    return np.linalg.solve(factor, np.eye(gate.dim))


def openings(rows: Sequence[int], gate: Gate, count: int) -> np.ndarray:
    """The bias of each row when nobody asks for anything else, (E,) float32: 0 where the gate may choose.

    Args:
        rows: that hold an expert, the newest last.
        gate: the bundle's; kinds of one successive adapter leave only the newest open.
        count: E.
    """
    bias = np.full(count, NEVER, np.float32)
    bias[list(rows[-1:] if gate.kind in SUCCESSIVE_KINDS else rows)] = 0
    return bias
