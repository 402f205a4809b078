"""An expert survives its file, fits its bundle or is told why not, and is written whole or not at all."""

from __future__ import annotations

import os
import socket
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_checks import refused
from bundle_makers import (
    CAR,
    DIM,
    HIDDEN,
    LAYERS,
    LAYOUT,
    ROAD,
    SKY,
    entries,
    make_base,
    make_expert,
    make_manifest,
    raw_file,
    taken_apart,
    write_file,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mile_edge.bundle import ClassLabel, Gate, Network, check_expert, expert_bytes, read_expert, write_expert
from mile_edge.bundle.checks import MAX_COUNT
from mile_edge.bundle.expert import MAX_BYTES, parse_expert
from mile_edge.errors import ExpertError

MANIFEST = make_manifest()


def test_an_expert_survives_its_file(tmp_path: Path) -> None:
    for expert in (make_expert(), make_base(), make_expert("km", prototypes=np.ones((2, DIM), np.float32))):
        assert read_expert(write_file(tmp_path, expert)) == expert


def test_equal_experts_give_equal_files() -> None:
    assert expert_bytes(make_expert()) == expert_bytes(make_expert())
    assert expert_bytes(make_expert()) != expert_bytes(make_expert(scores={"miou": 0.6}))


def test_what_is_read_cannot_be_changed_by_accident(tmp_path: Path) -> None:
    expert = read_expert(write_file(tmp_path, make_expert()))
    with pytest.raises(ValueError, match="read-only"):
        expert.classifier_weight[0, 0] = 1


def test_the_safetensors_library_reads_our_files_and_we_read_its(tmp_path: Path) -> None:
    safetensors_numpy = pytest.importorskip("safetensors.numpy", reason="the safetensors library is not installed")
    path = write_file(tmp_path, make_expert())
    tensors = safetensors_numpy.load_file(path)
    assert tensors["block.0.query.lora_A"].dtype == np.float16
    assert tensors["classifier.weight"].dtype == np.float32
    header, _ = taken_apart(make_expert())
    safetensors_numpy.save_file(tensors, tmp_path / "theirs.safetensors", header["__metadata__"])
    assert read_expert(tmp_path / "theirs.safetensors") == make_expert()


def test_sizes_are_the_bytes_of_the_tensors_in_the_file() -> None:
    expert = make_expert(prototypes=np.ones((2, DIM), np.float32))
    _, body = taken_apart(expert)
    sizes = expert.sizes()
    assert sum(sizes.values()) == len(body)
    assert sizes["adapter"] == 2 * LAYOUT.classifier_offset
    assert sizes["head"] == 4 * 2 * (HIDDEN + 1)


def test_experts_differ_in_every_number() -> None:
    expert = make_expert()
    a, b = expert.low_rank[LAYERS[0].name]
    nudged = a.copy()
    nudged[0, 0] += 1
    assert replace(expert, low_rank={**expert.low_rank, LAYERS[0].name: (nudged, b)}) != expert
    assert replace(expert, prototypes=np.ones((1, DIM), np.float32)) != expert
    assert replace(expert, domains=("fog", "*")) != expert


FLOATS = npst.arrays(np.float16, (2, 6), elements=st.floats(-1e4, 1e4, width=16))
TEXT = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=20)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e30, 1e30) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    a=FLOATS,
    sensors=st.lists(TEXT, max_size=3),
    domains=st.lists(TEXT, max_size=3),
    training=st.dictionaries(st.text(max_size=8), PLAIN, max_size=4),
    count=st.integers(2, MAX_COUNT),
)
@settings(max_examples=100, deadline=None)
def test_any_sensible_expert_survives_its_file(
    a: np.ndarray, sensors: list[str], domains: list[str], training: dict[str, Any], count: int
) -> None:
    expert = make_expert(sensors=tuple(sensors), domains=tuple(domains), training=training, count=count)
    pair = (a.astype(np.float32), expert.low_rank[LAYERS[0].name][1])
    expert = replace(expert, low_rank={**expert.low_rank, LAYERS[0].name: pair})
    assert parse_expert(expert_bytes(expert), "x") == expert


