"""What distinguishes the gates, and what none of them may break."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the workshop side needs torch")

from bundle_makers import make_expert, make_manifest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from mile_edge.bundle import Expert, Gate
from mile_edge.bundle.checks import check_expert
from mile_edge.bundle.layout import UNUSED_BIAS
from mile_edge.bundle.manifest import GATE_KINDS
from mile_edge.errors import ExpertError
from mile_edge.network.gates import KINDS, make_gate, make_mixture
from mile_edge.network.low_rank import LowRankLinear
from mile_edge.network.low_rank_mix import mixed_classifier
from mile_edge.runtime import gate_inputs, probe
from mile_edge.runtime.mixture import expert_weights
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


def mixed(gate: Gate, experts: list[Expert], features: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, ...]:
    """Rows (B, K), weights (B, K) and distance (B, E) of a mixing gate, in the network's own words."""
    table = torch.from_numpy(gate_inputs.prototype_table(experts, gate))
    whitening = torch.from_numpy(gate_inputs.whitening(experts, gate))
    given = torch.from_numpy(bias)
    _, distance = make_gate(gate.kind)(torch.from_numpy(features.astype(np.float32)), table, whitening, given)
    mixture = make_mixture(gate.kind, gate.top_k, gate.tau)
    assert mixture is not None
    rows, weights = mixture(distance, given)
    return rows.numpy(), weights.numpy(), distance.numpy()


SEMLA = {"top_k": 3, "tau": 0.05}


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 5),
    st.sampled_from([1e-6, 0.01, 0.05, 1.0, 1e9]),
    st.lists(st.integers(0, 4), max_size=4),
    st.integers(0, 99),
)
def test_the_robot_tells_the_weights_that_the_graph_used(top_k: int, tau: float, closed: list[int], seed: int) -> None:
    gate, made = gate_of("semla", top_k=top_k, tau=tau), experts_of(domains(5))
    features = np.concatenate([of[:3] for of in domains(5, seed).values()])
    bias: np.ndarray = np.zeros((len(features), 5), np.float32)
    bias[:, closed] = gate_inputs.NEVER
    rows, weights, distance = mixed(gate, made, features, bias)
    expected: np.ndarray = np.zeros_like(distance)
    np.put_along_axis(expected, rows, weights, axis=1)
    told = expert_weights(distance, bias, (bias - distance).argmax(axis=1), gate)
    assert told == pytest.approx(expected, abs=1e-5)
    assert told.sum(axis=1) == pytest.approx(1)
    assert not told[:, closed].any()
    nearest = (bias - distance).argmax(axis=1)
    assert told[np.arange(len(told)), nearest] == pytest.approx(told.max(axis=1))


def test_a_soft_gate_with_one_expert_is_the_hard_gate() -> None:
    gate, made = gate_of("semla", top_k=1, tau=0.05), experts_of(domains(4))
    features = np.concatenate(list(domains(4, 1).values()))
    rows, weights, distance = mixed(gate, made, features, np.zeros((len(features), 4), np.float32))
    expert, hard = choose(gate_of("mahalanobis"), made, features)
    assert np.array_equal(rows[:, 0], expert)
    assert (weights == 1).all()
    assert np.array_equal(distance, hard)


def test_a_large_tau_weighs_all_alike_and_a_small_one_takes_the_nearest() -> None:
    made = experts_of(domains(4))
    features = np.concatenate(list(domains(4, 1).values()))
    bias: np.ndarray = np.zeros((len(features), 4), np.float32)
    bias[:, 2] = gate_inputs.NEVER
    _, soft, _ = mixed(gate_of("semla", top_k=4, tau=1e9), made, features, bias)
    _, uniform, _ = mixed(gate_of("uniform"), made, features, bias)
    assert np.sort(soft)[:, 1:] == pytest.approx(1 / 3)
    assert uniform == pytest.approx(np.broadcast_to([1 / 3, 1 / 3, 0, 1 / 3], uniform.shape))
    _, hard, _ = mixed(gate_of("semla", top_k=4, tau=1e-6), made, features, bias)
    assert hard[:, 0] == pytest.approx(1)


