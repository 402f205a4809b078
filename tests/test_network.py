"""The pool, the low-rank layer and the gates, in torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the workshop side needs torch")

from transformers import SegformerForSemanticSegmentation

from mile_edge.errors import RecipeError
from mile_edge.network.base import base_sha256, load_base
from mile_edge.network.gates import PooledFeature, PrototypeGate
from mile_edge.network.low_rank import LowRankLinear
from mile_edge.network.one_pass import OnePass
from mile_edge.network.pool import ExpertPool, adaptable_layers
from workshop import CLASSES, SIZE

PIXELS = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def base() -> torch.nn.Module:
    torch.manual_seed(3)
    return load_base("random:segformer-b0", len(CLASSES))


def bank_of(network: OnePass, experts: int, scale: float = 0.05) -> torch.Tensor:
    bank = torch.randn(experts, network.layout.row_length, generator=torch.Generator().manual_seed(5)) * scale
    bank[0, : network.layout.classifier_offset] = 0
    return bank


def test_mixing_channels_before_upsampling_is_the_published_decoder() -> None:
    ours = base()
    published = SegformerForSemanticSegmentation(ours.config).eval()
    published.load_state_dict(ours.state_dict())
    with torch.no_grad():
        assert torch.allclose(ours(PIXELS).logits, published(PIXELS).logits, atol=1e-5)


@pytest.mark.parametrize(
    "frozen",
    [
        torch.nn.Linear(8, 6),
        torch.nn.Conv2d(8, 6, 1),
        torch.nn.Conv2d(8, 8, 3, stride=2, padding=2, dilation=2, groups=4),
    ],
    ids=["linear", "pixel", "grouped"],
)
def test_a_layers_untrained_path_is_exactly_the_frozen_layer_whose_hooks_run(frozen: torch.nn.Module) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8) if isinstance(frozen, torch.nn.Linear) else torch.randn(2, 8, 33, 47)
    seen: list[torch.Tensor] = []
    with torch.no_grad():
        expected = frozen(x)
        frozen.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        assert torch.equal(LowRankLinear(frozen, 4)(x), expected)
    assert len(seen) == 1


def test_an_untrained_expert_is_exactly_the_base() -> None:
    network = base()
    with torch.no_grad():
        before = network(PIXELS).logits
        pool = ExpertPool(network, rank=4)
        assert torch.equal(pool(PIXELS), before)


@pytest.mark.parametrize("pattern", [r"nothing\.matches", r"segformer\.stages\.1", r"decode_head\.batch_norm"])
def test_a_pattern_that_matches_no_layer_is_refused_and_named(pattern: str) -> None:
    with pytest.raises(RecipeError, match="matches none"):
        adaptable_layers(base(), pattern)


def test_a_pattern_that_is_no_regular_expression_is_refused() -> None:
    with pytest.raises(RecipeError, match="no regular expression"):
        adaptable_layers(base(), "(q_proj")


def test_the_classifier_cannot_be_adapted() -> None:
    with pytest.raises(RecipeError, match="classifier"):
        ExpertPool(base(), pattern=r"decode_head\.classifier")


def test_a_layer_that_the_decoder_applies_slice_by_slice_is_refused_by_name() -> None:
    with pytest.raises(RecipeError, match="linear_fuse"):
        ExpertPool(load_base("random:segformer-b0"), 8, r"decode_head\.linear.*")


def test_a_1x1_convolution_counts_as_a_linear_layer() -> None:
    layer = LowRankLinear(torch.nn.Conv2d(6, 5, 1), rank=2)
    torch.nn.init.normal_(layer.lora_B)
    x = torch.randn(2, 6, 4, 3)
    weight = layer.frozen.weight[:, :, 0, 0] + layer.lora_B @ layer.lora_A
    expected = torch.einsum("oi,bihw->bohw", weight, x) + layer.frozen.bias[:, None, None]
    assert torch.allclose(layer(x), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_every_sample_of_a_batch_takes_its_own_experts_row(kind: str) -> None:
    frozen = torch.nn.Linear(6, 5) if kind == "linear" else torch.nn.Conv2d(6, 5, 1)
    x = torch.randn(3, 7, 6) if kind == "linear" else torch.randn(3, 6, 2, 4)
    layer = LowRankLinear(frozen, rank=2)
    bank = torch.randn(4, 40)
    for sample, expert in enumerate((2, 0, 3)):
        layer.route(bank, torch.tensor([2, 0, 3]), offset=11)
        together = layer(x)[sample]
        layer.route(None)
        with torch.no_grad():
            layer.lora_A.copy_(bank[expert, 11:23].view(2, 6))
            layer.lora_B.copy_(bank[expert, 23:33].view(5, 2))
        assert torch.allclose(together, layer(x)[sample], atol=1e-5)


def test_the_whole_pass_under_a_bank_row_is_the_pass_under_that_expert() -> None:
    network = OnePass(ExpertPool(base(), rank=4), SIZE, max_classes=5).eval()
    bank = bank_of(network, 3)
    prototypes, whitening = torch.zeros(3, 1, 64), torch.eye(64)
    frames = torch.randint(0, 256, (2, *SIZE, 3), dtype=torch.uint8)
    forced = torch.full((2, 3), -1e9)
    forced[0, 1] = forced[1, 2] = 0
    with torch.no_grad():
        both = network(frames, bank, prototypes, whitening, forced)
        alone = [network(frames[i : i + 1], bank, prototypes, whitening, forced[i : i + 1]) for i in range(2)]
    assert both[2].tolist() == [1, 2]
    for sample in range(2):
        assert (both[0][sample] == alone[sample][0][0]).float().mean() > 0.999


def test_layers_before_the_tap_cannot_depend_on_the_expert() -> None:
    network = OnePass(ExpertPool(base(), rank=4, pattern=r"segformer\.stages\.0\..*q_proj"), SIZE, 5).eval()
    bank = bank_of(network, 2)
    frames = torch.zeros(1, *SIZE, 3, dtype=torch.uint8)
    with pytest.raises(RecipeError, match="before the tap"):
        network(frames, bank, torch.zeros(2, 1, 64), torch.eye(64), torch.zeros(1, 2))


def test_the_pooled_feature_is_mean_and_deviation_of_each_channel() -> None:
    maps = torch.randn(2, 3, 5, 4)
    feature = PooledFeature()(maps)
    assert torch.allclose(feature[:, :3], maps.mean(dim=(2, 3)), atol=1e-6)
    assert torch.allclose(feature[:, 3:], maps.std(dim=(2, 3), correction=0), atol=1e-6)
    assert torch.allclose(PooledFeature()(maps.flatten(2).transpose(1, 2)), feature, atol=1e-6)


def test_mahalanobis_distance_is_the_textbooks() -> None:
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(4, 4))
    covariance = factor @ factor.T + np.eye(4)
    whitening = np.linalg.inv(np.linalg.cholesky(covariance))
    feature, prototype = rng.normal(size=4), rng.normal(size=4)
    expected = np.sqrt((feature - prototype) @ np.linalg.inv(covariance) @ (feature - prototype))
    tensors = [torch.tensor(a, dtype=torch.float32) for a in (feature[None], prototype[None, None], whitening)]
    _, distance = PrototypeGate()(*tensors, torch.zeros(1, 1))
    assert float(distance) == pytest.approx(expected, rel=1e-4)


def test_gaussian_distance_is_minus_two_log_likelihood_without_its_constant() -> None:
    mean, deviation, feature = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0]), torch.tensor([1.5, 0.0])
    prototypes = torch.stack([mean, 1 / deviation])[None]
    _, distance = PrototypeGate("gaussian")(feature[None], prototypes, torch.eye(2), torch.zeros(1, 1))
    likelihood = torch.distributions.Normal(mean, deviation).log_prob(feature).sum() + np.log(2 * np.pi)
    assert float(distance) == pytest.approx(-2 * float(likelihood), rel=1e-5)


def test_the_nearest_of_several_prototypes_counts() -> None:
    prototypes = torch.tensor([[[0.0, 0.0], [9.0, 9.0]], [[5.0, 5.0], [5.0, 5.0]]])
    expert, distance = PrototypeGate("kmeans")(torch.tensor([[8.0, 9.0]]), prototypes, torch.eye(2), torch.zeros(1, 2))
    assert int(expert) == 0
    assert distance[0].tolist() == pytest.approx([1.0, 5.0])


def test_cosine_ignores_length() -> None:
    gate = PrototypeGate("cosine")
    prototypes = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    near = gate(torch.tensor([[2.0, 1.0]]), prototypes, torch.eye(2), torch.zeros(1, 2))[1]
    far = gate(torch.tensor([[200.0, 100.0]]), prototypes, torch.eye(2), torch.zeros(1, 2))[1]
    assert torch.allclose(near, far)


def test_the_base_hash_knows_weights_but_not_the_classifier() -> None:
    one, other = base(), base()
    assert base_sha256(one) == base_sha256(other)
    with torch.no_grad():
        other.decode_head.classifier.weight += 1
    assert base_sha256(one) == base_sha256(other)
    with torch.no_grad():
        other.decode_head.linear_fuse.weight[0, 0] += 1e-6
    assert base_sha256(one) != base_sha256(other)


def test_a_base_that_does_not_exist_or_is_damaged_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="does not exist"):
        load_base("/nowhere/at/all")
    base().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(RecipeError, match="cannot be loaded"):
        load_base(str(tmp_path))
    with pytest.raises(RecipeError, match="unknown"):
        load_base("random:resnet-50")
