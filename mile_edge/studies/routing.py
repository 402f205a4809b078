"""Which expert a gate chooses for frames whose features are known, in the arithmetic of the network's own gates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from mile_edge.bundle import Expert, Gate
from mile_edge.network.gates import make_gate
from mile_edge.runtime import gate_inputs
from mile_edge.training.statistics import KEPT_FEATURES

if TYPE_CHECKING:
    from mile_edge.studies.plan import StudyRecipe

# Kinds that read nothing of the experts.
_BLIND = ("oracle", "random", "uniform")


def choose(kind: str, experts: Sequence[Expert], features: np.ndarray, recipe: StudyRecipe, seed: int) -> np.ndarray:
    """The place (N,) of the expert that each frame goes to.

    Args:
        kind: of a gate that chooses, or ``random``.
        features: (N, D).
        seed: of chance.
    """
    if kind == "random":
        return np.random.default_rng(seed).integers(0, len(experts), len(features))
    wanted = recipe.centres if kind == "kmeans" else 1
    gate = Gate(kind, recipe.tap, features.shape[1], gate_inputs.prototypes_of(kind, wanted))
    table = torch.from_numpy(gate_inputs.prototype_table(experts, gate))
    whitening = torch.from_numpy(gate_inputs.whitening(experts, gate))
    bias = torch.zeros(len(features), len(experts))
    chosen, _ = make_gate(kind)(torch.from_numpy(features), table, whitening, bias)
    return np.asarray(chosen.numpy())


def prototype_bytes(kind: str, dim: int, centres: int) -> int:
    """Bytes that a gate keeps of one expert: mean and scatter, and what else it reads."""
    if kind in _BLIND:
        return 0
    more = {"kmeans": 4 * centres * dim, "probe": 2 * KEPT_FEATURES * dim}
    return 4 * (dim + dim * dim) + more.get(kind, 0)
