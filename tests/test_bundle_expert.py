"""An expert file from a stranger gives an Expert that makes sense, or one sentence."""

from __future__ import annotations

import json
import os
import socket
import struct
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_makers import (
    BASE_SHA,
    CAR,
    DIM,
    HIDDEN,
    LAYERS,
    LAYOUT,
    ROAD,
    SKY,
    entries,
    is_one_sentence,
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

from mile_edge.bundle import ClassLabel, Expert, Gate, Network, check_expert, expert_bytes, read_expert, write_expert
from mile_edge.bundle.expert import MAX_BYTES, parse_expert
from mile_edge.bundle.tensor_file import read_tensors, write_tensors
from mile_edge.errors import ExpertError

FILE = expert_bytes(make_expert())
MANIFEST = make_manifest()


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(ExpertError) as caught:
        act()
    assert is_one_sentence(caught.value), caught.value
    return str(caught.value)


def reading(data: bytes) -> Callable[[], Expert]:
    return lambda: parse_expert(data, "expert file x")


def understood(data: bytes) -> Expert | None:
    """The expert in these bytes, or None when they were refused in one sentence."""
    try:
        return parse_expert(data, "expert file x")
    except ExpertError as error:
        sentence = error
    assert is_one_sentence(sentence), sentence
    return None


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
    count=st.integers(2, 2**40),
)
@settings(max_examples=100, deadline=None)
def test_any_sensible_expert_survives_its_file(
    a: np.ndarray, sensors: list[str], domains: list[str], training: dict[str, Any], count: int
) -> None:
    expert = make_expert(sensors=tuple(sensors), domains=tuple(domains), training=training, count=count)
    pair = (a.astype(np.float32), expert.low_rank[LAYERS[0].name][1])
    expert = replace(expert, low_rank={**expert.low_rank, LAYERS[0].name: pair})
    assert parse_expert(expert_bytes(expert), "x") == expert


@given(st.lists(st.tuples(st.integers(0, len(FILE) - 1), st.integers(1, 255)), min_size=1, max_size=4))
@settings(max_examples=600, deadline=None)
def test_flipped_bytes_are_refused_or_change_nothing(flips: list[tuple[int, int]]) -> None:
    data = bytearray(FILE)
    for position, mask in flips:
        data[position] ^= mask
    assert understood(bytes(data)) in (None, make_expert())


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_inserted_deleted_and_swapped_pieces_are_refused_or_change_nothing(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(FILE)))
    stop = data.draw(st.integers(start, min(start + 64, len(FILE))))
    mutated = FILE[:start] + data.draw(st.binary(max_size=32)) + FILE[stop:]
    assert understood(mutated) in (None, make_expert())


def test_a_file_cut_off_anywhere_is_refused() -> None:
    for length in range(len(FILE)):
        refusal(reading(FILE[:length]))


HEADER, BODY = taken_apart(make_expert())
HEADER_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=6) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(HEADER)), st.sampled_from(["dtype", "shape", "data_offsets", None]), HEADER_JSON)
@settings(max_examples=400, deadline=None)
def test_any_header_entry_replaced_by_anything_is_refused_or_changes_nothing(
    name: str, key: str | None, value: Any
) -> None:
    header = json.loads(json.dumps(HEADER))
    if key is None or name == "__metadata__":
        header[name] = value
    else:
        header[name][key] = value
    assert understood(raw_file(header, BODY)) in (None, make_expert())


@given(st.sampled_from(sorted(HEADER["__metadata__"])), st.text(max_size=12) | HEADER_JSON.map(json.dumps))
@settings(max_examples=400, deadline=None)
def test_any_metadata_replaced_by_any_text_is_refused_or_understood(key: str, text: str) -> None:
    header = {**HEADER, "__metadata__": {**HEADER["__metadata__"], key: text}}
    expert = understood(raw_file(header, BODY))
    assert expert is None or parse_expert(expert_bytes(expert), "x") == expert


