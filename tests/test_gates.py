"""What distinguishes the gates, and what none of them may break."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the workshop side needs torch")

from bundle_makers import make_expert, make_manifest
from torch.nn import functional

from mile_edge.bundle import Expert, Gate
from mile_edge.bundle.checks import check_expert
from mile_edge.bundle.manifest import GATE_KINDS
from mile_edge.errors import ExpertError
from mile_edge.network.gates import KINDS, make_gate
from mile_edge.runtime import gate_inputs, probe
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


def test_manifest_and_network_know_the_same_gates() -> None:
    assert sorted(KINDS) == sorted(GATE_KINDS)
    assert set(gate_inputs.HYSTERESIS) == set(GATE_KINDS)


@pytest.mark.parametrize("kind", GATE_KINDS)
def test_every_gate_does_better_than_chance_by_far(kind: str) -> None:
    train, test = domains(3), domains(3, seed=1)
    accuracy = np.mean(
        [
            (choose(gate_of(kind), experts_of(train), features)[0] == index).mean()
            for index, features in enumerate(test.values())
        ]
    )
    assert accuracy > 0.6, accuracy


@pytest.mark.parametrize("kind", GATE_KINDS)
def test_no_gate_depends_on_the_order_in_which_experts_came(kind: str) -> None:
    made = experts_of(domains(4))
    features = np.concatenate(list(domains(4, 1).values()))
    order = [2, 0, 3, 1]
    forward, distance = choose(gate_of(kind), made, features)
    backward, shuffled = choose(gate_of(kind), [made[place] for place in order], features)
    assert np.array_equal(np.array(order)[backward], forward)
    assert np.array_equal(shuffled, distance[:, order])


@pytest.mark.parametrize("kind", GATE_KINDS)
def test_a_row_without_an_expert_is_never_near(kind: str) -> None:
    gate, made = gate_of(kind), experts_of(domains(3))
    features = torch.from_numpy(np.concatenate(list(domains(3, 1).values())).astype(np.float32))
    table = np.concatenate([gate_inputs.prototype_table(made, gate), gate_inputs.empty_rows(gate)[None]])
    whitening = torch.from_numpy(gate_inputs.whitening(made, gate))
    _, distance = make_gate(kind)(features, torch.from_numpy(table), whitening, torch.zeros(len(features), 4))
    assert torch.isfinite(distance).all()
    # Directions are all that a cosine sees, so there only the bias keeps an empty row from being chosen.
    assert kind == "cosine" or (distance[:, 3] > distance[:, :3].amax(dim=1)).all()


def test_a_probe_parts_domains_whose_means_are_no_help() -> None:
    rng = np.random.default_rng(0)
    # Along the second dimension one domain varies ten times as much: the nearest mean is often the wrong one.
    narrow = rng.normal(0, [1.0, 0.1, 1, 1], (200, DIM))
    wide = rng.normal([0.0, 5.0, 0, 0], [1.0, 3.0, 1, 1], (200, DIM))
    made = experts_of({"narrow": narrow, "wide": wide})

    def accuracy(kind: str) -> float:
        expert = choose(gate_of(kind), made, np.concatenate([narrow, wide]))[0]
        return float((expert == np.repeat([0, 1], 200)).mean())

    assert accuracy("probe") > accuracy("mahalanobis") + 0.02


def test_the_logistic_probe_is_the_optimum_that_a_general_solver_finds() -> None:
    made = experts_of(domains(3, spread=1.0))
    whitening = np.linalg.inv(np.linalg.cholesky(sum(expert.scatter for expert in made) / 117))
    point, weight = probe.logistic(made, whitening)
    centre = np.mean([expert.mean for expert in made], axis=0, dtype=np.float64)
    inputs = [torch.tensor((np.asarray(expert.features, np.float64) - centre) @ whitening.T) for expert in made]
    fitted = torch.tensor(np.column_stack([weight @ np.linalg.inv(whitening), (weight * (centre - point)).sum(axis=1)]))

    def loss(at: torch.Tensor) -> torch.Tensor:
        logits = [of @ at[:, :-1].T + at[:, -1] for of in inputs]
        losses = [functional.cross_entropy(of, torch.full((len(of),), place)) for place, of in enumerate(logits)]
        return sum(losses) / len(losses) + 0.5 * probe.PENALTY * at[:, :-1].square().sum()

    best = torch.zeros_like(fitted, requires_grad=True)
    optimiser = torch.optim.LBFGS([best], max_iter=1000, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        value = loss(best)
        value.backward()
        return value

    optimiser.step(closure)
    assert 0.1 < float(loss(best.detach())) <= float(loss(fitted)) <= 1.001 * float(loss(best.detach()))


def test_a_probe_wants_experts_that_kept_their_features() -> None:
    manifest = make_manifest(gate=Gate("probe", "early", DIM, prototypes=2))
    check_expert(experts_of(domains(1))[0], manifest)
    with pytest.raises(ExpertError, match="keeps no features"):
        check_expert(make_expert(), manifest)


def test_kept_features_survive_the_file_and_are_counted() -> None:
    from mile_edge.bundle import expert_bytes
    from mile_edge.bundle.expert import parse_expert

    made = experts_of(domains(1))[0]
    assert parse_expert(expert_bytes(made), "it") == made
    assert made.sizes()["gate"] - replace(made, features=None).sizes()["gate"] == 2 * 16 * DIM
