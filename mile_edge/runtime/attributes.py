"""The attribute gate's projection: from pooled features to how much of each attribute a frame shows, in numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mile_edge.bundle import Expert, Gate
from mile_edge.errors import BundleError
from mile_edge.runtime.probe import least_squares


def attributes_of(expert: Expert) -> tuple[str, ...]:
    """What an expert's frames are said to show: its attributes, or where it has none its sensors and domains."""
    return expert.attributes or tuple(name for name in (*expert.sensors, *expert.domains) if name != "*")


def projection(experts: Sequence[Expert], gate: Gate) -> np.ndarray:
    """The matrix that takes differences of features to differences of similarity to the pool of attributes.

    A linear map from features to the experts' attribute vectors is fitted by least squares from means and scatters
    alone; its inner products with every vector of the pool are the similarities. Only the inner products among the
    pool's vectors enter, so these are all that a bundle keeps of a text encoder.

    Args:
        experts: in any order.
        gate: attributes and their similarity; those of the experts, all unlike, where it names none.

    Returns:
        (D, D) float64; lengths of differences are those in the space of similarities, whatever its dimension. Zeros
        where no expert shows anything of the gate's pool.

    Raises:
        BundleError: the gate names no pool, and no expert shows anything.
    """
    pool = gate.attributes or tuple(sorted({name for expert in experts for name in attributes_of(expert)}))
    shown = np.array([[name in attributes_of(expert) for name in pool] for expert in experts], np.float64)
    if not shown.any():
        if gate.attributes:
            # Whoever shows something of the pool is still to come, or comes back; until then nobody is nearer.
            return np.zeros((gate.dim, gate.dim))
        raise BundleError(
            f"no expert of {', '.join(sorted(expert.name for expert in experts))} has an attribute of the pool, "
            "which is empty; name some with train expert --attributes"
        )
    _, weight = least_squares(experts, shown)
    to_pool = (np.array(gate.similarity) if gate.similarity else np.eye(len(pool))) @ weight
    if len(to_pool) > gate.dim:
        # A rotation changes no distance, and D directions are all that D features have.
        return np.asarray(np.linalg.qr(to_pool)[1])
    return np.concatenate([to_pool, np.zeros((gate.dim - len(to_pool), gate.dim))])
