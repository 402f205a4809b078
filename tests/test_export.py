"""The exported graph says what torch says, and nothing of the contract is lost on the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the workshop side needs torch")
onnx = pytest.importorskip("onnx", reason="the workshop side needs onnx")

import onnxruntime

from mile_edge.bundle import Bundle, write_expert
from mile_edge.errors import RecipeError
from mile_edge.export.agreement import compare
from mile_edge.export.bundle import base_of, pool_of
from mile_edge.export.recipe import load_recipe
from mile_edge.network.base import base_sha256
from mile_edge.runtime import Segmenter
from workshop import coarse_frames, export_random, random_expert, untrained

REPOSITORY = Path(__file__).parents[1]


def add_random(bundle: Bundle, folder: Path, names: tuple[str, ...]) -> Bundle:
    for seed, name in enumerate(names):
        write_expert(folder / f"{name}.safetensors", random_expert(bundle, name, seed))
        bundle = bundle.add(folder / f"{name}.safetensors")
    return bundle


# Strided and depthwise convolutions; ESPNetv2's pointwise ones and its decoder's grouped ones.
KERNELS = r"segformer\.stages\.[123]\.(patch_embeddings\.proj|.*dwconv)"
DECODER = (
    r"base_net\.level4.*proj_1x1\.conv|bu_dec_l\d\.merge_layer\.2\.cbr\.0|merge_enc_dec_l\d\.expansion_layer\.cbr\.0"
)


def test_the_graph_has_the_contracts_inputs_and_outputs(workshop_bundle: Path) -> None:
    bundle = Bundle.open(workshop_bundle)
    session = onnxruntime.InferenceSession(str(bundle.network_path), providers=["CPUExecutionProvider"])
    row = bundle.manifest.low_rank.row_length
    found = {entry.name: (entry.type, entry.shape) for entry in (*session.get_inputs(), *session.get_outputs())}
    assert found["frames"][0] == "tensor(uint8)"
    assert found["frames"][1][1:] == [64, 96, 3]
    assert found["bank"][0] == "tensor(float)"
    assert found["bank"][1][1] == row
    assert found["prototypes"][1][1:] == [1, 64]
    assert found["whitening"][1] == [64, 64]
    assert [found[name][0] for name in ("mask", "confidence", "expert", "distance")] == [
        "tensor(uint8)",
        "tensor(uint8)",
        "tensor(int32)",
        "tensor(float)",
    ]


def test_the_low_rank_product_is_a_model_local_function(workshop_bundle: Path) -> None:
    model = onnx.load(workshop_bundle / "segmenter.onnx")
    assert [(function.domain, function.name) for function in model.functions] == [("mile", "LowRank")]
    nodes = {output: node for node in model.functions[0].node for output in node.output}
    pads = next(node for node in nodes.values() if node.op_type == "Pad").input[1]
    # ONNX Runtime 1.23, the last for Python 3.10, infers no shape of a constant given as `value_ints`.
    assert [attribute.name for attribute in nodes[pads].attribute] == ["value"]
    calls = [node for node in model.graph.node if node.domain == "mile"]
    assert len(calls) == len(Bundle.open(workshop_bundle).manifest.low_rank.layers)


@pytest.mark.parametrize(
    ("changes", "pixels"),
    [
        ({}, 0.999),
        ({"source": "shallow", "gate": "gaussian"}, 0.999),
        ({"source": "shallow", "gate": "probe"}, 0.999),
        ({"source": "shallow", "gate": "cosine"}, 0.999),
        ({"source": "shallow", "gate": "kmeans", "prototypes": 3}, 0.999),
        ({"tap": "full"}, 0.999),
        ({"precision": "fp16"}, 0.98),
        ({"source": "random:mobilevit-xxs"}, 0.999),
        ({"source": "shallow", "layers": KERNELS}, 0.999),
        ({"source": "shallow", "layers": KERNELS, "precision": "fp16"}, 0.98),
        ({"source": "random:espnetv2-0.5", "layers": DECODER}, 0.999),
    ],
    ids=lambda value: "-".join(map(str, value.values())) or "default" if isinstance(value, dict) else "",
)
def test_onnx_agrees_with_torch(tmp_path: Path, changes: dict[str, object], pixels: float) -> None:
    bundle = Bundle.open(export_random(tmp_path / "bundle", **changes))
    base = untrained(str(changes.get("source", "random:segformer-b0")))
    bundle = add_random(bundle, tmp_path, ("fog", "night"))
    agreement = compare(bundle, coarse_frames(6), base)
    assert agreement["experts_equal"] == 1.0
    assert agreement["pixels_equal"] >= pixels, agreement


def test_the_base_comes_back_out_of_the_bundle_bit_for_bit(workshop_bundle: Path) -> None:
    bundle = Bundle.open(workshop_bundle)
    base = base_of(bundle)
    assert base_sha256(base) == bundle.manifest.base.sha256
    pool = pool_of(bundle, base)
    assert list(pool.adapters) == [layer.name for layer in bundle.manifest.low_rank.layers]


def test_the_base_alone_carries_no_second_copy_of_the_weights(workshop_bundle: Path) -> None:
    assert (workshop_bundle / "base.onnx").stat().st_size < 0.05 * (workshop_bundle / "segmenter.onnx").stat().st_size
    session = onnxruntime.InferenceSession(str(workshop_bundle / "base.onnx"), providers=["CPUExecutionProvider"])
    mask, confidence = session.run(None, {"frames": np.stack(coarse_frames(2))})
    assert mask.shape == confidence.shape == (2, 64, 96)


def test_the_graph_keeps_no_path_of_the_exporting_machine(workshop_bundle: Path) -> None:
    data = (workshop_bundle / "segmenter.onnx").read_bytes()
    assert b"site-packages" not in data
    assert str(REPOSITORY).encode() not in data


def test_an_expert_is_the_same_in_a_batch_and_alone(workshop_bundle: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(workshop_bundle, tmp_path / "bundle")
    add_random(Bundle.open(tmp_path / "bundle"), tmp_path, ("fog", "night"))
    with Segmenter.open(tmp_path / "bundle", hysteresis=0) as segmenter:
        batch = np.stack(coarse_frames(5))
        together = segmenter(batch)
        for index, frame in enumerate(batch):
            alone = segmenter(frame)
            assert alone.expert[0] == together.expert[index]
            assert (alone.mask[0] == together.mask[index]).mean() > 0.999


@pytest.mark.parametrize("recipe", sorted((REPOSITORY / "export").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_recipe_is_valid(recipe: Path) -> None:
    assert load_recipe(recipe).name == recipe.stem


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("size: 240", "size"),
        ("size: [240, 321]", "multiples of 8"),
        ("rank: 0", "rank"),
        ("rank: true", "rank"),
        ("precision: int4", "precision"),
        ("gate: magic", "gate"),
        ("tap: late", "tap"),
        ("colour: red", "unknown key"),
        ("- a\n- b", "mapping"),
        ("a: [", "cannot be read"),
        ("max_classes: 300", "max_classes"),
        ("top_k: 3", "top_k"),
        ("gate: semla\ntop_k: 0", "top_k"),
        ("gate: semla\ncapacity: 2\ntop_k: 4", "capacity"),
        ("gate: semla\ntau: 0", "tau"),
        ("gate: l2\ntau: 1", "tau"),
        ("attributes: [night]", "attributes"),
        ("gate: attribute\nattributes: night", "attributes"),
        ("gate: attribute\nattributes: [night, night]", "attributes"),
        ("gate: attribute\nattribute_vectors: clip.npy", "attribute_vectors"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_by_name(tmp_path: Path, text: str, word: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=word):
        load_recipe(file)
