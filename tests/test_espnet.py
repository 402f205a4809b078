"""A convolutional base: published weights load whole, and experts ride beside its grouped pointwise convolutions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the workshop side needs torch")

from torch import nn
from torch.nn import functional

from mile_edge.bundle import Bundle
from mile_edge.errors import RecipeError
from mile_edge.export.recipe import load_recipe
from mile_edge.network.base import base_from_weights, config_of, load_base
from mile_edge.network.espnet_blocks import averaged
from mile_edge.network.low_rank import LowRankLinear
from mile_edge.runtime import Segmenter
from workshop import export_random, random_expert

WEIGHTS = ("espnetv2_s_0.5_city_512x256.pth", "espnetv2_s_2.0_city_1024x512.pth")


@pytest.mark.parametrize(("name", "scale", "weights"), [(WEIGHTS[0], 0.5, 80_342), (WEIGHTS[1], 2.0, 789_242)])
def test_published_weights_load_with_nothing_missing_and_nothing_unexpected(
    real_data: Path, name: str, scale: float, weights: int
) -> None:
    path = real_data / "weights" / name
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    base = load_base(str(path))
    assert base.config.scale == scale
    assert sum(p.numel() for p in base.parameters()) == weights
    assert set(base.state_dict()) == set(tensors)
    assert all(torch.equal(value, tensors[key]) for key, value in base.state_dict().items())
    assert base(pixel_values=torch.zeros(1, 3, 64, 96)).logits.shape == (1, 20, 32, 48)


def test_an_untouched_base_knows_a_real_street(real_data: Path) -> None:
    from PIL import Image

    from mile_edge.data.class_map import read_class_map
    from mile_edge.data.folder import FolderDataset
    from mile_edge.network.pixels import to_pixels

    folder = FolderDataset(real_data / "camvid" / "day" / "test")
    names = [label.name for label in folder.classes]
    table = read_class_map(Path(__file__).parents[1] / "calib/class-maps/cityscapes-to-camvid.yaml", names)
    base = load_base(str(real_data / "weights" / WEIGHTS[1]))
    sample = folder[0]
    with torch.inference_mode():
        scores = base(pixel_values=to_pixels(sample.frame[None], (352, 480))).logits
    ids = table[scores.argmax(dim=1)[0].numpy()].astype(np.uint8)
    mask = np.asarray(Image.fromarray(ids).resize(sample.label.shape[::-1], Image.Resampling.NEAREST))
    known = sample.label != 255
    assert (mask == sample.label)[known].mean() > 0.8


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(3)}, other)
    with pytest.raises(RecipeError, match="no ESPNetv2 checkpoint"):
        load_base(str(other))
    other.write_bytes(b"not a checkpoint")
    with pytest.raises(RecipeError, match="cannot be loaded"):
        load_base(str(other))
    with pytest.raises(RecipeError, match="cannot be loaded"):
        load_base(str(tmp_path / "absent.pth"))


@pytest.mark.parametrize(("full", "part"), [((23, 30), (15, 20)), ((30, 40), (15, 20)), ((7, 5), (5, 5))])
def test_averaging_by_products_is_adaptive_pooling(full: tuple[int, int], part: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *full)
    assert torch.allclose(averaged(x, part), functional.adaptive_avg_pool2d(x, part), atol=1e-6)


CONVOLUTIONS = {
    "grouped 1x1": {"kernel_size": 1, "groups": 4},
    "grouped 3x3": {"kernel_size": 3, "padding": 1, "groups": 4, "bias": False},
    "strided 3x3": {"kernel_size": 3, "padding": 1, "stride": 2},
    "dilated 3x3": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "wide and low": {"kernel_size": (3, 5), "padding": (1, 2)},
}


@pytest.mark.parametrize("form", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_the_low_rank_path_beside_a_convolution_is_an_update_of_its_centre(form: dict[str, Any]) -> None:
    frozen = nn.Conv2d(8, 12, **form)
    whole = nn.Conv2d(8, 12, **{**form, "groups": 1})
    layer = LowRankLinear(frozen, rank=2)
    nn.init.normal_(layer.lora_B)
    with torch.no_grad():
        whole.weight.zero_()
        whole.weight[(..., *(side // 2 for side in whole.kernel_size))] = layer.lora_B @ layer.lora_A
        if whole.bias is not None:
            whole.bias.zero_()
    x = torch.randn(3, 8, 9, 6)
    merged = frozen(x) + whole(x)
    assert torch.allclose(layer(x), merged, atol=1e-5)
    # The same pair from a bank, behind one number, for samples 0 and 2; sample 1 goes through an empty row.
    row = torch.cat([torch.zeros(1), layer.lora_A.detach().flatten(), layer.lora_B.detach().flatten()])
    bank = torch.stack([torch.zeros_like(row), row])
    layer.route(bank, torch.tensor([1, 0, 1]), offset=1)
    routed = layer(x)
    assert torch.allclose(routed[1], frozen(x)[1], atol=1e-5)
    assert torch.allclose(routed[[0, 2]], merged[[0, 2]], atol=1e-5)
    # A quarter of it, mixed.
    layer.route(bank, torch.tensor([[1, 0]] * 3), offset=1, weights=torch.tensor([[0.25, 0.75]] * 3))
    assert torch.allclose(layer(x), frozen(x) + whole(x) / 4, atol=1e-5)


@pytest.mark.parametrize(
    "form", [{"kernel_size": 2, "stride": 2}, {"kernel_size": 3}, {"kernel_size": 3, "padding": 2}]
)
def test_a_convolution_without_an_input_under_its_centre_cannot_be_adapted(form: dict[str, int]) -> None:
    assert not LowRankLinear.fits(nn.Conv2d(4, 4, **form))


def test_a_base_comes_back_from_its_configuration_and_weights() -> None:
    base = load_base("random:espnetv2-0.5", 4)
    again = base_from_weights(config_of(base), base.state_dict())
    x = torch.randn(1, 3, 64, 96)
    assert torch.equal(base(pixel_values=x).logits, again(pixel_values=x).logits)


def test_one_pass_over_a_convolutional_base_gates_and_applies_experts(tmp_path: Path) -> None:
    from mile_edge.bundle import write_expert

    # Those of the recipe: pointwise convolutions of the encoder, and every kind of the decoder's.
    layers = load_recipe(Path(__file__).parents[1] / "export" / "espnetv2-480x640.yaml").layers
    path = export_random(tmp_path / "bundle", "random:espnetv2-0.5", layers=layers)
    bundle = Bundle.open(path)
    assert len(bundle.manifest.low_rank.layers) == 2 * (1 + 3 + 1 + 7) + 4 + 3 + 3 + 4 + 3
    write_expert(tmp_path / "night.safetensors", random_expert(bundle, "night", 1))
    frame = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    with Segmenter.open(path) as segmenter:
        segmenter.add_expert(tmp_path / "night.safetensors")
        masks = {}
        for name in ("base", "night"):
            segmenter.pin(name)
            masks[name] = segmenter(frame).mask
    assert (masks["base"] != masks["night"]).any()
