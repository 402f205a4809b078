"""Soft gates: several experts at once, and one expert as the special case of it."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the workshop side needs torch")

from gate_makers import choose, domains, experts_of, gate_of
from hypothesis import given, settings
from hypothesis import strategies as st

from mile_edge.bundle import Expert, Gate
from mile_edge.bundle.layout import UNUSED_BIAS
from mile_edge.network.gates import make_gate, make_mixture
from mile_edge.network.low_rank import LowRankLinear
from mile_edge.network.low_rank_entry import LowRankEntry
from mile_edge.network.low_rank_mix import mixed_classifier
from mile_edge.runtime import gate_inputs
from mile_edge.runtime.mixture import expert_weights


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


FROZEN = {
    "linear": (lambda: torch.nn.Linear(6, 5), (1, 7, 6)),
    "convolution": (lambda: torch.nn.Conv2d(6, 5, 1), (1, 6, 2, 4)),
    "grouped": (lambda: torch.nn.Conv2d(6, 4, 1, groups=2), (1, 6, 2, 4)),
    "in parts": (lambda: torch.nn.Linear(6, 5, bias=False), (3, 7, 6)),
    "entry": (lambda: torch.nn.Conv2d(3, 4, 7, 4, 3), (1, 3, 16, 24)),
}


def routed(weights: torch.Tensor, rows: torch.Tensor, kind: str = "linear") -> tuple[torch.Tensor, torch.Tensor]:
    """What a layer and a classifier say under a mixture of a bank's rows, and under each row alone: (1 + K, ...)."""
    torch.manual_seed(0)
    make, shape = FROZEN[kind]
    frozen, x = make(), torch.randn(shape)
    layer = LowRankEntry(frozen) if kind == "entry" else LowRankLinear(frozen, rank=2)
    bank = torch.randn(4, 11 + layer.rank * (layer.in_features + layer.out_features) + 7)
    layer.route(bank, rows[None], 11, weights[None])
    outputs = [layer(x)]
    for row in rows:
        layer.route(bank, row[None], 11)
        outputs.append(layer(x))
    return torch.stack(outputs), frozen(x)


@pytest.mark.parametrize("kind", FROZEN)
def test_a_mixture_of_low_rank_terms_is_their_weighted_sum(kind: str) -> None:
    weights = torch.tensor([0.5, 0.3, 0.2])
    outputs, _ = routed(weights, torch.tensor([2, 0, 3]), kind)
    expected = (weights.reshape(3, *[1] * (outputs.dim() - 1)) * outputs[1:]).sum(dim=0)
    assert torch.allclose(outputs[0], expected, rtol=1e-4, atol=1e-4)


def test_one_row_with_all_the_weight_is_that_row_bit_for_bit_whoever_else_is_there() -> None:
    first, _ = routed(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([2, 0, 3]))
    other, _ = routed(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([2, 1, 1]))
    alone, _ = routed(torch.tensor([1.0]), torch.tensor([2]))
    assert torch.equal(first[0], other[0])
    assert torch.allclose(first[0], alone[0], atol=1e-6)
    assert torch.allclose(alone[0], alone[1], atol=1e-6), "the hard gate's path, in another order of summation"


def test_experts_without_a_path_leave_the_base_as_it_is() -> None:
    torch.manual_seed(0)
    layer, x, bank = LowRankLinear(torch.nn.Linear(6, 5), rank=2), torch.randn(1, 7, 6), torch.randn(3, 22)
    bank[:, 12:] = 0
    layer.route(bank, torch.tensor([[0, 1, 2]]), 0, torch.tensor([[0.5, 0.3, 0.2]]))
    mixed_output = layer(x)
    assert torch.allclose(mixed_output, layer.frozen(x), atol=1e-6)
    # The base's own row, alone, by the same way.
    layer.route(torch.zeros(1, 22), torch.tensor([[0]]), 0, torch.ones(1, 1))
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
