"""What a bundle knows of its own frames' distances, so that it can tell a frame of a domain that no expert knows."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

from mile_edge.bundle.strict_json import Fields


@dataclass(frozen=True)
class Scale:
    """Held-out frames of one expert: mean and deviation of how far they lie, in all directions and between experts.

    The numbers are the cube roots of squared distances over what is expected of them (`mile_edge.runtime.novelty`);
    ``across`` and its deviation are those of the directions in which experts differ, 0 and 1 where the gate's kind or a
    single expert leaves none.
    """

    mean: float
    deviation: float
    across: float = 0.0
    across_deviation: float = 1.0


@dataclass(frozen=True)
class Novelty:
    """How novelty is told.

    Attributes:
        limit: standardised score beyond which a frame is novel.
        false_alarms: share of known frames, at most, that the limit was set for.
        groups: streets, drives or other groups of frames alike that set it; so many independent samples it rests on.
        experts: expert name to the scale of its frames; an expert that is missing is judged by the others' mean.
    """

    limit: float
    false_alarms: float
    groups: int
    experts: dict[str, Scale] = field(default_factory=dict)


def read_novelty(fields: Fields, experts: Set[str]) -> Novelty:
    """A gate's novelty, every field checked.

    Raises:
        BundleError: a field is missing, unknown or out of range.
    """
    limit = fields.number("limit", 1e-6, 1e6)
    false_alarms = fields.number("false_alarms", 0.0, 1.0)
    groups = fields.integer("groups", 1, 2**48)
    scales = fields.inner("experts")
    found: dict[str, Scale] = {}
    for name in sorted(experts):
        if scales.peek(name) is None:
            continue
        entry = scales.inner(name)
        found[name] = Scale(
            entry.number("mean", -1e30, 1e30),
            entry.number("deviation", 1e-9, 1e30),
            entry.number("across", -1e30, 1e30),
            entry.number("across_deviation", 1e-9, 1e30),
        )
        entry.finish()
    scales.finish()
    if not found:
        fields.fail(fields.path("experts"), {}, "the scale of at least one expert")
    fields.finish()
    return Novelty(limit, false_alarms, groups, found)
