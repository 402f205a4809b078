"""`manifest.json` is believed in nothing: every wrong field is named in one sentence."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from bundle_checks import refused
from bundle_makers import CAR, ROAD, SKY, is_one_sentence, make_manifest
from hypothesis import given, settings
from hypothesis import strategies as st

from mile_edge.bundle import ExpertEntry, Manifest
from mile_edge.bundle.manifest import expert_file
from mile_edge.errors import BundleError

SHA = "12" * 32


def entry(name: str, sha: str = SHA) -> ExpertEntry:
    return ExpertEntry(name, expert_file(name, sha), sha)


FULL = make_manifest(experts=(entry("base"), entry("fog", "34" * 32)))
VALUES: dict[str, Any] = json.loads(FULL.to_json())


def changed(path: str, value: Any) -> str:
    """The manifest's text with one field replaced, `...` for a deleted one."""
    values = copy.deepcopy(VALUES)
    place: Any = values
    *parents, last = [int(key) if key.isdigit() else key for key in path.split("/")]
    for key in parents:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(values)


def refusal(text: str | bytes) -> str:
    return refused(lambda: Manifest.from_json(text), BundleError)


def understood(text: str | bytes) -> Manifest | None:
    """The manifest in this text, or None when it was refused in one sentence."""
    try:
        return Manifest.from_json(text)
    except BundleError as error:
        sentence = error
    assert is_one_sentence(sentence), sentence
    return None


def test_a_manifest_survives_its_text() -> None:
    assert Manifest.from_json(FULL.to_json()) == FULL
    assert Manifest.from_json(FULL.to_json().encode()) == FULL
    assert Manifest.from_json(FULL.to_json()).to_json() == FULL.to_json()


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("schema", 0, "schema"),
        ("schema", "1", "schema"),
        ("schema", True, "schema"),
        ("schema", 1.0, "schema"),
        ("name", "", "name"),
        ("name", 7, "name"),
        ("name", "two\nlines", "name"),
        ("name", "\x1b[31mred", "name"),
        ("name", "n" * 129, "name"),
        ("base", [], "base"),
        ("base/sha256", "xyz", "base.sha256"),
        ("base/sha256", SHA.upper().replace("1", "A"), "base.sha256"),
        ("base/bytes", -1, "base.bytes"),
        ("base/bytes", "100000", "base.bytes"),
        ("base/bytes", 1e5, "base.bytes"),
        ("base/bytes", 2**60, "base.bytes"),
        ("base/parameters", None, "base.parameters"),
        ("base/config", "none", "base.config"),
        ("base/extra", 1, "base.extra"),
        ("classes", {}, "classes"),
        ("classes/0/name", 3, "classes[0].name"),
        ("classes/0/color", [1, 2], "classes[0].color"),
        ("classes/0/color", [1, 2, 256], "classes[0].color"),
        ("classes/0/color", [1, 2, True], "classes[0].color"),
        ("classes/1/name", "sky", "classes[1].name"),
        ("classes/1/color", [70, 130, 180], "classes[1].name"),
        ("network/file", "../segmenter.onnx", "network.file"),
        ("network/file", "/etc/passwd", "network.file"),
        ("network/file", "experts/x.onnx", "network.file"),
        ("network/file", "manifest.json", "network.file"),
        ("network/file", "..", "network.file"),
        ("network/file", "a\u0000b", "network.file"),
        ("network/file", "", "network.file"),
        ("network/file", "base.onnx", "base_graph.file"),
        ("network/height", 0, "network.height"),
        ("network/height", -48, "network.height"),
        ("network/width", 10**9, "network.width"),
        ("network/precision", "int4", "network.precision"),
        ("network/precision", ["fp32"], "network.precision"),
        ("base_graph/file", "../../base.onnx", "base_graph.file"),
        ("base_graph", 5, "base_graph"),
        ("low_rank/rank", 0, "low_rank.rank"),
        ("low_rank/rank", 10**6, "low_rank.rank"),
        ("low_rank/layers", [], "low_rank.layers"),
        ("low_rank/layers/0/in_features", 2**40, "low_rank.layers[0].in_features"),
        ("low_rank/layers/1/name", "block.0.query", "low_rank.layers[1].name"),
        ("low_rank/layers/0", 3, "low_rank.layers[0]"),
        ("low_rank/hidden", -5, "low_rank.hidden"),
        ("low_rank/max_classes", 256, "low_rank.max_classes"),
        ("low_rank/max_classes", 1, "classes"),
        ("gate/kind", "oracle", "gate.kind"),
        ("gate/tap", "late", "gate.tap"),
        ("gate/dim", 0, "gate.dim"),
        ("gate/dim", 10**7, "gate.dim"),
        ("gate/prototypes", 0, "gate.prototypes"),
        ("gate/shrink", 1.5, "gate.shrink"),
        ("gate/shrink", "0.1", "gate.shrink"),
        ("gate/hysteresis", -1, "gate.hysteresis"),
        ("gate/thresholds", {"nobody": 1.0}, "gate.thresholds.nobody"),
        ("gate/thresholds", {"fog": -1.0}, "gate.thresholds.fog"),
        ("gate/thresholds", [1.0], "gate.thresholds"),
        ("capacity", 0, "capacity"),
        ("capacity", 10**9, "capacity"),
        ("capacity", False, "capacity"),
        ("sensors", [], "sensors"),
        ("sensors/camera", 3, "sensors.camera"),
        ("sensors/Ca mera", {}, "sensors"),
        ("experts/1/name", "base", "experts[1].name"),
        ("experts/1/name", "Fog", "experts[1].name"),
        ("experts/1/name", "../fog", "experts[1].name"),
        ("experts/1/name", "-fog", "experts[1].name"),
        ("experts/1/name", "f" * 65, "experts[1].name"),
        ("experts/1/file", "experts/../../fog.safetensors", "experts[1].file"),
        ("experts/1/file", "/etc/passwd", "experts[1].file"),
        ("experts/1/file", "experts/fog-12121212.safetensors", "experts[1].file"),
        ("experts/1/sha256", "34" * 31, "experts[1].sha256"),
        ("experts/1/size", 5, "experts[1].size"),
        ("surprise", 1, "surprise"),
    ],
)
def test_a_wrong_field_is_named(path: str, value: Any, named: str) -> None:
    assert f"field {named} " in refusal(changed(path, value)).replace('"', "")


