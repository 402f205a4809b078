"""Experts to PEFT and back, checked against the PEFT library itself."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the workshop side needs torch")
peft = pytest.importorskip("peft", reason="PEFT is in the train extra")

from commands import run

from mile_edge.bundle import Bundle, Expert
from mile_edge.errors import ExpertError
from mile_edge.export.bundle import base_of, pool_of
from mile_edge.network.base import describe
from mile_edge.network.pool import replace_module
from mile_edge.training.expert import ExpertTask
from mile_edge.training.peft_folder import read_peft, write_peft
from mile_edge.training.statistics import GateStatistics
from workshop import SIZE, export_random, random_expert

PIXELS = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def entry_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its experts adapt a convolution of kernel 7 as well, with a rank of its own."""
    layers = r"segformer\.stages\.0\.patch_embeddings\.proj|segformer\.stages\.2\..*(q_proj|v_proj)"
    return export_random(tmp_path_factory.mktemp("peft") / "bundle", tap="entry", layers=layers)


@pytest.fixture(scope="module")
def centre_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its experts adapt the centre of strided convolutions."""
    layers = r"segformer\.stages\.[12]\.patch_embeddings\.proj"
    return export_random(tmp_path_factory.mktemp("peft") / "bundle", "shallow", layers=layers)


def made(bundle: Bundle) -> Expert:
    return random_expert(bundle, "fog", 3)


def ours(bundle: Bundle, expert: Expert) -> torch.Tensor:
    pool = pool_of(bundle, base_of(bundle))
    pool.load(expert)
    with torch.no_grad():
        return pool.eval()(PIXELS)


def read(bundle: Bundle, folder: Path) -> Expert:
    own = bundle.experts()[0]
    classifier = describe(bundle.manifest.base.config["model_type"]).classifier
    return read_peft(
        folder,
        ExpertTask("back", ("camera",), ("fog",)),
        bundle.manifest.low_rank,
        bundle.manifest.base.sha256,
        own.classes,
        classifier,
        GateStatistics(np.asarray(own.mean), np.asarray(own.scatter), own.count),
        own,
    )


@pytest.mark.parametrize("made_as", ["workshop_bundle", "entry_bundle", "centre_bundle"])
def test_peft_computes_with_our_export_what_we_compute(
    made_as: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    bundle = Bundle.open(request.getfixturevalue(made_as))
    expert = made(bundle)
    write_peft(expert, tmp_path / "fog", base_of(bundle))
    model = peft.PeftModel.from_pretrained(base_of(bundle), tmp_path / "fog").eval()
    with torch.no_grad():
        theirs = model(pixel_values=PIXELS).logits
    assert torch.allclose(theirs, ours(bundle, expert), atol=1e-4)


@pytest.mark.parametrize(("odd", "said"), [({"groups": 2}, "2 groups"), ({"dilation": 2}, "a dilation of 2")])
def test_an_expert_beside_a_convolution_that_peft_cannot_follow_is_refused(
    centre_bundle: Path, odd: dict[str, int], said: str, tmp_path: Path
) -> None:
    bundle = Bundle.open(centre_bundle)
    base, expert = base_of(bundle), made(bundle)
    layer = next(iter(expert.low_rank))
    own = base.get_submodule(layer)
    replace_module(base, layer, torch.nn.Conv2d(own.in_channels, own.out_channels, 3, 2, odd.get("dilation", 1), **odd))
    # What PEFT itself makes of it, so that this is no longer refused once it can.
    config = peft.LoraConfig(r=4, target_modules=[layer], init_lora_weights=False)
    adapted = peft.get_peft_model(copy.deepcopy(base), config)
    if "dilation" in odd:
        with pytest.raises(RuntimeError), torch.no_grad():
            adapted(pixel_values=PIXELS)
    else:
        assert adapted.get_submodule(f"base_model.model.{layer}.lora_B.default").weight.shape[1] == 2, "of rank 4"
    with pytest.raises(ExpertError, match=f"a convolution with {said}, which PEFT"):
        write_peft(expert, tmp_path / "fog", base)
    assert not (tmp_path / "fog").exists()


@pytest.mark.parametrize(
    ("alpha", "rslora", "made_as"),
    [
        (4, False, "workshop_bundle"),
        (16, False, "workshop_bundle"),
        (8, True, "workshop_bundle"),
        (16, False, "entry_bundle"),
    ],
)
def test_we_compute_with_pefts_folder_what_peft_computes(
    alpha: int, rslora: bool, made_as: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    bundle = Bundle.open(request.getfixturevalue(made_as))
    names = [layer.name for layer in bundle.manifest.low_rank.layers]
    config = peft.LoraConfig(r=4, lora_alpha=alpha, use_rslora=rslora, target_modules=names, init_lora_weights=False)
    torch.manual_seed(0)
    model = peft.get_peft_model(base_of(bundle), config).eval()
    model.save_pretrained(tmp_path / "theirs")
    with torch.no_grad():
        theirs = model(pixel_values=PIXELS).logits
    assert torch.allclose(ours(bundle, read(bundle, tmp_path / "theirs")), theirs, atol=1e-3)


@pytest.mark.parametrize("made_as", ["workshop_bundle", "entry_bundle", "centre_bundle"])
def test_there_and_back_is_the_same_expert(made_as: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    bundle = Bundle.open(request.getfixturevalue(made_as))
    expert = made(bundle)
    write_peft(expert, tmp_path / "fog", base_of(bundle))
    back = read(bundle, tmp_path / "fog")
    for layer, (a, b) in expert.low_rank.items():
        assert np.array_equal(back.low_rank[layer][0], a)
        assert np.array_equal(back.low_rank[layer][1], b)
    assert np.array_equal(back.classifier_weight, expert.classifier_weight)


def test_a_folder_that_adapts_a_whole_kernel_where_the_bundle_has_its_centre_is_refused(
    centre_bundle: Path, tmp_path: Path
) -> None:
    bundle = Bundle.open(centre_bundle)
    names = [layer.name for layer in bundle.manifest.low_rank.layers]
    config = peft.LoraConfig(r=4, lora_alpha=4, target_modules=names, init_lora_weights=False)
    peft.get_peft_model(base_of(bundle), config).save_pretrained(tmp_path / "theirs")
    with pytest.raises(ExpertError, match="adapts the whole kernel"):
        read(bundle, tmp_path / "theirs")


@pytest.mark.parametrize(
    ("change", "word"),
    [({"r": 8}, "rank"), ({"use_dora": True}, "use_dora"), ({"bias": "all"}, "bias"), ({"peft_type": "IA3"}, "LORA")],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_folder_that_a_bank_row_cannot_hold_is_refused(
    workshop_bundle: Path, tmp_path: Path, change: dict[str, object], word: str
) -> None:
    bundle = Bundle.open(workshop_bundle)
    write_peft(made(bundle), tmp_path / "fog", base_of(bundle))
    file = tmp_path / "fog" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ExpertError, match=word):
        read(bundle, tmp_path / "fog")


def test_the_commands_say_what_to_do_and_write_over_nothing(
    workshop_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Bundle.open(workshop_bundle)
    write_peft(made(bundle), tmp_path / "fog", base_of(bundle))
    modes = {file.stat().st_mode for file in (tmp_path / "fog").iterdir()}
    assert len(modes) == 1
    status, _, told = run(capsys, "peft", "export", workshop_bundle, bundle.experts()[-1].name, tmp_path / "fog")
    assert (status, "already exists and is not empty" in told) == (2, True)
    given = ("peft", "import", workshop_bundle, "--data", tmp_path, "--out", tmp_path / "new", "--name")
    for name, word in (("F!", "use lower-case"), ("base", "like the bundle's base")):
        status, _, told = run(capsys, *given, name, tmp_path / "fog")
        assert (status, word in told) == (2, True)
    with pytest.raises(ExpertError, match=r"no such file or directory\); give one that PEFT"):
        read(bundle, tmp_path)


def test_a_missing_or_surplus_layer_is_refused_not_dropped(workshop_bundle: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    bundle = Bundle.open(workshop_bundle)
    write_peft(made(bundle), tmp_path / "fog", base_of(bundle))
    file = tmp_path / "fog" / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(key for key in tensors if "lora_A" in key)
    save_file({key: value for key, value in tensors.items() if key != name}, file)
    with pytest.raises(ExpertError, match="does not adapt"):
        read(bundle, tmp_path / "fog")
    save_file({**tensors, "base_model.model.other.lora_A.weight": np.zeros((4, 4), np.float32)}, file)
    with pytest.raises(ExpertError, match="does not adapt"):
        read(bundle, tmp_path / "fog")