def test_scatter_sums_with_the_rounding_of_fp32_are_no_reason_to_refuse() -> None:
    random = np.random.default_rng(0)
    frames = random.normal(size=(40, 64)).astype(np.float32) * np.geomspace(1e-3, 1e3, 64).astype(np.float32)
    centred = frames - frames.mean(axis=0)
    expert = make_expert(mean=frames.mean(axis=0), scatter=centred.T @ centred)
    assert parse_expert(expert_bytes(expert), "x").mean.shape == (64,)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"base_sha256": "cd" * 32}, "train it on this base"),
        (
            {"rank": 3, "low_rank": {each.name: (np.ones((3, 6)), np.ones((each.out_features, 3))) for each in LAYERS}},
            "rank 3",
        ),
        ({"tap": "full"}, "tap 'full'"),
        ({"low_rank": {LAYERS[0].name: (np.ones((2, 6)), np.ones((4, 2)))}}, "lacks layer"),
        (
            {
                "low_rank": {
                    name: (np.ones((2, 6)), np.ones((size, 2)))
                    for name, size in (("block.0.query", 4), ("block.0.value", 3), ("block.1.query", 4))
                }
            },
            "block.1.query",
        ),
        ({"low_rank": {each.name: (np.ones((2, 5)), np.ones((each.out_features, 2))) for each in LAYERS}}, "(2, 5)"),
        ({"classifier_weight": np.ones((2, HIDDEN + 1))}, "5 channels"),
        ({"mean": np.ones(3), "scatter": np.eye(3)}, "gate.mean has 3"),
        ({"prototypes": np.ones((3, DIM))}, "3 prototypes"),
        ({"classes": (SKY, ClassLabel("road", (1, 1, 1)))}, "same colour"),
        ({"classes": (SKY, ClassLabel("street", ROAD.color))}, "rename or recolour"),
        (
            {
                "classes": tuple(ClassLabel(f"c{index}", (index, 9, 9)) for index in range(5)),
                "classifier_weight": np.ones((5, HIDDEN)),
                "classifier_bias": np.ones(5),
            },
            "adds 5 classes to 2",
        ),
    ],
)
def test_an_expert_for_something_else_is_refused(changes: dict[str, Any], reason: str) -> None:
    assert reason in refused(lambda: check_expert(make_expert(**changes), MANIFEST), ExpertError)


def test_an_expert_that_fits_is_accepted_in_memory_and_from_disk(tmp_path: Path) -> None:
    exact = replace(make_expert(), mean=np.ones(DIM, np.float64), scatter=np.eye(DIM), count=np.int64(5))
    for expert in (make_expert(), make_base(), make_expert(classes=(CAR, SKY)), exact):
        assert check_expert(expert, MANIFEST) is None
        assert check_expert(read_expert(write_file(tmp_path, expert)), MANIFEST) is None


def test_a_classifier_beyond_fp16_is_refused_only_in_an_fp16_bundle() -> None:
    loud = make_expert(classifier_weight=np.full((2, HIDDEN), 1e5, np.float32))
    check_expert(loud, MANIFEST)
    half = make_manifest(network=Network("segmenter.onnx", "0" * 64, 48, 64, "fp16"))
    assert "fp16" in refused(lambda: check_expert(loud, half), ExpertError)


def test_an_adapter_in_eight_bits_beyond_fp16_is_refused_only_in_an_fp16_bundle() -> None:
    pairs = {name: (a * np.float32(1e6), b) for name, (a, b) in make_expert().low_rank.items()}
    loud = parse_expert(expert_bytes(make_expert(stored="int8", low_rank=pairs)), "x")
    check_expert(loud, MANIFEST)
    half = make_manifest(network=Network("segmenter.onnx", "0" * 64, 48, 64, "fp16"))
    assert "exceeds fp16" in refused(lambda: check_expert(loud, half), ExpertError)


def test_a_gate_with_another_tap_refuses_the_expert() -> None:
    full = make_manifest(gate=Gate("mahalanobis", "full", DIM))
    assert "tap" in refused(lambda: check_expert(make_expert(), full), ExpertError)


