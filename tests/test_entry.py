"""Experts that adapt the first convolution: the gate reads its frozen product in the same pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the workshop side needs torch")

from torch import nn

from mile_edge.bundle import Bundle, read_expert, write_expert
from mile_edge.errors import ExpertError, RecipeError
from mile_edge.export.agreement import compare
from mile_edge.export.bundle import base_of, pool_of
from mile_edge.network.base import load_base
from mile_edge.network.low_rank_entry import LowRankEntry
from mile_edge.network.one_pass import OnePass
from mile_edge.network.pool import ExpertPool
from mile_edge.runtime import Segmenter
from workshop import CLASSES, SIZE, export_random, noisy_frames, random_expert

ENTRY = r"segformer\.stages\.0\.patch_embeddings\.proj"
LAYERS = rf"{ENTRY}|segformer\.stages\.[01]\..*(q_proj|v_proj)"


@pytest.fixture(scope="module")
def entry_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("entry")
    path = export_random(folder / "bundle", tap="entry", layers=LAYERS)
    bundle = Bundle.open(path)
    for seed, name in enumerate(("night", "fog")):
        expert = random_expert(bundle, name, seed)
        write_expert(folder / f"{name}.safetensors", expert)
        bundle = bundle.add(folder / f"{name}.safetensors")
    return path


@pytest.mark.parametrize(
    ("channels", "out", "kernel", "stride", "padding"), [(3, 32, 7, 4, 3), (3, 16, 3, 2, 1), (5, 4, 4, 2, 0)]
)
@pytest.mark.parametrize("size", [(24, 32), (25, 39)])
def test_each_sample_is_convolved_with_its_own_experts_kernel(
    channels: int, out: int, kernel: int, stride: int, padding: int, size: tuple[int, int]
) -> None:
    layer = LowRankEntry(nn.Conv2d(channels, out, kernel, stride, padding))
    x, bank = torch.randn(3, channels, *size), torch.randn(4, 7 + out * (channels * kernel**2 + out))
    expert = torch.tensor([2, 0, 3])
    layer.route(bank, expert, 7)
    with torch.no_grad():
        routed = layer(x)
        for sample, row in enumerate(expert):
            a, b = bank[row, 7:].split([out * channels * kernel**2, out * out])
            layer.route(None)
            layer.lora_A.copy_(a.view(layer.lora_A.shape))
            layer.lora_B.copy_(b.view(layer.lora_B.shape))
            own = layer(x[sample : sample + 1])[0]
            moved = layer.frozen.weight + (b.view(out, out) @ a.view(out, -1)).view(layer.frozen.weight.shape)
            plain = nn.functional.conv2d(x[sample : sample + 1], moved, layer.frozen.bias, stride, padding)[0]
            torch.testing.assert_close(own, plain, rtol=1e-4, atol=1e-3)
            torch.testing.assert_close(routed[sample], plain, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 7, 2, 3), nn.Conv2d(4, 4, 3, 2, groups=2), nn.Conv2d(4, 4, 3, 2, dilation=2)],
)
def test_other_convolutions_are_no_entry(layer: nn.Conv2d) -> None:
    assert not LowRankEntry.fits(layer)


def test_an_untrained_entry_is_exactly_the_base_and_learns_only_its_kernel() -> None:
    base = load_base("random:segformer-b0", len(CLASSES))
    pixels = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        before = base(pixel_values=pixels).logits
        pool = ExpertPool(base, rank=4, pattern=LAYERS)
        pool.reset(len(CLASSES))
        assert torch.equal(pool(pixels), before)
    (entry,) = (path for path in pool.adapters.values() if isinstance(path, LowRankEntry))
    trained = {id(parameter) for parameter in pool.expert_parameters()}
    assert id(entry.lora_A) in trained
    assert id(entry.lora_B) not in trained
    pool(pixels).square().mean().backward()
    assert entry.lora_A.grad is not None
    assert entry.lora_A.grad.abs().sum() > 0


def test_the_gate_reads_the_frozen_product_whatever_the_expert_does_to_it(entry_bundle: Path) -> None:
    frames = np.stack([frame.frame for frame in noisy_frames(4, 1)])
    segmenter = Segmenter.open(entry_bundle)
    free = segmenter(frames).distance
    for name in ("base", "night", "fog"):
        segmenter.pin(name)
        np.testing.assert_array_equal(segmenter(frames).distance, free)


def test_onnx_runtime_and_torch_agree_on_every_expert(entry_bundle: Path) -> None:
    bundle = Bundle.open(entry_bundle)
    found = compare(bundle, [frame.frame for frame in noisy_frames(6, 2)], base_of(bundle))
    assert found["experts_equal"] == 1.0
    assert found["pixels_equal"] >= 0.999


def test_a_tap_behind_an_adapted_entry_is_refused() -> None:
    pool = ExpertPool(load_base("random:segformer-b0", len(CLASSES)), rank=4, pattern=LAYERS)
    network = OnePass(pool, SIZE, 8, tap="early").eval()
    arguments = (
        torch.zeros(1, *SIZE, 3, dtype=torch.uint8),
        torch.zeros(2, network.layout.row_length),
        torch.zeros(2, 1, 64),
        torch.eye(64),
        torch.zeros(1, 2),
    )
    with pytest.raises(RecipeError, match="before the tap"):
        network(*arguments)


def test_an_expert_file_keeps_the_entrys_own_rank_and_the_bundle_checks_it(entry_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(entry_bundle)
    layers = {layer.name: layer for layer in bundle.manifest.low_rank.layers}
    (entry,) = (layer for layer in layers.values() if layer.rank is not None)
    assert (entry.in_features, entry.out_features, entry.rank) == (147, 32, 32)
    night = random_expert(bundle, "other", 5)
    write_expert(tmp_path / "other.safetensors", night)
    assert read_expert(tmp_path / "other.safetensors").low_rank[entry.name][0].shape == (32, 147)
    narrow = {**night.low_rank, entry.name: (np.ones((4, 147), np.float32), np.ones((32, 4), np.float32))}
    write_expert(tmp_path / "narrow.safetensors", replace(night, low_rank=narrow))
    with pytest.raises(ExpertError, match=r"needs \(32, 147\)"):
        bundle.add(tmp_path / "narrow.safetensors")


def test_the_pool_of_a_bundle_has_its_layers(entry_bundle: Path) -> None:
    bundle = Bundle.open(entry_bundle)
    pool = pool_of(bundle, base_of(bundle))
    assert pool.layout(bundle.manifest.low_rank.max_classes) == bundle.manifest.low_rank