def tensor(dtype: str = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"\x80\x04", "not a safetensors file"),
        (b"\x80\x04\x95" + b"pickle" * 40, "not a safetensors file"),
        (b"PK\x03\x04" + b"\x00" * 200, "not a safetensors file"),
        (b"\x00" * 400, "not a safetensors file"),
        (b"\xff" * 400, "not a safetensors file"),
        (struct.pack("<Q", 2**63) + b"{}", "not a safetensors file"),
        (struct.pack("<Q", 1000) + b"{}", "cut off"),
        (raw_file(b"[]"), "not a JSON object"),
        (raw_file(b""), "not JSON"),
        (raw_file(b'{"a":\xff}'), "not UTF-8"),
        (raw_file(b'{"a": NaN}'), "NaN"),
        (raw_file(b'{"a": 1, "a": 2}'), "twice"),
        (raw_file(b'{"__metadata__": {"name": "a", "name": "b"}}'), "twice"),
        (raw_file(b"[" * 200_000), "nested deeper"),
        (raw_file({"__metadata__": {"format": 3}}), "metadata that is not text"),
        (raw_file({"__metadata__": "text"}), "metadata that is not text"),
        (raw_file({"a": 3}), "otherwise than by dtype"),
        (raw_file({"a": {**tensor(), "more": 1}}, b"1234"), "otherwise than by dtype"),
        (raw_file({"a": tensor("BF16", (2,))}, b"1234"), "type &BF16& instead of F16 or F32"),
        (raw_file({"a": tensor("I64", (1,), (0, 8))}, b"12345678"), "I64"),
        (raw_file({"a": tensor("F8_E4M3", (4,))}, b"1234"), "F8_E4M3"),
        (raw_file({"a": {**tensor(), "dtype": ["F32"]}}, b"1234"), "F32"),
        (raw_file({"a": tensor(shape=(2**20, 2**20))}, b"1234"), "in 4 bytes"),
        (raw_file({"a": tensor(shape=(2**20, 2**20), offsets=(0, 2**42))}, b"1234"), "cut off"),
        (raw_file({"a": tensor(shape=(-1,))}, b"1234"), "impossible shape"),
        (raw_file({"a": tensor(shape=(1.0,))}, b"1234"), "impossible shape"),
        (raw_file({"a": tensor(shape=("1",))}, b"1234"), "impossible shape"),
        (raw_file({"a": tensor(shape=(True,))}, b"1234"), "impossible shape"),
        (raw_file({"a": tensor(shape=(1,) * 9)}, b"1234"), "impossible shape"),
        (raw_file({"a": tensor(shape=(2**40, 0))}, b""), "impossible shape"),
        (raw_file({"a": tensor(offsets=(-4, 0))}, b"1234"), "at -4"),
        (raw_file({"a": tensor(offsets=(4, 0))}, b"1234"), "in -4 bytes"),
        (raw_file({"a": tensor(offsets=(0, "4"))}, b"1234"), "impossible offsets"),
        (raw_file({"a": tensor(offsets=(0,))}, b"1234"), "impossible offsets"),
        (raw_file({"a": tensor(), "b": tensor()}, b"1234"), "overlap"),
        (raw_file({"a": tensor(), "b": tensor(offsets=(8, 12))}, b"123456789012"), "gap"),
        (raw_file({"a": tensor()}, b"123456"), "2 bytes after its last tensor"),
        (raw_file({"a": tensor()}, b"12"), "cut off"),
        (raw_file({"a": tensor()}, b"1234"), "not an expert of mile-edge"),
        (raw_file({"__metadata__": {"format": "pt"}, "a": tensor()}, b"1234"), "not an expert of mile-edge"),
        (raw_file({"__metadata__": {"format": "mile-edge-expert"}}), "field schema is missing"),
    ],
)
def test_what_is_no_expert_file_is_refused(data: bytes, reason: str) -> None:
    assert reason.replace("&", '"') in refusal(reading(data))


