"""Known against unknown frames: at every false alarm rate, the share of unknown frames that is noticed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Roc:
    """A receiver operating characteristic.

    Attributes:
        unknown: what the unknown frames show.
        left_out: whether that is an expert's own domain, and the gate was made without that expert.
        frames: known frames, unknown frames.
        auc: area under the curve: the chance that an unknown frame scores higher than a known one.
        at_1: share of unknown frames detected where at most 1 % of the known ones raise an alarm.
        at_5: the same at 5 %.
        at_limit: share of unknown frames detected at the limit that was calibrated, by scores that are 1 there.
        curve: (false alarms, detected) points, both rising from 0 to 1.
    """

    unknown: str
    left_out: bool
    frames: tuple[int, int]
    auc: float
    at_1: float
    at_5: float
    at_limit: float
    curve: tuple[tuple[float, float], ...]


def make_roc(name: str, left_out: bool, known: np.ndarray, unknown: np.ndarray) -> Roc:
    """The curve of scores (N,) of known and (M,) of unknown frames, higher for more novel."""
    limits = np.unique(np.concatenate([known, unknown]))[::-1]
    # Where each score lies among the sorted others; one limit at a time would take N * M comparisons.
    ordered = [np.sort(scores) for scores in (known, unknown)]
    alarms, detected = (1 - np.searchsorted(scores, limits, "left") / len(scores) for scores in ordered)
    points = ((0.0, 0.0), *zip(alarms.tolist(), detected.tolist(), strict=True))
    return Roc(
        unknown=name,
        left_out=left_out,
        frames=(len(known), len(unknown)),
        auc=round(auroc(known, unknown), 4),
        at_1=round(detected_at(0.01, known, unknown), 4),
        at_5=round(detected_at(0.05, known, unknown), 4),
        at_limit=round(float((unknown > 1).mean()), 4),
        curve=points,
    )


def detected_at(false_alarms: float, known: np.ndarray, unknown: np.ndarray) -> float:
    """Share of unknown frames above the lowest limit that at most this share of known frames exceeds.

    >>> detected_at(0.25, np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.5, 3.5]))
    0.5
    """
    allowed = int(np.floor(false_alarms * len(known) + 1e-9))
    limit = np.sort(known)[len(known) - 1 - allowed] if allowed < len(known) else -np.inf
    return float((unknown > limit).mean())


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """Chance that an unknown frame scores higher than a known one, ties counting half.

    >>> auroc(np.array([0.1, 0.2]), np.array([0.2, 0.9]))
    0.875
    """
    ordered = np.sort(known)
    below, upto = (np.searchsorted(ordered, unknown, side) for side in ("left", "right"))
    return float((below + upto).mean() / (2 * len(known)))
