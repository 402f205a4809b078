"""Gates: each file is one way to get from a frame's features to an expert, or to several with weights.

==============  ====================================================================================================
feature.py      what every gate looks at
prototype.py    the nearest stored prototype: MILE's gate, and its switches
probe.py        logits of a linear probe in place of distances
attribute.py    the nearest in similarity to a pool of attributes
mixture.py      several experts at once, weighted by distance or not
controls.py     random and oracle: no graph of their own, a bias pins the expert
==============  ====================================================================================================

All of them read the same inputs (feature, prototypes, whitening, bias) and put out the same (expert, distance).
"""

from __future__ import annotations

from torch import nn

from mile_edge.errors import RecipeError
from mile_edge.network.gates import attribute, mixture, probe, prototype
from mile_edge.network.gates.attribute import AttributeGate
from mile_edge.network.gates.controls import oracle_bias, random_bias
from mile_edge.network.gates.feature import PooledFeature
from mile_edge.network.gates.mixture import Mixture
from mile_edge.network.gates.probe import LinearProbe
from mile_edge.network.gates.prototype import PrototypeGate

KINDS = (*prototype.KINDS, *probe.KINDS, *attribute.KINDS, *mixture.KINDS)

__all__ = [
    "KINDS",
    "AttributeGate",
    "LinearProbe",
    "Mixture",
    "PooledFeature",
    "PrototypeGate",
    "make_gate",
    "make_mixture",
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
    return PrototypeGate("mahalanobis" if kind in mixture.KINDS else kind)


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
