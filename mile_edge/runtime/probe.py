"""Fitting the linear probe's weights, in numpy: a robot that adds an expert fits it again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mile_edge.bundle import Expert

# Of the ridge, relative to the mean variance of a dimension.
RIDGE = 1e-3
# Of the logistic regression: weight of the squared norm in the whitened features' scale, and accelerated steps from the
# discriminant that the statistics alone give. More steps, and penalties from 1e-5 to 1e-3, made no difference on real
# domains (docs/methods.md).
PENALTY = 1e-4
STEPS = 100


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


def logistic(experts: Sequence[Expert], whitening: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression on the features that experts keep, every expert counting the same.

    Starts from the linear discriminant of the pooled statistics and takes Nesterov's accelerated steps of the length
    that the loss's largest curvature allows.

    Args:
        experts: each with features; the result belongs to their order and does not otherwise depend on it.
        whitening: (D, D) matrix W with W^T W the inverse of the pooled covariance.

    Returns:
        point (E, D), where each expert's logit is zero, and weight (E, D), both float64.
    """
    order = sorted(range(len(experts)), key=lambda place: experts[place].name)
    means = np.stack([np.asarray(experts[place].mean, np.float64) for place in order])
    centre = means.mean(axis=0)
    towards = (means - centre) @ whitening.T
    kept = [np.asarray(experts[place].features, np.float64) for place in order]
    inputs = np.concatenate([np.column_stack([(of - centre) @ whitening.T, np.ones(len(of))]) for of in kept])
    share = np.concatenate([np.full(len(of), 1 / len(of) / len(kept)) for of in kept])
    truth = np.repeat(np.eye(len(kept)), [len(of) for of in kept], axis=0)
    solution = np.column_stack([towards, -0.5 * (towards**2).sum(axis=1)])
    solution = _descend(solution, inputs, share, truth)[np.argsort(order)]
    weight, offset = solution[:, :-1] @ whitening, solution[:, -1]
    # w (x - point) = w (x - centre) + offset; an expert without a direction has no offset either, by symmetry.
    length = np.maximum((weight**2).sum(axis=1), 1e-12)
    return centre - (offset / length)[:, None] * weight, weight


def _descend(solution: np.ndarray, inputs: np.ndarray, share: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Minimise the cross-entropy from (E, D + 1) weights on (N, D + 1) inputs with (N, E) truth."""
    penalty = np.append(np.full(inputs.shape[1] - 1, PENALTY), 0.0)
    curvature = 0.5 * np.linalg.eigvalsh((inputs * share[:, None]).T @ inputs)[-1] + PENALTY
    previous, pace = solution, 1.0
    for _ in range(STEPS):
        faster = (1 + np.sqrt(1 + 4 * pace**2)) / 2
        ahead = solution + (pace - 1) / faster * (solution - previous)
        logits = inputs @ ahead.T
        likelihood = np.exp(logits - logits.max(axis=1, keepdims=True))
        likelihood /= likelihood.sum(axis=1, keepdims=True)
        slope = ((likelihood - truth) * share[:, None]).T @ inputs + penalty * ahead
        previous, solution, pace = solution, ahead - slope / curvature, faster
    return solution


def _sum(experts: Sequence[Expert], terms: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """In the order of names: floating point sums would tell the order in which experts came."""
    order = sorted(range(len(experts)), key=lambda place: experts[place].name)
    return np.sum(np.stack([terms[place] for place in order]), axis=0)
