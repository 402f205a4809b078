"""Experts made of features, and gates that choose among them: what the robot fits, in the network's arithmetic."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from bundle_makers import make_expert

from mile_edge.bundle import Expert, Gate
from mile_edge.network.gates import make_gate
from mile_edge.runtime import gate_inputs
from mile_edge.training.statistics import summarise

DIM = 4


def experts_of(domains: dict[str, np.ndarray]) -> list[Expert]:
    """An expert per domain with all that any gate wants of its (N, D) features."""
    made = []
    for name, features in domains.items():
        found = summarise(features, centres=2, kept=16)
        made.append(
            make_expert(
                name,
                mean=found.mean,
                scatter=found.scatter,
                count=found.count,
                prototypes=found.prototypes,
                features=found.features,
            )
        )
    return made


def domains(count: int, seed: int = 0, spread: float = 4.0) -> dict[str, np.ndarray]:
    """Features of `count` domains, the same whatever the seed; dimensions differ in scale as those of a network do."""
    rng = np.random.default_rng(seed)
    scale = np.array([1.0, 0.1, 10.0, 1.0])
    centres = np.random.default_rng(99).normal(0, spread, (count, DIM))
    return {f"d{index}": (centre + rng.normal(0, 1, (40, DIM))) * scale for index, centre in enumerate(centres)}


def gate_of(kind: str, **changes: object) -> Gate:
    return replace(Gate(kind, "early", DIM, gate_inputs.prototypes_of(kind, 2 if kind == "kmeans" else 1)), **changes)


def choose(gate: Gate, experts: list[Expert], features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Expert (B,) and distance (B, E) of features (B, D), as the graph computes them from what the robot fits."""
    table = torch.from_numpy(gate_inputs.prototype_table(experts, gate))
    whitening = torch.from_numpy(gate_inputs.whitening(experts, gate))
    bias = torch.zeros(len(features), len(experts))
    expert, distance = make_gate(gate.kind)(torch.from_numpy(features.astype(np.float32)), table, whitening, bias)
    return expert.numpy(), distance.numpy()
