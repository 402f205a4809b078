"""Fitting the linear probe's weights, in numpy: a robot that adds an expert fits it again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mile_edge.bundle import Expert

# Of the ridge, relative to each dimension's variance over all experts.
RIDGE = 1e-3
# Of the logistic regression: weight of the squared norm in the whitened features' scale, and accelerated steps from the
# discriminant that the statistics alone give. More steps, and penalties from 1e-5 to 1e-3, made no difference on real
# domains (docs/methods.md).
PENALTY = 1e-4
STEPS = 100


def ridge(experts: Sequence[Expert]) -> tuple[np.ndarray, np.ndarray]:
    """Least squares from features to one-hot experts.

    Args:
        experts: in any order; the result belongs to this order and does not otherwise depend on it.

    Returns:
        point (E, D), where every logit is zero, and weight (E, D), both float64.
    """
    centre, weight = least_squares(experts, np.eye(len(experts)))
    return np.repeat(centre[None], len(experts), axis=0), weight


def least_squares(experts: Sequence[Expert], targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The linear map from features to targets that are the same for all of an expert's frames.

    From means and scatters alone, every expert counting the same however many frames it saw.

    Args:
        experts: in any order.
        targets: (E, T), one row per expert.

    Returns:
        centre (D,) and weight (T, D), both float64: the target of x is its mean over experts plus weight (x - centre).
    """
    # Floating point sums would tell the order in which experts came.
    order = sorted(range(len(experts)), key=lambda place: experts[place].name)
    means = np.stack([np.asarray(experts[place].mean, np.float64) for place in order])
    centre = means.mean(axis=0)
    total = (means - centre).T @ (means - centre)
    for place in order:
        total += np.asarray(experts[place].scatter, np.float64) / experts[place].count
    variance = np.diag(total)
    # In each dimension's own scale; one that never varies gets a little of the others'.
    total = total + RIDGE * np.diag(variance + 1e-6 * variance.mean() + 1e-12)
    wanted = targets[order] - targets[order].mean(axis=0)
    return centre, np.linalg.solve(total, (means - centre).T @ wanted).T


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
