"""Gates: each file is one way to get from a frame's features to an expert, or to several with weights.

=================  =================================================================================================
feature.py         what every gate looks at
prototype.py       the nearest stored prototype: MILE's gate, and its switches
probe.py           logits of a linear probe in place of distances
attribute.py       the nearest in similarity to a pool of attributes
mixture.py         several experts at once, weighted by distance or not
controls.py        random and oracle: no graph of their own, a bias pins the expert
ranks.py           what the last two have in common: they weigh ranks within a layer, not experts
rank_router.py     a router's votes, while a task is trained: DAC
self_activated.py  every rank's own response to a token: MoRA
=================  =================================================================================================

All but the last two read the same inputs (feature, prototypes, whitening, bias) and put out the same (expert,
distance). With the last two there is one adapter for all tasks and so nothing to choose: the prototype gate is still
there, to tell how far a frame is from all that was learned.
"""

from __future__ import annotations

from torch import nn

from mile_edge.errors import RecipeError
from mile_edge.network.gates import attribute, mixture, probe, prototype, rank_router, self_activated
from mile_edge.network.gates.attribute import AttributeGate
from mile_edge.network.gates.controls import oracle_bias, random_bias
from mile_edge.network.gates.feature import PooledFeature
from mile_edge.network.gates.mixture import Mixture
from mile_edge.network.gates.probe import LinearProbe
from mile_edge.network.gates.prototype import PrototypeGate
from mile_edge.network.gates.rank_router import RankRouter
from mile_edge.network.gates.self_activated import SelfActivated

KINDS = (
    *prototype.KINDS,
    *probe.KINDS,
    *attribute.KINDS,
    *mixture.KINDS,
    *rank_router.KINDS,
    *self_activated.KINDS,
)

__all__ = [
    "KINDS",
    "AttributeGate",
    "LinearProbe",
    "Mixture",
    "PooledFeature",
    "PrototypeGate",
    "RankRouter",
    "SelfActivated",
    "make_gate",
    "make_mixture",
    "make_self_activation",
    "oracle_bias",
    "random_bias",
]


def make_gate(kind: str) -> nn.Module:
    """What finds the distances and the nearest expert for the gate of that kind.

    Raises:
        RecipeError: there is none.
    """
    if kind not in KINDS:
        raise RecipeError(f"gate {kind!r} is unknown; choose one of {', '.join(KINDS)}")
    if kind in probe.KINDS:
        return LinearProbe()
    if kind in attribute.KINDS:
        return AttributeGate()
    return PrototypeGate(kind if kind in prototype.KINDS else "mahalanobis")


def make_mixture(kind: str, top_k: int | None, tau: float | None) -> Mixture | None:
    """What weighs several experts by their distances, nothing for the gates that choose one.

    Raises:
        RecipeError: ``top_k`` and ``tau`` are missing where they are needed.
    """
    if kind not in mixture.KINDS:
        return None
    if kind == "uniform":
        return Mixture(None, None)
    if top_k is None or tau is None:
        raise RecipeError("gate 'semla' needs `top_k` and `tau`; 3 and 0.05 are a start")
    return Mixture(top_k, tau)


def make_self_activation(kind: str, top_k: int | None, tau: float | None, delta: float | None) -> SelfActivated | None:
    """What weighs ranks at every layer, nothing for the gates that do not.

    Raises:
        RecipeError: one of the settings is missing where it is needed.
    """
    if kind not in self_activated.KINDS:
        return None
    if top_k is None or tau is None or delta is None:
        raise RecipeError("gate 'mora' needs `top_k`, `tau` and `delta`; 16, 0.01 and 0.2 are the authors'")
    return SelfActivated(top_k, tau, delta).eval()
