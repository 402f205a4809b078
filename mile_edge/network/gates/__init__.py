"""Gates: each file is one way to get from a frame's features to an expert."""

from __future__ import annotations

from torch import nn

from mile_edge.errors import RecipeError
from mile_edge.network.gates import probe, prototype
from mile_edge.network.gates.feature import PooledFeature
from mile_edge.network.gates.probe import LinearProbe
from mile_edge.network.gates.prototype import PrototypeGate

KINDS = (*prototype.KINDS, *probe.KINDS)

__all__ = ["KINDS", "LinearProbe", "PooledFeature", "PrototypeGate", "make_gate"]


def make_gate(kind: str) -> nn.Module:
    """The gate of that kind.

    Raises:
        RecipeError: there is none.
    """
    if kind not in KINDS:
        raise RecipeError(f"gate {kind!r} is unknown; choose one of {', '.join(KINDS)}")
    return LinearProbe() if kind in probe.KINDS else PrototypeGate(kind)
