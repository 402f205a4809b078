"""The bytes of an expert file from a stranger give an Expert that makes sense, or one sentence."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from bundle_checks import refused
from bundle_makers import BASE_SHA, DIM, HIDDEN, is_one_sentence, make_expert, raw_file, taken_apart
from hypothesis import given, settings
from hypothesis import strategies as st

from mile_edge.bundle import Expert, expert_bytes
from mile_edge.bundle.expert import parse_expert
from mile_edge.bundle.tensor_file import read_tensors, write_tensors
from mile_edge.errors import ExpertError

FILE = expert_bytes(make_expert())
FILES = {"fp16": FILE, "int8": expert_bytes(make_expert(stored="int8"))}


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


@pytest.mark.parametrize("stored", ["fp16", "int8"])
@given(flips=st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, 255)), min_size=1, max_size=4))
@settings(max_examples=400, deadline=None)
def test_flipped_bytes_are_refused_or_change_nothing(stored: str, flips: list[tuple[int, int]]) -> None:
    whole = FILES[stored]
    data = bytearray(whole)
    for position, mask in flips:
        data[position % len(data)] ^= mask
    assert understood(bytes(data)) in (None, parse_expert(whole, "x"))


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_inserted_deleted_and_swapped_pieces_are_refused_or_change_nothing(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(FILE)))
    stop = data.draw(st.integers(start, min(start + 64, len(FILE))))
    mutated = FILE[:start] + data.draw(st.binary(max_size=32)) + FILE[stop:]
    assert understood(mutated) in (None, make_expert())


def test_a_file_cut_off_anywhere_is_refused() -> None:
    for length in range(len(FILE)):
        assert "expert file x" in refused(reading(FILE[:length]), ExpertError)


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
    assert reason.replace("&", '"') in refused(reading(data), ExpertError)


@pytest.mark.parametrize(
    ("key", "text", "reason"),
    [
        ("schema", "3", "update mile-edge"),
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
    assert reason in refused(reading(raw_file(header, BODY)), ExpertError)


@pytest.mark.parametrize("key", sorted(HEADER["__metadata__"]))
def test_missing_metadata_is_named(key: str) -> None:
    metadata = {other: text for other, text in HEADER["__metadata__"].items() if other != key}
    message = refused(reading(raw_file({**HEADER, "__metadata__": metadata}, BODY)), ExpertError)
    assert key in message or "not an expert" in message


def test_integers_as_json_numbers_in_metadata_are_refused() -> None:
    header = {**HEADER, "__metadata__": {**HEADER["__metadata__"], "rank": 2}}
    assert "not text" in refused(reading(raw_file(header, BODY)), ExpertError)


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
        ("classifier.weight", np.full((2, HIDDEN), -1e20, np.float32), "classifier.weight reaches 1e+20"),
        ("gate.mean", np.array([0, 0, 0, 1e20], np.float32), "gate.mean reaches 1e+20"),
        ("gate.prototypes", np.full((1, DIM), -1e20, np.float32), "gate.prototypes reaches 1e+20"),
        ("gate.features", np.full((20, DIM), 6e4, np.float16), "gate.features reaches 60000"),
        ("gate.scatter", 1e20 * np.eye(DIM, dtype=np.float32), "lie 2.23607e+09 apart"),
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
    assert reason in refused(reading(with_tensor(name, array)), ExpertError)


@pytest.mark.parametrize("name", sorted(set(HEADER) - {"__metadata__"}))
def test_missing_tensors_are_named(name: str) -> None:
    expert_tensors, metadata = read_tensors(FILE)
    del metadata["digest"]
    arrays = {
        key: each.array.astype("<f2" if each.dtype == "F16" else "<f4")
        for key, each in expert_tensors.items()
        if key != name
    }
    message = refused(reading(write_tensors(arrays, metadata)), ExpertError)
    assert f"{name.rpartition('.')[2]}" in message
    assert "is missing" in message


def test_full_precision_adapters_are_understood() -> None:
    expert = parse_expert(with_tensor("block.0.query.lora_A", np.full((2, 6), 0.1, np.float32)), "x")
    assert expert.low_rank["block.0.query"][0][0, 0] == np.float32(0.1)


def test_the_base_hash_in_the_file_is_the_one_given() -> None:
    assert parse_expert(FILE, "x").base_sha256 == BASE_SHA
