"""Fitting the linear probe's weights, in numpy: a robot that adds an expert fits it again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mile_edge.bundle import Expert

# Of the ridge, relative to the mean variance of a dimension.
RIDGE = 1e-3


def ridge(experts: Sequence[Expert]) -> tuple[np.ndarray, np.ndarray]:
    """Least squares from features to one-hot experts, every expert counting the same however many frames it saw.

    Args:
        experts: in any order; the result belongs to this order and does not otherwise depend on it.

    Returns:
        point (E, D), where every logit is zero, and weight (E, D), both float64.
    """
    means = np.stack([np.asarray(expert.mean, np.float64) for expert in experts])
    centre = _sum(experts, means) / len(experts)
    within = _sum(experts, [np.asarray(expert.scatter, np.float64) / expert.count for expert in experts])
    between = _sum(experts, [np.outer(mean - centre, mean - centre) for mean in means])
    total = within + between
    total += RIDGE * np.trace(total) / len(total) * np.eye(len(total))
    return np.repeat(centre[None], len(experts), axis=0), np.linalg.solve(total, (means - centre).T).T


def _sum(experts: Sequence[Expert], terms: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """In the order of names: floating point sums would tell the order in which experts came."""
    order = sorted(range(len(experts)), key=lambda place: experts[place].name)
    return np.sum(np.stack([terms[place] for place in order]), axis=0)
