"""Gates: each file is one way to get from a frame's features to an expert."""

from mile_edge.network.gates.feature import PooledFeature
from mile_edge.network.gates.prototype import PrototypeGate

__all__ = ["PooledFeature", "PrototypeGate"]
