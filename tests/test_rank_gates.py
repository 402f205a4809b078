"""Gates of ranks: the arithmetic of DAC's router and of MoRA's self-activation, held against straightforward numpy."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the workshop side needs torch")

from hypothesis import given, settings
from hypothesis import strategies as st

from mile_edge.network.gates.rank_router import RankRouter, overlap
from mile_edge.network.gates.self_activated import SelfActivated
from mile_edge.network.low_rank import LowRankLinear
from mile_edge.network.low_rank_self import low_rank_self


def weights_of_a_token(z: np.ndarray, top_k: int, tau: float, delta: float | None) -> np.ndarray:
    """MoRA's weights as the paper writes them down, for one token's responses (R,) of ranks that are there."""
    share = z / np.linalg.norm(z)
    kept = np.argsort(-share, kind="stable")[:top_k]
    exponent = np.exp((share[kept] - share[kept].max()) / tau)
    weights = np.zeros_like(z)
    weights[kept] = exponent / exponent.sum()
    if delta is not None:
        weights[share < delta] = 0
    return weights


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 20),
    st.integers(1, 24),
    st.sampled_from([0.01, 0.1, 1.0]),
    st.sampled_from([0.0, 0.2, 0.5]),
    st.integers(0, 9),
    st.integers(0, 999),
)
def test_every_tokens_weights_are_those_of_the_paper(
    ranks: int, top_k: int, tau: float, delta: float, absent: int, seed: int
) -> None:
    z = np.random.default_rng(seed).normal(size=(2, 3, ranks))
    expected = np.stack([[weights_of_a_token(token, top_k, tau, delta) for token in sample] for sample in z])
    learning = np.stack([[weights_of_a_token(token, top_k, tau, None) for token in sample] for sample in z])
    # Places of a row that no rank has taken yet change nothing.
    padded = torch.from_numpy(np.concatenate([z, np.zeros((2, 3, absent))], axis=2).astype(np.float32))
    gate = SelfActivated(top_k, tau, delta)
    assert gate.eval()(padded, padded)[..., :ranks].numpy() == pytest.approx(expected, abs=2e-4)
    assert gate.train()(padded, padded)[..., :ranks].numpy() == pytest.approx(learning, abs=2e-4)
    assert not (padded * gate(padded, padded))[..., ranks:].any()


def test_a_token_that_no_rank_answers_is_the_bases() -> None:
    silent = SelfActivated().eval()(torch.zeros(1, 1, 4), torch.zeros(1, 1, 4))
    assert torch.isfinite(silent).all()
    assert not silent.any()


def test_a_self_activated_row_of_a_bank_is_the_layer_that_was_trained() -> None:
    torch.manual_seed(0)
    gate, frozen = SelfActivated(top_k=3, tau=0.1, delta=0.2).eval(), torch.nn.Linear(6, 5)
    layer, x = LowRankLinear(frozen, rank=2), torch.randn(3, 7, 6)
    with torch.no_grad():
        layer.lora_B.normal_()
    past = torch.randn(4, 6), torch.randn(5, 4)
    layer.continue_from(past, gate)
    own = layer(x)
    # The same six ranks in a row with room for nine, beside a row without any.
    routed = LowRankLinear(frozen, rank=9)
    routed.low_rank = low_rank_self(gate)
    a, b = torch.zeros(9, 6), torch.zeros(5, 9)
    a[:6], b[:, :6] = torch.cat([past[0], layer.lora_A]), torch.cat([past[1], layer.lora_B], dim=1)
    row = torch.cat([a.flatten(), b.flatten()]).detach()
    routed.route(torch.stack([torch.zeros_like(row), row]), torch.tensor([1, 0, 1]))
    y = routed(x)
    assert y[[0, 2]].detach().numpy() == pytest.approx(own[[0, 2]].detach().numpy(), abs=1e-5)
    assert y[1].detach().numpy() == pytest.approx(frozen(x[1]).detach().numpy(), abs=1e-6)
    assert (y[0] - frozen(x[0])).abs().max() > 0.1


def test_old_ranks_get_no_gradient_and_new_ones_do() -> None:
    torch.manual_seed(0)
    layer = LowRankLinear(torch.nn.Linear(6, 5), rank=2)
    layer.continue_from((torch.randn(4, 6), torch.randn(5, 4)), SelfActivated(top_k=6, tau=1.0))
    before = [layer.past_a.clone(), layer.past_b.clone()]
    with torch.no_grad():
        layer.lora_B.normal_()
    layer(torch.randn(2, 7, 6)).square().sum().backward()
    trained = {name for name, parameter in layer.named_parameters() if parameter.grad is not None}
    assert trained == {"lora_A", "lora_B"}
    assert not layer.past_a.requires_grad
    assert not layer.past_b.requires_grad
    assert torch.equal(layer.past_a, before[0])
    assert torch.equal(layer.past_b, before[1])


def router(trained: bool = False) -> RankRouter:
    """Scores of rank j are feature j, so that a test can say who is wanted."""
    made = RankRouter(6, rank=6, active=3, merged=2, trained=trained)
    with torch.no_grad():
        made.scores.weight.copy_(torch.eye(6))
        made.scores.bias.zero_()
    return made.train()


def wanting(*ranks: int) -> torch.Tensor:
    """A sample (1, 4, 6) whose tokens want these ranks, the first most, on average."""
    x = torch.zeros(1, 4, 6)
    for place, rank in enumerate(ranks):
        x[:, place % 4, rank] = 4.0 * (len(ranks) - place)
    return x


def test_the_ranks_that_most_samples_of_a_batch_want_are_active_and_votes_are_counted() -> None:
    made = router()
    x = torch.cat([wanting(0, 1, 2), wanting(1, 2, 3), wanting(2, 1, 5)])
    weights = made(x, torch.ones(3, 4, 6))
    assert weights.shape == (3, 1, 6)
    assert made.votes.tolist() == [1, 3, 3, 1, 0, 1]
    assert (weights == weights[0]).all(), "the batch computes the same ranks"
    assert weights[0].sum() == 3
    assert weights[0, 0, [1, 2]].tolist() == [1, 1]
    made(wanting(5, 1, 0), torch.ones(1, 4, 6))
    assert made.votes.tolist() == [2, 4, 3, 1, 0, 2]
    assert made.chosen().tolist() == [1, 2]


def test_after_training_exactly_the_merged_ranks_count_and_the_past_always_does() -> None:
    made = router()
    made(torch.cat([wanting(4, 0, 1), wanting(4, 0, 2)]), torch.ones(2, 4, 6))
    weights = made.eval()(wanting(3, 2, 1), torch.ones(1, 4, 2 + 6))
    assert weights.flatten().tolist() == [1, 1, 1, 0, 0, 0, 1, 0]
    assert made.votes.sum() == 6, "evaluation takes no votes"


def test_a_random_router_gets_no_gradient_and_a_trained_one_does() -> None:
    for trained in (False, True):
        made, z = router(trained), torch.ones(2, 4, 6, requires_grad=True)
        (made(torch.cat([wanting(0, 1, 2)] * 2), z) * z).square().sum().backward()
        assert (made.scores.weight.grad is not None) == trained
    share = torch.softmax(torch.tensor([3.0, 2.0, 1.0, 0.0, 0.0, 0.0]), dim=0)
    assert made.gain().numpy() == pytest.approx(6 * share.numpy(), rel=1e-5)
    weights = made(wanting(0, 1, 2), torch.ones(1, 4, 6)).detach()
    assert weights.flatten().numpy() == pytest.approx(6 * np.array([*share[:3], 0, 0, 0]), rel=1e-5)


def test_ago_is_the_sum_of_absolute_inner_products() -> None:
    now = torch.tensor([[1.0, 0.0], [2.0, -1.0], [0.0, 3.0]])
    past = torch.tensor([[1.0, 0.0, -1.0], [1.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    # |1*1+2*1| + |2| + |-1| + |-1| + |-1+3| + |6|
    assert float(overlap(now, past)) == 3 + 2 + 1 + 1 + 2 + 6