@pytest.mark.parametrize(
    ("key", "text", "reason"),
    [
        ("schema", "2", "update mile-edge"),
        ("schema", "one", "schema"),
        ("name", "Fog", "name"),
        ("name", "../fog", "name"),
        ("name", "fog\n", "name"),
        ("base_sha256", "ab", "base_sha256"),
        ("rank", "-2", "rank"),
        ("rank", "2.0", "rank"),
        ("rank", "9" * 400, "rank"),
        ("rank", "²", "rank"),
        ("adapter", "full", "adapter"),
        ("tap", "late", "tap"),
        ("count", "1", "count"),
        ("count", "1e3", "count"),
        ("classes", "{}", "classes"),
        ("classes", "[]", "classes"),
        ("classes", '[{"name": "sky"}]', "color"),
        ("classes", '[{"name": "sky", "color": [1, 2, 3]}] ,', "not JSON"),
        ("classes", '[{"name": "a", "color": [1, 2, 3]}, {"name": "a", "color": [1, 2, 4]}]', "classes[1].name"),
        ("classes", '[{"name": "\\u001b[31m", "color": [1, 2, 3]}]', "classes[0].name"),
        ("sensors", '"camera"', "sensors"),
        ("sensors", "[1]", "sensors[0]"),
        ("domains", '["a\\u202eb"]', "domains[0]"),
        ("training", "[]", "training"),
        ("training", '{"rate": NaN}', "NaN"),
        ("training", '{"rate": 1e999}', "1e999"),
        ("training", '{"a": 1, "a": 2}', "twice"),
        ("training", "[" * 50_000, "nested deeper"),
        ("scores", '{"miou": Infinity}', "Infinity"),
        ("scores", "", "not JSON"),
        ("digest", "00" * 32, "damaged"),
        ("digest", "nonsense", "digest"),
        ("surprise", "1", "surprise"),
    ],
)
def test_wrong_metadata_is_named(key: str, text: str, reason: str) -> None:
    header = {**HEADER, "__metadata__": {**HEADER["__metadata__"], key: text}}
    assert reason in refusal(reading(raw_file(header, BODY)))


@pytest.mark.parametrize("key", sorted(HEADER["__metadata__"]))
def test_missing_metadata_is_named(key: str) -> None:
    metadata = {other: text for other, text in HEADER["__metadata__"].items() if other != key}
    message = refusal(reading(raw_file({**HEADER, "__metadata__": metadata}, BODY)))
    assert key in message or "not an expert" in message


def test_integers_as_json_numbers_in_metadata_are_refused() -> None:
    header = {**HEADER, "__metadata__": {**HEADER["__metadata__"], "rank": 2}}
    assert "not text" in refusal(reading(raw_file(header, BODY)))


def with_tensor(name: str, array: np.ndarray) -> bytes:
    """The expert's file with one tensor replaced or added, rightly described."""
    tensors, metadata = read_tensors(FILE)
    arrays = {key: each.array.astype("<f2" if each.dtype == "F16" else "<f4") for key, each in tensors.items()}
    del metadata["digest"]
    return write_tensors({**arrays, name: array}, metadata)


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("classifier.weight", np.full((2, HIDDEN), np.nan, np.float32), "NaN"),
        ("classifier.bias", np.array([0, np.inf], np.float32), "NaN or infinity"),
        ("block.0.query.lora_A", np.full((2, 6), -np.inf, np.float16), "lora_A"),
        ("gate.mean", np.full(DIM, np.nan, np.float32), "gate.mean"),
        ("gate.scatter", np.full((DIM, DIM), np.inf, np.float32), "gate.scatter"),
        ("gate.prototypes", np.full((1, DIM), np.nan, np.float32), "gate.prototypes"),
        ("classifier.weight", np.ones((3, HIDDEN), np.float32), "for 2 classes"),
        ("classifier.weight", np.ones(HIDDEN, np.float32), "for 2 classes"),
        ("classifier.bias", np.ones((2, 1), np.float32), "for 2 classes"),
        ("classifier.bias", np.array([0, -1e4], np.float32), "beyond 10000"),
        ("classifier.bias", np.ones(0, np.float32), "empty"),
        ("classifier.weight", np.ones((2, HIDDEN), np.float16), "type F16 instead of F32"),
        ("gate.scatter", np.eye(DIM, dtype=np.float16), "type F16 instead of F32"),
        ("block.0.query.lora_A", np.ones((3, 6), np.float16), "for rank 2"),
        ("block.0.query.lora_B", np.ones((4, 3), np.float16), "for rank 2"),
        ("block.0.query.lora_B", np.ones(8, np.float16), "for rank 2"),
        ("block.9.query.lora_A", np.ones((2, 6), np.float16), "lora_B"),
        ("block.0.query.lora_C", np.ones((2, 6), np.float16), "not part of an expert"),
        ("lora_A", np.ones((2, 6), np.float16), "not part of an expert"),
        ("optimizer", np.ones(3, np.float32), "not part of an expert"),
        ("gate.mean", np.ones((DIM, 1), np.float32), "one dimension"),
        ("gate.mean", np.array(1, np.float32), "one dimension"),
        ("gate.scatter", np.eye(DIM + 1, dtype=np.float32), "for 4 features"),
        ("gate.prototypes", np.ones((2, DIM + 1), np.float32), "for 4 features"),
        ("gate.scatter", np.triu(np.ones((DIM, DIM), np.float32)), "not symmetric"),
        ("gate.scatter", -np.eye(DIM, dtype=np.float32), "negative directions"),
        ("gate.scatter", np.diag(np.array([5, 5, 5, -1], np.float32)), "negative directions"),
        ("gate.scatter", np.ones((DIM, DIM), np.float32) - np.eye(DIM, dtype=np.float32), "negative directions"),
    ],
)
def test_wrong_tensors_are_named(name: str, array: np.ndarray, reason: str) -> None:
    assert reason in refusal(reading(with_tensor(name, array)))


