"""Was the gate right: the expert it chose against the expert that is right for the frame's sensor and true domain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from mile_edge.bundle import Expert


def right_expert(experts: Iterable[Expert], sensor: str, domain: str) -> str | None:
    """Name the expert that is right for a frame.

    An expert is right when it was trained for this kind of sensor (or for any) and for this domain: the domain is its
    name, is among its domains, or these hold "*". Of several the first in row order is the right one.

    Returns:
        Its name, None when no expert knows this domain.
    """
    for expert in experts:
        fits_sensor = not expert.sensors or sensor in expert.sensors
        if fits_sensor and (domain == expert.name or domain in expert.domains or "*" in expert.domains):
            return expert.name
    return None


class GateScores:
    """Counts of (right expert, chosen expert).

    Attributes:
        experts: of the bundle, in row order.
        confusion: pair to frames, over frames whose right expert is known.
        unknown_domain: frames whose true domain no expert knows, by domain.
        no_truth: frames without a true domain.
    """

    def __init__(self, experts: tuple[Expert, ...]) -> None:
        self.experts = experts
        self.confusion: Counter[tuple[str, str]] = Counter()
        self.unknown_domain: Counter[str] = Counter()
        self.no_truth = 0

    def add(self, sensor: str, domain: str | None, chosen: str) -> str | None:
        """Add one frame; give the right expert's name where it is known."""
        if domain is None:
            self.no_truth += 1
            return None
        right = right_expert(self.experts, sensor, domain)
        if right is None:
            self.unknown_domain[domain] += 1
        else:
            self.confusion[right, chosen] += 1
        return right

    def accuracy(self) -> float | None:
        """Share of frames that went through the right expert, None where none has a known right one."""
        total = sum(self.confusion.values())
        hits = sum(count for (right, chosen), count in self.confusion.items() if right == chosen)
        return hits / total if total else None

    def reason(self) -> str | None:
        """Why there is no accuracy, None where there is one."""
        if self.confusion:
            return None
        if self.unknown_domain:
            return f"no expert of the bundle knows the domains {', '.join(sorted(self.unknown_domain))}"
        return "the bag names no true domain for its frames" if self.no_truth else "no frame was replayed"
