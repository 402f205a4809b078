"""What is known of an expert in shadow: how often it would have been asked, and how it agrees with the live choice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mile_edge.bundle import ShadowPlan


@dataclass(frozen=True)
class ShadowReport:
    """What is known of an expert in shadow.

    Attributes:
        name: the expert's.
        plan: how long it runs and what it must show.
        compared: frames compared so far.
        picked: of these, frames that the gate would have given it.
        agreement: share of pixels with the class of the live mask, over all frames compared; None before the first.
        agreement_picked: the same over the frames it would have been given.
        per_class: class to intersection over union of its pixels and the live masks', over all frames compared; only
            classes that either has.
        milliseconds: median and 95th percentile of a pass, "p50" and "p95".
        skipped: frames that were to be compared while the comparison before was still running.
        outcome: "running", "live", "withdrawn", or "left" when the run ended otherwise.
        problem: why it could not go live yet, such as a full disk; empty where nothing is wrong.
    """

    name: str
    plan: ShadowPlan
    compared: int
    picked: int
    agreement: float | None
    agreement_picked: float | None
    per_class: Mapping[str, float]
    milliseconds: Mapping[str, float]
    skipped: int
    outcome: str
    problem: str

    @property
    def passes(self) -> bool:
        """Whether it showed what its plan asks for."""
        if self.compared and self.picked / self.compared > self.plan.max_picked:
            return False
        return self.agreement_picked is None or self.agreement_picked >= self.plan.min_agreement

    def summary(self) -> dict[str, Any]:
        """For the journal: plain JSON values, rounded."""
        shares = {"agreement": self.agreement, "agreement_picked": self.agreement_picked}
        return {
            "compared": self.compared,
            "picked": self.picked,
            **{key: None if value is None else round(value, 4) for key, value in shares.items()},
            "per_class": {name: round(value, 4) for name, value in self.per_class.items()},
            "milliseconds": {rank: round(value, 2) for rank, value in self.milliseconds.items()},
        }


def agreement(pairs: np.ndarray) -> float | None:
    """Share of pixels with one class in both, of (C, C) counts of pairs; None where nothing was compared."""
    total = int(pairs.sum())
    return float(np.trace(pairs)) / total if total else None


def per_class(pairs: np.ndarray, classes: tuple[str, ...]) -> dict[str, float]:
    """Intersection over union of each class that either has, of (C, C) counts of pairs."""
    hits = np.diagonal(pairs)
    union = pairs.sum(axis=0) + pairs.sum(axis=1) - hits
    return {name: float(hits[index] / union[index]) for index, name in enumerate(classes) if union[index]}
