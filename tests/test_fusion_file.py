"""A fusion head is a file from strangers: what is wrong with it is said in one sentence, and the bundle stays whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bundle_makers import (
    BASE_ONNX,
    BASE_SHA,
    CAR,
    ONNX,
    is_one_sentence,
    make_bundle,
    make_expert,
    raw_file,
    tree,
    write_file,
)
from fusion_makers import random_head

from mile_edge.bundle import FUSIONS, Bundle, derive_bundle, read_head, set_fusion, set_fusion_head, verify_bundle
from mile_edge.bundle.fusion_head import head_bytes, write_head
from mile_edge.errors import BundleError, FusionError, MileError

GRAPH = b"a graph that fuses"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return set_fusion(make_bundle(tmp_path, make_expert()), "both-aux", 3, GRAPH)


def head_of(bundle: Bundle, folder: Path, **changes: object) -> Path:
    write_head(folder / "head.safetensors", random_head(bundle, **changes))
    return folder / "head.safetensors"


def test_a_head_survives_the_disk_and_equal_heads_are_equal_files(bundle: Bundle, tmp_path: Path) -> None:
    head = random_head(bundle)
    found = read_head(head_of(bundle, tmp_path))
    assert head_bytes(found) == head_bytes(head)
    assert (found.kind, found.width, found.classes) == ("both-aux", 3, bundle.manifest.classes)
    for name, array in head.weights.items():
        assert np.array_equal(found.weights[name], array)


def test_the_bundle_has_the_head_again_after_opening_and_zeros_before(bundle: Bundle, tmp_path: Path) -> None:
    vector = bundle.fusion_vector()
    assert vector is not None
    assert not vector.any()
    after = set_fusion_head(bundle, head_of(bundle, tmp_path))
    opened = Bundle.open(bundle.path)
    assert np.array_equal(opened.fusion_vector(), after.fusion_vector())
    assert opened.manifest.experts == bundle.manifest.experts
    assert opened.network_path.read_bytes() == ONNX
    assert verify_bundle(bundle.path) == []


@pytest.mark.parametrize("kind", FUSIONS)
def test_each_weight_has_its_place_and_unknown_classes_are_never_corrected(bundle: Bundle, kind: str) -> None:
    bundle = set_fusion(bundle, kind, 3, GRAPH + kind.encode())
    layout, head = bundle.manifest.fusion_layout, random_head(bundle)
    assert layout is not None
    vector = layout.pack(head, (1, 0))
    assert len(vector) == layout.length
    start = 0
    for name, shape in layout.shapes.items():
        part = vector[start : start + int(np.prod(shape))].reshape(shape)
        start += part.size
        if name == "main.weight":
            assert np.array_equal(part[:2], head.weights[name][::-1])
            assert not part[2:].any()
        elif name == "embed.weight":
            assert np.array_equal(part, head.weights[name])


def broken(change: Callable[[bytes], bytes]) -> Callable[[Bundle, Path], None]:
    def make(bundle: Bundle, path: Path) -> None:
        path.write_bytes(change(path.read_bytes()))

    return make


def other(**changes: object) -> Callable[[Bundle, Path], None]:
    return lambda bundle, path: write_head(path, random_head(bundle, **changes))


def tensors(change: Callable[[dict[str, np.ndarray]], None]) -> Callable[[Bundle, Path], None]:
    def make(bundle: Bundle, path: Path) -> None:
        from mile_edge.bundle.tensor_file import read_tensors, write_tensors

        found, metadata = read_tensors(path.read_bytes())
        arrays = {name: np.array(tensor.array) for name, tensor in found.items()}
        change(arrays)
        path.write_bytes(write_tensors(arrays, metadata))

    return make


def linked(bundle: Bundle, path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (broken(lambda data: b""), "is empty"),
        (broken(lambda data: data[:-4]), "cut off"),
        (broken(lambda data: b"PK" + data), "not a safetensors file"),
        (broken(lambda data: raw_file({"__metadata__": {"format": "mile-edge-expert"}})), "no fusion head"),
        (broken(lambda data: raw_file({"__metadata__": {"format": "mile-edge-fusion"}})), "field schema is missing"),
        (broken(lambda data: data.replace(b'"width":"3"', b'"width":"9"')), "has shape"),
        (broken(lambda data: data.replace(b'"kind":"both-aux"', b'"kind":"both-all"')), "one of uniform"),
        (tensors(lambda found: found.pop("route.weight")), "is missing"),
        (tensors(lambda found: found.update(extra=np.zeros(2, np.float32))), "not part of this kind"),
        (tensors(lambda found: found["main.weight"].fill(np.nan)), "numbers beyond"),
        (tensors(lambda found: found["main.weight"].fill(1e30)), "numbers beyond"),
        (other(base_sha256="cd" * 32), f"for base cdcdcdcdcdcd and this bundle has {BASE_SHA[:12]}"),
        (other(kind="uniform"), "for kind uniform and this bundle has both-aux"),
        (other(width=4), "for width 4 and this bundle has 3"),
        (other(hidden=6), "for decoder width 6 and this bundle has 5"),
        (other(classes=(CAR,)), "class 'car' is not in bundle"),
        (linked, "symbolic link"),
        (lambda bundle, path: path.unlink(), "no such file"),
    ],
)
def test_a_wrong_head_is_refused_in_one_sentence_and_nothing_has_changed(
    bundle: Bundle, tmp_path: Path, spoil: Callable[[Bundle, Path], None], said: str
) -> None:
    path = head_of(bundle, tmp_path)
    spoil(bundle, path)
    before = tree(bundle.path)
    with pytest.raises(MileError, match=said) as caught:
        set_fusion_head(bundle, path)
    assert is_one_sentence(caught.value)
    assert tree(bundle.path) == before


def test_a_head_or_graph_that_was_changed_in_the_bundle_is_noticed(bundle: Bundle, tmp_path: Path) -> None:
    bundle = set_fusion_head(bundle, head_of(bundle, tmp_path))
    info = bundle.manifest.fusion
    assert info is not None
    for name in (info.file, info.network.file):
        file = bundle.path / str(name)
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + b"\0")
        assert any(str(name) in problem for problem in verify_bundle(bundle.path))
        with pytest.raises(BundleError, match=str(name)):
            Bundle.open(bundle.path)
        file.write_bytes(whole)
    assert verify_bundle(bundle.path) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kind", "median"),
        ("width", 0),
        ("file", "../head.safetensors"),
        ("file", "fusion-00000000.safetensors"),
        ("sha256", "short"),
        ("more", 1),
    ],
)
def test_a_manifest_that_lies_about_fusion_is_refused(bundle: Bundle, tmp_path: Path, key: str, value: object) -> None:
    set_fusion_head(bundle, head_of(bundle, tmp_path))
    path = bundle.path / "manifest.json"
    content = json.loads(path.read_text())
    content["fusion"][key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(BundleError, match="fusion") as caught:
        Bundle.open(bundle.path)
    assert is_one_sentence(caught.value)


def test_a_new_graph_of_the_same_kind_keeps_the_head_and_another_kind_does_not(bundle: Bundle, tmp_path: Path) -> None:
    bundle = set_fusion_head(bundle, head_of(bundle, tmp_path))
    again = set_fusion(bundle, "both-aux", 3, GRAPH + b" again")
    assert np.array_equal(again.fusion_vector(), bundle.fusion_vector())
    wider = set_fusion(again, "both-aux", 4, GRAPH + b" wider")
    assert wider.fusion_head is None
    assert Bundle.open(bundle.path).fusion_head is None


def test_experts_come_and_go_and_fusion_stays(bundle: Bundle, tmp_path: Path) -> None:
    bundle = set_fusion_head(bundle, head_of(bundle, tmp_path))
    vector = bundle.fusion_vector()
    bundle = bundle.add(write_file(tmp_path, make_expert("night", seed=3)))
    assert np.array_equal(bundle.fusion_vector(), vector)
    bundle = bundle.remove("night").rollback()
    assert np.array_equal(bundle.fusion_vector(), vector)
    assert np.array_equal(Bundle.open(bundle.path).fusion_vector(), vector)


def test_a_bundle_of_other_graphs_has_no_fusion(bundle: Bundle, tmp_path: Path) -> None:
    derived = derive_bundle(bundle, tmp_path / "other", "int8", b"quantised", None, {})
    assert derived.manifest.fusion is None
    assert derived.fusion_vector() is None


def test_a_bundle_that_is_created_from_anothers_manifest_has_no_fusion(bundle: Bundle, tmp_path: Path) -> None:
    manifest = replace(bundle.manifest, experts=(), classes=bundle.manifest.classes)
    made = Bundle.create(tmp_path / "copy", manifest, ONNX, BASE_ONNX, bundle.experts()[0])
    assert made.manifest.fusion is None
    assert verify_bundle(made.path) == []


def test_what_a_killed_run_left_is_swept_and_what_is_used_is_not(bundle: Bundle, tmp_path: Path) -> None:
    stray = bundle.path / "fusion-01234567.safetensors"
    stray.write_bytes(b"half")
    (bundle.path / ".fused-01234567.onnx.partial").write_bytes(b"half")
    assert any(stray.name in problem for problem in verify_bundle(bundle.path))
    set_fusion_head(bundle, head_of(bundle, tmp_path))
    assert verify_bundle(bundle.path) == []
    assert not stray.exists()


def test_a_head_with_numbers_that_no_graph_takes_is_not_even_written(bundle: Bundle, tmp_path: Path) -> None:
    head = random_head(bundle)
    weights = {**head.weights, "embed.bias": np.full(3, np.inf)}
    with pytest.raises(FusionError, match=r"embed\.bias"):
        write_head(tmp_path / "bad.safetensors", replace(head, weights=weights))
    assert not (tmp_path / "bad.safetensors").exists()
