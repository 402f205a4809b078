"""The weights that a mixing gate gave the experts, told from the distances that the graph puts out."""

from __future__ import annotations

import numpy as np

from mile_edge.bundle import Gate
from mile_edge.bundle.gate import MIXING_KINDS

# As in mile_edge.network.gates.mixture, which a robot cannot import; a test compares the two.
_CLOSED = -1e29
_NEAREST = 1e-6


def expert_weights(distance: np.ndarray, bias: np.ndarray, expert: np.ndarray, gate: Gate) -> np.ndarray:
    """How much of each row went into each sample's mask.

    Args:
        distance: (B, E) float32, as the graph put it out.
        bias: (B, E) float32, as it went in.
        expert: (B,) int32, the expert chosen.
        gate: the bundle's.

    Returns:
        (B, E) float32; each row sums to 1, and is 1 for the expert alone where the gate mixes none.
    """
    samples = np.arange(len(distance))
    weights: np.ndarray = np.zeros(distance.shape, np.float32)
    if gate.kind not in MIXING_KINDS:
        weights[samples, expert] = 1
        return weights
    chosen = bias > _CLOSED
    if gate.top_k is not None:
        # As top-k does, the first of equals.
        nearest = np.argsort(distance - bias, axis=1, kind="stable")[:, : gate.top_k]
        among: np.ndarray = np.zeros(distance.shape, bool)
        np.put_along_axis(among, nearest, values=True, axis=1)
        chosen = chosen & among
    likeness = np.zeros_like(distance) if gate.tau is None else 1 / (np.maximum(distance, _NEAREST) * gate.tau)
    likeness = np.where(chosen, likeness, -np.inf)
    weights = np.exp(likeness - likeness.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)