@pytest.mark.parametrize("path", [*VALUES, "base/sha256", "experts/0/file", "classes/0/color"])
def test_a_missing_field_is_named(path: str) -> None:
    message = refusal(changed(path, ...))
    assert "is missing" in message
    assert path.rpartition("/")[2] in message


def test_a_newer_schema_asks_for_an_update() -> None:
    assert "update mile-edge" in refusal(changed("schema", 2))


def test_a_bank_too_large_for_any_robot_is_refused_before_it_is_allocated() -> None:
    values = copy.deepcopy(VALUES)
    values["low_rank"]["layers"][0]["in_features"] = 2**20
    values["low_rank"]["rank"] = 1024
    values["capacity"] = 4096
    assert "field capacity" in refusal(json.dumps(values))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ("null", "not a JSON object"),
        ('{"schema": 1, "schema": 1}', "twice"),
        ('{"schema": NaN}', "NaN"),
        ('{"schema": -Infinity}', "-Infinity"),
        ('{"schema": 1e999}', "1e999"),
        ('{"schema": ' + "9" * 5000 + "}", "5000 digits"),
        ("[" * 100_000, "nested deeper"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "nested deeper"),
        ('{"a":' * 40 + "1" + "}" * 40, "nested deeper"),
        ('{"a": ["]", ["]", ' + "[" * 60 + "]" * 60 + ', "["], "["]}', "nested deeper"),
        ('{"name": "\\ud800"}', "not Unicode"),
        ('{"\\udfff": 1}', "not Unicode"),
        ("\ud800", "not UTF-8"),
        ("\ufeff{}", "not JSON"),
        ('{"a": 1} trailing', "not JSON"),
        ("{'a': 1}", "not JSON"),
    ],
)
def test_what_is_not_strict_json_is_refused(text: str | bytes, reason: str) -> None:
    assert reason in refusal(text)


def test_a_long_run_of_digits_inside_text_is_no_number() -> None:
    values = copy.deepcopy(VALUES)
    values["base"]["config"] = {"note": "1" * 60}
    assert Manifest.from_json(json.dumps(values)).base.config == {"note": "1" * 60}


def test_a_manifest_that_could_not_be_read_is_not_written() -> None:
    for wrong in (
        make_manifest(capacity=0),
        make_manifest(sensors={"camera": {"near": float("nan")}}),
        make_manifest(sensors={"camera": {"near": object()}}),
        make_manifest(classes=(SKY, SKY)),
        make_manifest(name="\ud800"),
    ):
        with pytest.raises(BundleError) as caught:
            wrong.to_json()
        assert is_one_sentence(caught.value)


def test_adding_keeps_the_ids_of_classes_and_removing_keeps_the_classes() -> None:
    grown = FULL.with_expert(entry("rain", "56" * 32), (CAR, ROAD))
    assert grown.classes == (SKY, ROAD, CAR)
    assert grown.class_ids((CAR, SKY)) == (2, 0)
    shrunk = grown.without_expert("fog")
    assert shrunk.classes == grown.classes
    assert [each.name for each in shrunk.experts] == ["base", "rain"]


def test_the_base_and_the_unknown_cannot_be_removed() -> None:
    for name in ("base", "nobody"):
        with pytest.raises(BundleError, match=name):
            FULL.without_expert(name)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def paths(value: Any, prefix: str = "") -> list[str]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, child in items:
        found += [f"{prefix}{key}", *paths(child, f"{prefix}{key}/")]
    return found


@given(st.sampled_from(paths(VALUES)), JSON | st.just(...))
@settings(max_examples=400, deadline=None)
def test_any_field_replaced_by_anything_is_refused_or_understood(path: str, value: Any) -> None:
    text = changed(path, value)
    manifest = understood(text)
    assert manifest is None or Manifest.from_json(manifest.to_json()) == manifest


@given(st.lists(st.tuples(st.integers(0, len(FULL.to_json()) - 1), st.integers(1, 255)), min_size=1, max_size=4))
@settings(max_examples=400, deadline=None)
def test_flipped_bytes_are_refused_or_understood(flips: list[tuple[int, int]]) -> None:
    text = bytearray(FULL.to_json().encode())
    for position, mask in flips:
        text[position] ^= mask
    manifest = understood(bytes(text))
    assert manifest is None or Manifest.from_json(manifest.to_json()) == manifest
