"""What the gate chose over time, per topic, in memory that does not grow with the bag."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

MAX_BINS = 1024
_FIRST_WIDTH = 1_000_000


@dataclass(frozen=True)
class Span:
    """A stretch of time of one topic.

    Attributes:
        start, end: bag time, nanoseconds.
        experts: expert to its share of the frames, largest first.
        domain: the true domain of most frames, None where unknown.
        novel: share of the frames that belong to a stream that no expert knows.
    """

    start: int
    end: int
    experts: tuple[tuple[str, float], ...]
    domain: str | None
    novel: float = 0.0


class Timeline:
    """Counts of (expert, domain, novel) in bins of time; bins double in width when there are too many."""

    def __init__(self) -> None:
        self._width = _FIRST_WIDTH
        self._bins: dict[int, Counter[tuple[str, str | None, bool]]] = {}
        self._low = self._high = 0

    def add(self, time: int, expert: str, domain: str | None, novel: bool = False) -> None:
        """Add a frame at bag time `time`, nanoseconds."""
        if not self._bins:
            self._low = self._high = time
        self._low, self._high = min(self._low, time), max(self._high, time)
        while self._high // self._width - self._low // self._width >= MAX_BINS:
            self._width *= 2
            merged: dict[int, Counter[tuple[str, str | None, bool]]] = {}
            for place, counts in self._bins.items():
                merged.setdefault(place // 2, Counter()).update(counts)
            self._bins = merged
        self._bins.setdefault(time // self._width, Counter())[expert, domain, novel] += 1

    def spans(self) -> list[Span]:
        """The timeline in order; where frames stop coming for a while there is a gap between spans."""
        places = sorted(self._bins)
        if not places:
            return []
        gaps = np.diff(places)
        # A frame stands for the time until the next one, unless that is far beyond the usual.
        reach = int(np.median(gaps) * 2.5) + 1 if len(gaps) else 1
        spans: list[Span] = []
        for place, following in zip(places, [*places[1:], places[-1] + max(1, reach // 2)], strict=True):
            span = self._span(place, min(following, place + reach))
            last = spans[-1] if spans else None
            same = last is not None and replace(last, start=span.start, end=span.end) == span
            if last is not None and same and last.end == span.start:
                spans[-1] = replace(last, end=span.end)
            else:
                spans.append(span)
        return spans

    def _span(self, place: int, end: int) -> Span:
        counts = self._bins[place]
        total = sum(counts.values())
        experts: Counter[str] = Counter()
        domains: Counter[str | None] = Counter()
        novel = 0
        for (expert, domain, is_novel), count in counts.items():
            novel += count * is_novel
            experts[expert] += count
            domains[domain] += count
        shares = tuple((expert, count / total) for expert, count in experts.most_common())
        return Span(place * self._width, end * self._width, shares, domains.most_common(1)[0][0], novel / total)
