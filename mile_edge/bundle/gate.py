"""How a bundle's gate is described in its manifest."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field, replace

from mile_edge.bundle.novelty import Novelty, read_novelty
from mile_edge.bundle.strict_json import Fields

GATE_KINDS = (
    "mahalanobis",
    "cosine",
    "l2",
    "kmeans",
    "gaussian",
    "ridge",
    "probe",
    "attribute",
    "semla",
    "uniform",
    "dac",
    "mora",
)
# Kinds whose distance is a log-likelihood or a logit, which may lie below zero; each expert has two vectors there.
SIGNED_KINDS = ("gaussian", "ridge", "probe")
# Kinds of one adapter that goes on from task to task: there is nothing to choose, the newest serves every frame.
SUCCESSIVE_KINDS = ("dac", "mora")
# Kinds that may mix several experts in one frame.
MIXING_KINDS = ("semla", "uniform")
# Kinds whose distances are measured by one covariance, pooled over the experts that the gate may choose.
POOLED_KINDS = ("mahalanobis", "kmeans", "probe", *MIXING_KINDS)
MAX_ATTRIBUTES = 256


@dataclass(frozen=True)
class Gate:
    """How an expert is chosen, or several with weights.

    thresholds: expert name -> distance beyond which a frame is novel, for bundles without ``novelty``.
    novelty: how frames of unknown domains are told; ``None`` before calibration.
    top_k, tau: how many experts are mixed (kind "semla") or ranks per token ("mora"), and their weights' temperature.
    delta: of kind "mora" only: least share of a token's response at which a rank takes part.
    attributes: of kind "attribute" only: the pool's names; empty for those that the experts bring along.
    similarity: (M, M) of these attributes, cosines of their vectors; empty where all are unlike.
    """

    kind: str
    tap: str
    dim: int
    prototypes: int = 1
    shrink: float = 0.001
    hysteresis: float = 0.0
    thresholds: dict[str, float] = field(default_factory=dict)
    top_k: int | None = None
    tau: float | None = None
    attributes: tuple[str, ...] = ()
    similarity: tuple[tuple[float, ...], ...] = ()
    delta: float | None = None
    novelty: Novelty | None = None

    def without(self, name: str) -> Gate:
        """The gate without what it holds of one expert."""
        thresholds = {key: value for key, value in self.thresholds.items() if key != name}
        novelty = self.novelty
        if novelty is not None and name in novelty.experts:
            scales = {key: scale for key, scale in novelty.experts.items() if key != name}
            novelty = replace(novelty, experts=scales) if scales else None
        return replace(self, thresholds=thresholds, novelty=novelty)


def read_gate(fields: Fields, taps: tuple[str, ...], experts: Set[str], capacity: int) -> Gate:
    """A manifest's gate, every field checked.

    Args:
        fields: the object.
        taps: that there are.
        experts: names of the bundle's experts.
        capacity: rows of the bank beside the base.

    Raises:
        BundleError: a field is missing, unknown or out of range.
    """
    kind = fields.choice("kind", GATE_KINDS)
    tap = fields.choice("tap", taps)
    dim = fields.integer("dim", 1, 4096)
    prototypes = fields.integer("prototypes", 1, 1024)
    shrink = fields.number("shrink", 0.0, 1.0)
    hysteresis = fields.number("hysteresis", 0.0, 1e9)
    thresholds = fields.inner("thresholds")
    lowest = -1e30 if kind in SIGNED_KINDS else 0.0
    calibrated = [name for name in sorted(experts) if thresholds.peek(name) is not None]
    values = {name: thresholds.number(name, lowest, 1e30) for name in calibrated}
    thresholds.finish()
    novelty = None if fields.peek("novelty") is None else read_novelty(fields.inner("novelty"), experts)
    gate = Gate(kind, tap, dim, prototypes, shrink, hysteresis, values, novelty=novelty)
    if kind == "semla":
        # More than there are rows could not be found among them.
        gate = _mixing(fields, gate, min(64, capacity + 1))
    if kind == "mora":
        gate = replace(_mixing(fields, gate, 1024), delta=fields.number("delta", 0.0, 1.0))
    if kind == "attribute":
        gate = _with_attributes(fields, gate)
    fields.finish()
    return gate


def _mixing(fields: Fields, gate: Gate, most: int) -> Gate:
    top_k = fields.integer("top_k", 1, most)
    return replace(gate, top_k=top_k, tau=fields.number("tau", 1e-6, 1e9))


def _with_attributes(fields: Fields, gate: Gate) -> Gate:
    if fields.peek("attributes") is None:
        return gate
    entries = fields.items("attributes", 1, MAX_ATTRIBUTES)
    names = tuple(fields.as_text(fields.path(f"attributes[{index}]"), name, 64) for index, name in enumerate(entries))
    if len(set(names)) != len(names):
        fields.fail(fields.path("attributes"), list(names), "each name once")
    if fields.peek("similarity") is None:
        return replace(gate, attributes=names)
    rows = fields.items("similarity", len(names), len(names))
    for row in rows:
        good = isinstance(row, list) and len(row) == len(names)
        if not good or not all(type(value) in (int, float) and -1.001 <= value <= 1.001 for value in row):
            fields.fail(fields.path("similarity"), row, f"{len(names)} numbers from -1 to 1")
    return replace(gate, attributes=names, similarity=tuple(tuple(float(value) for value in row) for row in rows))