@pytest.mark.parametrize("name", sorted(set(HEADER) - {"__metadata__"}))
def test_missing_tensors_are_named(name: str) -> None:
    expert_tensors, metadata = read_tensors(FILE)
    del metadata["digest"]
    arrays = {
        key: each.array.astype("<f2" if each.dtype == "F16" else "<f4")
        for key, each in expert_tensors.items()
        if key != name
    }
    message = refusal(reading(write_tensors(arrays, metadata)))
    assert f"{name.rpartition('.')[2]}" in message
    assert "is missing" in message


def test_full_precision_adapters_are_understood() -> None:
    expert = parse_expert(with_tensor("block.0.query.lora_A", np.full((2, 6), 0.1, np.float32)), "x")
    assert expert.low_rank["block.0.query"][0][0, 0] == np.float32(0.1)


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
    assert reason in refusal(lambda: check_expert(make_expert(**changes), MANIFEST))


def test_an_expert_that_fits_is_accepted_in_memory_and_from_disk(tmp_path: Path) -> None:
    for expert in (make_expert(), make_base(), make_expert(classes=(CAR, SKY))):
        check_expert(expert, MANIFEST)
        check_expert(read_expert(write_file(tmp_path, expert)), MANIFEST)
    exact = replace(make_expert(), mean=np.ones(DIM, np.float64), scatter=np.eye(DIM), count=np.int64(5))
    check_expert(exact, MANIFEST)


def test_a_classifier_beyond_fp16_is_refused_only_in_an_fp16_bundle() -> None:
    loud = make_expert(classifier_weight=np.full((2, HIDDEN), 1e5, np.float32))
    check_expert(loud, MANIFEST)
    half = make_manifest(network=Network("segmenter.onnx", "0" * 64, 48, 64, "fp16"))
    assert "fp16" in refusal(lambda: check_expert(loud, half))


def test_a_gate_with_another_tap_refuses_the_expert() -> None:
    full = make_manifest(gate=Gate("mahalanobis", "full", DIM))
    assert "tap" in refusal(lambda: check_expert(make_expert(), full))


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
    refusal(lambda: write_expert(path, make_expert(**changes)))
    assert path.read_bytes() == b"what was there"
    assert entries(tmp_path) == ["fog.safetensors"]


def test_an_expert_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    refusal(lambda: write_expert(tmp_path / "nowhere" / "fog.safetensors", make_expert()))
    refusal(lambda: write_expert(tmp_path / "folder.safetensors", make_expert()))
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
            assert "expert file" in refusal(lambda strange=strange: read_expert(strange))
    assert "zero byte" in refusal(lambda: read_expert("a\0b"))
    assert refusal(lambda: read_expert(tmp_path / "new\nline")).isprintable()
    refusal(lambda: read_expert(tmp_path / ("x" * 5000)))


def test_a_huge_file_is_refused_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    with path.open("wb") as stream:
        stream.truncate(MAX_BYTES + 1)
    assert str(MAX_BYTES) in refusal(lambda: read_expert(path))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.safetensors"
    path.touch()
    assert "is empty" in refusal(lambda: read_expert(path))


def test_the_base_hash_in_the_file_is_the_one_given() -> None:
    assert parse_expert(FILE, "x").base_sha256 == BASE_SHA