def test_an_expert_that_is_pinned_has_all_the_weight_exactly() -> None:
    made = experts_of(domains(4))
    features = np.concatenate(list(domains(4, 1).values()))
    bias = np.full((len(features), 4), gate_inputs.NEVER)
    bias[:, 1] = 0
    for gate in (gate_of("semla", **SEMLA), gate_of("uniform")):
        rows, weights, _ = mixed(gate, made, features, bias)
        assert (weights[rows == 1] == 1).all()
        assert not weights[rows != 1].any()


def routed(weights: torch.Tensor, rows: torch.Tensor, kind: str = "linear") -> tuple[torch.Tensor, torch.Tensor]:
    """What a layer and a classifier say under a mixture of a bank's rows, and under each row alone: (1 + K, ...)."""
    torch.manual_seed(0)
    frozen = torch.nn.Linear(6, 5) if kind == "linear" else torch.nn.Conv2d(6, 5, 1)
    x = torch.randn(1, 7, 6) if kind == "linear" else torch.randn(1, 6, 2, 4)
    layer, bank = LowRankLinear(frozen, rank=2), torch.randn(4, 40)
    layer.route(bank, rows[None], 11, weights[None])
    outputs = [layer(x)]
    for row in rows:
        layer.route(bank, row[None], 11)
        outputs.append(layer(x))
    return torch.cat(outputs), frozen(x)


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_a_mixture_of_low_rank_terms_is_their_weighted_sum(kind: str) -> None:
    weights = torch.tensor([0.5, 0.3, 0.2])
    outputs, _ = routed(weights, torch.tensor([2, 0, 3]), kind)
    expected = (weights.reshape(3, *[1] * (outputs.dim() - 1)) * outputs[1:]).sum(dim=0)
    assert torch.allclose(outputs[0], expected, atol=1e-5)


def test_one_row_with_all_the_weight_is_that_row_bit_for_bit_whoever_else_is_there() -> None:
    first, _ = routed(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([2, 0, 3]))
    other, _ = routed(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([2, 1, 1]))
    alone, _ = routed(torch.tensor([1.0]), torch.tensor([2]))
    assert torch.equal(first[0], other[0])
    assert torch.allclose(first[0], alone[0], atol=1e-6)
    assert torch.equal(alone[0], alone[1])


def test_experts_without_a_path_leave_the_base_as_it_is() -> None:
    torch.manual_seed(0)
    layer, x, bank = LowRankLinear(torch.nn.Linear(6, 5), rank=2), torch.randn(1, 7, 6), torch.randn(3, 22)
    bank[:, 12:] = 0
    layer.route(bank, torch.tensor([[0, 1, 2]]), 0, torch.tensor([[0.5, 0.3, 0.2]]))
    mixed_output = layer(x)
    layer.route(torch.zeros(1, 22), torch.tensor([0]))
    assert torch.equal(mixed_output, layer(x))


def test_classifiers_are_mixed_by_weight_and_a_class_that_none_knows_stays_impossible() -> None:
    hidden, classes = 3, 4
    torch.manual_seed(1)
    bank = torch.randn(3, classes * hidden + classes)
    # Row 2 lacks class 1, and nobody knows class 3.
    for row, absent in ((0, 3), (1, 3), (2, 3), (2, 1)):
        bank[row, absent * hidden : (absent + 1) * hidden] = 0
        bank[row, classes * hidden + absent] = UNUSED_BIAS
    rows, shares = torch.tensor([[0, 2]]), torch.tensor([[0.75, 0.25]])
    weight, bias = mixed_classifier(bank, rows, shares, 0, hidden, classes)
    expected = 0.75 * bank[0] + 0.25 * bank[2]
    assert torch.allclose(weight[0, [0, 2]], expected[: classes * hidden].reshape(classes, hidden)[[0, 2]])
    assert torch.allclose(bias[0, [0, 2], 0], expected[classes * hidden :][[0, 2]])
    assert torch.allclose(weight[0, 1], bank[0, hidden : 2 * hidden])
    assert float(bias[0, 1, 0]) == pytest.approx(float(bank[0, classes * hidden + 1]) + np.log(0.75), abs=1e-6)
    assert float(bias[0, 3, 0]) == UNUSED_BIAS
    alone = mixed_classifier(bank, torch.tensor([[1]]), torch.ones(1, 1), 0, hidden, classes)
    assert torch.equal(torch.cat([part.flatten() for part in alone]), bank[1])
