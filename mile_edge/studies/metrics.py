"""What a stream of tasks comes to: figures of the matrix R[i, j], mIoU on task j after task i was learned.

Rows are counted from the first task; entries that were not measured are NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mile_edge.replay.scores import mean_iou

# Student's t for two-sided 95 %, by degrees of freedom; and what it comes to with ever more of them.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
_NORMAL = 1.959964


def miou_of(counts: np.ndarray) -> float:
    """mIoU of frames (N, C, C + 1) together, NaN where nothing is labelled."""
    miou = mean_iou(counts.sum(axis=0))
    return float("nan") if miou is None else miou


def final_mean(matrix: np.ndarray) -> float:
    """Mean over tasks after the last one.

    >>> final_mean(np.array([[0.5, np.nan], [0.25, 0.75]]))
    0.5
    """
    return float(np.mean(matrix[-1]))


def mean_after_each(matrix: np.ndarray) -> list[float]:
    """Mean over the tasks so far, after each task; NaN where a row was not measured.

    >>> mean_after_each(np.array([[0.5, np.nan], [0.25, 0.75]]))
    [0.5, 0.5]
    """
    return [float(np.mean(matrix[last, : last + 1])) for last in range(len(matrix))]


def backward_transfer(matrix: np.ndarray) -> float:
    """BWT (Lopez-Paz and Ranzato, NeurIPS 2017): mean change of the tasks before the last since they were learned.

    Negative is forgetting.

    >>> backward_transfer(np.array([[0.5, np.nan], [0.25, 0.75]]))
    -0.25
    """
    learned = np.diagonal(matrix)[:-1]
    return float(np.mean(matrix[-1, :-1] - learned)) if len(learned) else float("nan")


def plasticity_gap(matrix: np.ndarray, alone: Sequence[float]) -> float:
    """How far tasks fall short, when they were just learned, of a whole network trained for each alone.

    >>> plasticity_gap(np.array([[0.5, np.nan], [0.25, 0.75]]), [0.75, 0.75])
    0.125
    """
    return float(np.mean(np.asarray(alone) - np.diagonal(matrix)))


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % confidence interval of the mean, by Student's t; nothing for fewer than two values.

    >>> interval([0.4, 0.5, 0.6])
    (0.2515..., 0.7484...)
    >>> interval([0.4]) is None
    True
    """
    if len(values) < 2 or np.isnan(values).any():
        return None
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / len(values) ** 0.5
    reach = _students(len(values) - 1) * error
    return mean - reach, mean + reach


def _students(freedom: int) -> float:
    """Student's t beyond the table by its expansion about the normal's (Abramowitz and Stegun, 26.7.5).

    >>> [round(_students(freedom), 3) for freedom in (1, 15, 16, 30, 120)]
    [12.706, 2.131, 2.12, 2.042, 1.98]
    """
    if freedom <= len(_T):
        return _T[freedom - 1]
    z = _NORMAL
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def difference_interval(ours: np.ndarray, theirs: np.ndarray, draws: int = 1000) -> tuple[float, float, float]:
    """mIoU of ours less theirs on the same frames, with the 95 % interval over frames drawn again with replacement.

    Args:
        ours: (N, C, C + 1) confusions.
        theirs: the same frames'.

    Returns:
        difference, and the ends of its interval.
    """
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(draws):
        weights = np.bincount(rng.integers(0, len(ours), len(ours)), minlength=len(ours))
        totals = [np.tensordot(weights, each, axes=1) for each in (ours, theirs)]
        scores = [mean_iou(total) for total in totals]
        if None not in scores:
            drawn.append(float(scores[0] or 0) - float(scores[1] or 0))
    low, high = np.percentile(drawn, [2.5, 97.5]) if drawn else (float("nan"), float("nan"))
    return miou_of(ours) - miou_of(theirs), float(low), float(high)


def right_share(confusion: dict[str, dict[str, int]]) -> float:
    """Share of frames for which the right expert was chosen, from right expert to chosen expert to frames.

    >>> right_share({"fog": {"fog": 3, "rain": 1}, "rain": {"rain": 4}})
    0.875
    """
    frames = sum(sum(row.values()) for row in confusion.values())
    return sum(row.get(name, 0) for name, row in confusion.items()) / frames if frames else float("nan")