@pytest.mark.parametrize(
    "changes",
    [
        {"classifier_weight": np.full((2, HIDDEN), np.nan)},
        {"low_rank": {LAYERS[0].name: (np.full((2, 6), 1e6), np.ones((4, 2)))}},
        {"low_rank": {}},
        {"rank": 0},
        {"adapter": "none"},
        {"name": "Fog of war"},
        {"base_sha256": ""},
        {"count": 1},
        {"training": {"rate": float("nan")}},
        {"training": {"path": Path("x")}},
        {"training": {1: 2}},
        {"training": {"log": "x" * 2_000_000}},
        {"scores": {"a": "\ud800"}},
        {"domains": ("",)},
        {"sensors": (3,)},
        {"mean": None},
        {"mean": ["a"]},
        {"classes": (SKY, SKY)},
        {"tap": "both"},
    ],
)
def test_an_expert_that_could_not_be_read_is_not_written(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "fog.safetensors"
    path.write_bytes(b"what was there")
    assert refused(lambda: write_expert(path, make_expert(**changes)), ExpertError)
    assert path.read_bytes() == b"what was there"
    assert entries(tmp_path) == ["fog.safetensors"]


def test_an_expert_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    refused(lambda: write_expert(tmp_path / "nowhere" / "fog.safetensors", make_expert()), ExpertError)
    refused(lambda: write_expert(tmp_path / "folder.safetensors", make_expert()), ExpertError)
    assert entries(tmp_path) == ["folder.safetensors"]


def test_only_a_plain_file_is_read(tmp_path: Path) -> None:
    path = write_file(tmp_path, make_expert())
    link, loop, pipe = (tmp_path / name for name in ("link", "loop", "pipe"))
    link.symlink_to(path)
    loop.symlink_to(loop)
    os.mkfifo(pipe)
    # A socket's path may have 108 letters at most, which pytest's folders can exceed.
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as listener:
        door = Path(short) / "door"
        listener.bind(str(door))
        for strange in (tmp_path, link, loop, pipe, door, tmp_path / "absent", path / "below", Path("/dev/zero")):
            assert "expert file" in refused(lambda strange=strange: read_expert(strange), ExpertError)
    assert "zero byte" in refused(lambda: read_expert("a\0b"), ExpertError)
    assert refused(lambda: read_expert(tmp_path / "new\nline"), ExpertError).isprintable()
    refused(lambda: read_expert(tmp_path / ("x" * 5000)), ExpertError)


def test_a_huge_file_is_refused_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    with path.open("wb") as stream:
        stream.truncate(MAX_BYTES + 1)
    assert str(MAX_BYTES) in refused(lambda: read_expert(path), ExpertError)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.safetensors"
    path.touch()
    assert "is empty" in refused(lambda: read_expert(path), ExpertError)


WIDE = npst.arrays(np.float32, (2, 6), elements=st.floats(-(2.0**100), 2.0**100, width=32))


@given(a=WIDE)
@settings(max_examples=300, deadline=None)
def test_a_pair_in_eight_bits_is_within_half_a_step_and_stays_what_it_became(a: np.ndarray) -> None:
    name = LAYERS[0].name
    b = make_expert().low_rank[name][1]
    expert = make_expert(stored="int8", low_rank={**make_expert().low_rank, name: (a, b)})
    read = parse_expert(expert_bytes(expert), "x")
    step = np.abs(a).max(axis=1, keepdims=True) / 127
    # Half a step, what a scale of 16 bits adds to it, and vectors too small for a step at all.
    assert (np.abs(read.low_rank[name][0] - a) <= step * (0.5 + 2**-8) + 127 * np.finfo(np.float32).tiny).all()
    assert expert_bytes(read) == expert_bytes(expert)
    assert parse_expert(expert_bytes(read), "x") == read


def test_eight_bits_are_half_the_bytes_and_the_library_reads_them(tmp_path: Path) -> None:
    safetensors_numpy = pytest.importorskip("safetensors.numpy", reason="the safetensors library is not installed")
    expert = make_expert(stored="int8")
    _, body = taken_apart(expert)
    assert sum(expert.sizes().values()) == len(body)
    ranks = sum(len(a) for a, _ in expert.low_rank.values())
    assert expert.sizes()["adapter"] == LAYOUT.classifier_offset + 8 * ranks
    tensors = safetensors_numpy.load_file(write_file(tmp_path, expert))
    name = LAYERS[0].name
    scaled = tensors[f"{name}.lora_A"] * tensors[f"{name}.lora_scale"][0][:, None]
    assert np.array_equal(scaled, parse_expert(expert_bytes(expert), "x").low_rank[name][0])


def test_a_file_says_the_oldest_schema_that_reads_it() -> None:
    assert taken_apart(make_expert())[0]["__metadata__"]["schema"] == "1"
    assert taken_apart(make_expert(stored="int8"))[0]["__metadata__"]["schema"] == "2"
    assert taken_apart(replace(make_base(), stored="int8"))[0]["__metadata__"]["schema"] == "1"
    assert "choose fp16 or int8" in refused(lambda: expert_bytes(make_expert(stored="int4")), ExpertError)


def test_numbers_that_are_none_are_refused_before_they_are_rounded() -> None:
    name = LAYERS[0].name
    a, b = (array.copy() for array in make_expert().low_rank[name])
    a[0, 0] = np.nan
    expert = make_expert(stored="int8", low_rank={**make_expert().low_rank, name: (a, b)})
    assert f"{name}.lora_A" in refused(lambda: expert_bytes(expert), ExpertError)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), 1e-45, 1 / 3])
def test_scales_that_do_not_belong_to_their_numbers_are_refused(scale: float) -> None:
    header, body = taken_apart(make_expert(stored="int8"))
    start = header[f"{LAYERS[0].name}.lora_scale"]["data_offsets"][0]
    changed = body[:start] + np.float32(scale).tobytes() + body[start + 4 :]
    said = refused(lambda: parse_expert(raw_file(header, changed), "x"), ExpertError)
    assert "scales that do not belong" in said


def test_eight_bits_and_sixteen_do_not_mix() -> None:
    header, body = taken_apart(make_expert(stored="int8"))
    other, theirs = taken_apart(make_expert())
    name = f"{LAYERS[1].name}.lora_B"
    start, stop = other[name]["data_offsets"]
    old = header.pop(name)["data_offsets"]
    packed = body[: old[0]] + body[old[1] :]
    for entry in header.values():
        if "data_offsets" in entry and entry["data_offsets"][0] >= old[1]:
            entry["data_offsets"] = [offset - (old[1] - old[0]) for offset in entry["data_offsets"]]
    header[name] = {**other[name], "data_offsets": [len(packed), len(packed) + stop - start]}
    said = refused(lambda: parse_expert(raw_file(header, packed + theirs[start:stop]), "x"), ExpertError)
    assert f'"{name}" has type F16 instead of I8' in said
