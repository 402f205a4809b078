"""A bundle changes as a whole or not at all, and nothing that is refused leaves a trace."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_makers import (
    BASE_ONNX,
    CAR,
    DIM,
    HIDDEN,
    LAYERS,
    ONNX,
    ROAD,
    SKY,
    entries,
    expected_tree,
    is_one_sentence,
    make_base,
    make_bundle,
    make_expert,
    make_manifest,
    raw_file,
    taken_apart,
    tree,
    write_file,
)

from mile_edge.bundle import Bundle, ClassLabel, Gate, expert_bytes, remove_expert, verify_bundle
from mile_edge.errors import BundleError, ExpertError, MileError


def refusal(folder: Path, act: Callable[[], object]) -> str:
    """The one sentence with which `act` is refused, after which nothing below `folder` has changed."""
    before = tree(folder)
    with pytest.raises(MileError) as caught:
        act()
    assert is_one_sentence(caught.value), caught.value
    assert tree(folder) == before
    return str(caught.value)


def names(bundle: Bundle) -> list[str]:
    assert [entry.name for entry in bundle.manifest.experts] == [expert.name for expert in bundle.experts()]
    return [entry.name for entry in bundle.manifest.experts]


def test_a_new_bundle_holds_what_was_given_and_nothing_else(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    assert entries(tmp_path) == ["bundle"]
    assert set(tree(bundle.path)) == expected_tree(bundle.path)
    assert bundle.network_path.read_bytes() == ONNX
    assert bundle.base_graph_path is not None
    assert bundle.base_graph_path.read_bytes() == BASE_ONNX
    assert bundle.experts() == (make_base(),)
    assert bundle.verify() == []
    assert Bundle.open(bundle.path) == bundle
    assert Bundle.open(str(bundle.path)).manifest == bundle.manifest


def test_a_bundle_may_come_without_the_base_alone(tmp_path: Path) -> None:
    bundle = Bundle.create(tmp_path / "bundle", make_manifest(base_graph=None), ONNX, None, make_base())
    assert bundle.base_graph_path is None
    assert bundle.verify() == []


def test_the_current_folder_can_become_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    Bundle.create(".", make_manifest(), ONNX, BASE_ONNX, make_base())
    assert verify_bundle(tmp_path / "empty") == []


@pytest.mark.parametrize("occupied_by", ["file", "folder", "bundle", "link", "dangling link"])
def test_creating_never_overwrites(tmp_path: Path, occupied_by: str) -> None:
    path = tmp_path / "bundle"
    if occupied_by == "file":
        path.write_text("mine")
    elif occupied_by == "folder":
        path.mkdir()
        (path / "mine").touch()
    elif occupied_by == "bundle":
        make_bundle(tmp_path)
    else:
        path.symlink_to(tmp_path / "elsewhere")
        if occupied_by == "link":
            (tmp_path / "elsewhere").mkdir()
    refusal(tmp_path, lambda: Bundle.create(path, make_manifest(), ONNX, BASE_ONNX, make_base()))


def test_a_bundle_that_makes_no_sense_is_not_created(tmp_path: Path) -> None:
    def create(manifest: Any = None, graph: bytes | None = BASE_ONNX, base: Any = None) -> Callable[[], object]:
        return lambda: Bundle.create(tmp_path / "bundle", manifest or make_manifest(), ONNX, graph, base or make_base())

    for act in (
        create(graph=None),
        create(make_manifest(base_graph=None)),
        create(make_manifest(network=replace(make_manifest().network, file="../out.onnx"))),
        create(make_manifest(gate=Gate("mahalanobis", "full", DIM))),
        create(base=make_expert()),
        create(base=make_base(base_sha256="cd" * 32)),
        create(base=make_base(mean=np.full(DIM, np.nan))),
        create(make_bundle(tmp_path / "other").manifest),
    ):
        refusal(tmp_path, act)


def test_an_expert_comes_and_goes(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    fresh = tree(bundle.path)
    source = write_file(tmp_path, make_expert("fog", classes=(SKY, CAR)))
    grown = bundle.add(source)
    assert names(grown) == ["base", "fog"]
    assert grown.manifest.classes == (SKY, ROAD, CAR)
    assert grown.experts()[1] == make_expert("fog", classes=(SKY, CAR))
    assert (grown.path / grown.manifest.experts[1].file).read_bytes() == source.read_bytes()
    assert Bundle.open(bundle.path) == grown
    assert set(tree(bundle.path)) == expected_tree(grown.path)
    shrunk = grown.remove("fog")
    assert names(shrunk) == ["base"]
    assert shrunk.manifest.classes == (SKY, ROAD, CAR)
    assert Bundle.open(bundle.path) == shrunk
    after = tree(bundle.path)
    assert {name for name in fresh if fresh[name] != after[name]} == {"manifest.json"}
    assert set(after) == expected_tree(bundle.path)
    assert names(bundle) == ["base"]
    assert source.exists()


def test_an_expert_may_be_added_under_another_name(tmp_path: Path) -> None:
    source = write_file(tmp_path, make_expert("fog"))
    bundle = make_bundle(tmp_path).add(source).add(source, name="fog-2")
    assert names(bundle) == ["base", "fog", "fog-2"]
    assert bundle.experts()[2] == replace(make_expert("fog"), name="fog-2")
    assert verify_bundle(bundle.path) == []


def test_an_expert_may_be_added_from_the_bundle_s_own_leftovers(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    data = expert_bytes(make_expert("fog"))
    orphan = bundle.path / "experts" / "fog-00000000.safetensors"
    orphan.write_bytes(data)
    assert names(bundle.add(orphan)) == ["base", "fog"]
    assert not orphan.exists()
    assert verify_bundle(bundle.path) == []


def test_rows_behind_a_removed_expert_move_up_in_order(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, make_expert("a"), make_expert("b"), make_expert("c"))
    assert names(bundle.remove("a")) == ["base", "b", "c"]
    assert names(Bundle.open(bundle.path)) == ["base", "b", "c"]


def test_removing_forgets_the_expert_s_threshold(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, make_expert("fog"))
    bundle = bundle.set_gate(replace(bundle.manifest.gate, thresholds={"base": 3.0, "fog": 4.5}, hysteresis=0.2))
    assert Bundle.open(bundle.path).manifest.gate.thresholds == {"base": 3.0, "fog": 4.5}
    assert bundle.remove("fog").manifest.gate.thresholds == {"base": 3.0}


def test_the_gate_s_settings_change_but_not_what_the_network_was_built_with(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    gate = bundle.manifest.gate
    for wrong in (
        replace(gate, kind="l2"),
        replace(gate, dim=DIM + 1),
        replace(gate, thresholds={"nobody": 1.0}),
        replace(gate, hysteresis=float("nan")),
    ):
        refusal(tmp_path, lambda wrong=wrong: bundle.set_gate(wrong))


def test_two_that_hold_the_same_bundle_see_each_other_s_changes(tmp_path: Path) -> None:
    one = make_bundle(tmp_path)
    other = Bundle.open(one.path)
    one.add(write_file(tmp_path, make_expert("fog")))
    assert names(other.add(write_file(tmp_path, make_expert("rain")))) == ["base", "fog", "rain"]
    assert names(one.remove("rain")) == ["base", "fog"]
    refusal(tmp_path, lambda: other.remove("rain"))
    refusal(tmp_path, lambda: other.add(tmp_path / "fog.safetensors"))


def test_a_bundle_exported_anew_below_an_open_one_is_noticed(tmp_path: Path) -> None:
    old = make_bundle(tmp_path, make_expert("fog"))
    shutil.rmtree(old.path)
    other = make_manifest(base=replace(old.manifest.base, sha256="cd" * 32))
    Bundle.create(old.path, other, ONNX, BASE_ONNX, make_base(base_sha256="cd" * 32))
    source = write_file(tmp_path, make_expert("rain"))
    assert "train it on this base" in refusal(tmp_path, lambda: old.add(source))


def test_a_manifest_changed_below_an_open_bundle_is_checked_against_the_experts_again(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, make_expert("fog", prototypes=np.ones((2, DIM), np.float32)))
    source = write_file(tmp_path, make_expert("rain"))
    edit(bundle.path / "manifest.json", lambda values: values["gate"].update(prototypes=1))
    assert "fog" in refusal(tmp_path, lambda: bundle.add(source))


HEADER, BODY = taken_apart(make_expert("new"))
HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "pickle": b"\x80\x04\x95" + b"x" * 500,
    "zip": b"PK\x03\x04" + b"\x00" * 500,
    "truncated": expert_bytes(make_expert("new"))[:-7],
    "header length": (2**40).to_bytes(8, "little") + b"{}",
    "huge shape": raw_file({"a": {"dtype": "F32", "shape": [2**30, 2**30], "data_offsets": [0, 2**62]}}),
    "bf16": raw_file({**HEADER, "gate.mean": {**HEADER["gate.mean"], "dtype": "BF16"}}, BODY),
    "other name": expert_bytes(make_expert("new", base_sha256="cd" * 32)),
    "other tap": expert_bytes(make_expert("new", tap="full")),
    "other gate": expert_bytes(make_expert("new", mean=np.ones(3), scatter=np.eye(3))),
    "missing layer": expert_bytes(make_expert("new", low_rank={LAYERS[0].name: (np.ones((2, 6)), np.ones((4, 2)))})),
    "other hidden": expert_bytes(make_expert("new", classifier_weight=np.ones((2, HIDDEN + 2)))),
    "colour clash": expert_bytes(make_expert("new", classes=(SKY, ClassLabel("road", (9, 9, 9))))),
    "name clash": expert_bytes(make_expert("fog", seed=5)),
    "base clash": expert_bytes(make_expert("base", seed=5)),
    "nan": raw_file(HEADER, b"\xff" * len(BODY)),
    "traversal": raw_file({**HEADER, "__metadata__": {**HEADER["__metadata__"], "name": "../../evil"}}, BODY),
    "absolute": raw_file({**HEADER, "__metadata__": {**HEADER["__metadata__"], "name": "/tmp/evil"}}, BODY),
}


@pytest.mark.parametrize("kind", sorted(HOSTILE))
def test_a_refused_file_changes_nothing(tmp_path: Path, kind: str) -> None:
    bundle = make_bundle(tmp_path, make_expert("fog"))
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(HOSTILE[kind])
    assert "hostile.safetensors" in refusal(tmp_path, lambda: bundle.add(path))


def test_a_refused_path_changes_nothing(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, make_expert("fog"))
    good = write_file(tmp_path, make_expert("rain"))
    (tmp_path / "link").symlink_to(good)
    os.mkfifo(tmp_path / "pipe")
    for strange in ("link", "pipe", "absent", "bundle", "bundle/manifest.json"):
        refusal(tmp_path, lambda strange=strange: bundle.add(tmp_path / strange))
    for name in ("Rain", "../rain", "", "rain/1", "x" * 65, "fog", "base", "rain\n"):
        refusal(tmp_path, lambda name=name: bundle.add(good, name))


def test_the_base_and_the_unknown_stay(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, make_expert("fog"))
    for name in ("base", "nobody", "../fog", "", "fog\n"):
        refusal(tmp_path, lambda name=name: bundle.remove(name))
        refusal(tmp_path, lambda name=name: remove_expert(bundle.path, name))


def test_a_full_bundle_says_so(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, *(make_expert(f"e{index}") for index in range(4)))
    assert len(bundle.experts()) == bundle.manifest.capacity + 1
    source = write_file(tmp_path, make_expert("rain"))
    assert "is full with 4" in refusal(tmp_path, lambda: bundle.add(source))


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def replaced_by(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        path.unlink()
        make(path)

    return act


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b"") and None,
    "changed": flip_last_byte,
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x") and None,
    "link": replaced_by(lambda path: path.symlink_to("/etc/passwd")),
    "folder": replaced_by(Path.mkdir),
    "pipe": replaced_by(os.mkfifo),
}


@pytest.mark.parametrize("damage", sorted(DAMAGE))
@pytest.mark.parametrize("which", ["manifest.json", "segmenter.onnx", "base.onnx", "base", "fog"])
def test_a_damaged_bundle_is_refused_and_the_file_named(tmp_path: Path, which: str, damage: str) -> None:
    bundle = make_bundle(tmp_path, make_expert("fog"))
    path = bundle.path / (bundle.manifest.entry(which).file if which in ("base", "fog") else which)
    DAMAGE[damage](path)
    if which == "manifest.json" and damage == "changed":
        # Its last byte is the newline behind the object.
        path.write_bytes(path.read_bytes()[:-3])
    message = refusal(tmp_path, lambda: Bundle.open(bundle.path))
    assert path.name in message or which == "manifest.json"
    (problem,) = verify_bundle(bundle.path)
    assert is_one_sentence(BundleError(problem))
    assert problem == message


def test_verify_names_every_problem(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, make_expert("fog"), make_expert("rain"))
    flip_last_byte(bundle.path / bundle.manifest.entry("fog").file)
    (bundle.path / bundle.manifest.entry("rain").file).unlink()
    (bundle.path / "base.onnx").write_bytes(b"")
    (bundle.path / "experts" / ".rain-12345678.safetensors.partial").touch()
    before = tree(bundle.path)
    problems = bundle.verify()
    assert len(problems) == 4
    assert all(is_one_sentence(BundleError(problem)) for problem in problems)
    assert tree(bundle.path) == before


def test_a_damaged_expert_can_be_removed_and_the_bundle_is_whole_again(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, make_expert("fog"), make_expert("rain"))
    flip_last_byte(bundle.path / bundle.manifest.entry("fog").file)
    with pytest.raises(BundleError, match="fog"):
        Bundle.open(bundle.path)
    remove_expert(bundle.path, "fog")
    assert names(Bundle.open(bundle.path)) == ["base", "rain"]
    assert verify_bundle(bundle.path) == []


def test_a_manifest_that_names_another_s_file_is_refused(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, make_expert("fog"), make_expert("rain"))
    fog, rain = bundle.manifest.entry("fog"), bundle.manifest.entry("rain")
    borrowed = f"experts/snow-{fog.sha256[:8]}.safetensors"
    shutil.copy(bundle.path / fog.file, bundle.path / borrowed)

    def rename(values: dict[str, Any]) -> None:
        values["experts"][1] = {"name": "snow", "file": borrowed, "sha256": fog.sha256}

    edit(bundle.path / "manifest.json", rename)
    assert "snow" in refusal(tmp_path, lambda: Bundle.open(bundle.path))
    assert rain.name == "rain"


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.update(experts=[]),
        lambda values: values["experts"].reverse(),
        lambda values: values["experts"].append(values["experts"][1]),
        lambda values: values["base"].update(sha256="cd" * 32),
        lambda values: values["gate"].update(tap="full"),
        lambda values: values["gate"].update(dim=DIM + 1),
        lambda values: values["low_rank"].update(rank=3),
        lambda values: values["low_rank"]["layers"].pop(),
        lambda values: values["low_rank"].update(hidden=HIDDEN + 1),
        lambda values: values.update(classes=values["classes"][:1]),
        lambda values: values["network"].update(file="base.onnx"),
        lambda values: values["network"].update(sha256="cd" * 32),
        lambda values: values["experts"][1].update(file="../fog.safetensors"),
        lambda values: values.update(capacity=1, experts=values["experts"] * 2),
    ],
)
def test_a_manifest_that_contradicts_its_files_is_refused(tmp_path: Path, change: Callable[[Any], None]) -> None:
    bundle = make_bundle(tmp_path, make_expert("fog"))
    edit(bundle.path / "manifest.json", change)
    refusal(tmp_path, lambda: Bundle.open(bundle.path))
    assert verify_bundle(bundle.path)


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for strange in ("file", "empty", "pipe", "absent", "a\0b", "x" * 300):
        refusal(tmp_path, lambda strange=strange: Bundle.open(tmp_path / strange))
        refusal(tmp_path, lambda strange=strange: remove_expert(tmp_path / strange, "fog"))
        assert len(verify_bundle(tmp_path / strange)) == 1


def test_a_bundle_reached_through_a_link_is_the_bundle(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    (tmp_path / "latest").symlink_to(bundle.path)
    linked = Bundle.open(tmp_path / "latest")
    assert names(linked.add(write_file(tmp_path, make_expert("fog")))) == ["base", "fog"]
    assert names(Bundle.open(bundle.path)) == ["base", "fog"]


def test_a_linked_experts_folder_is_neither_read_nor_written(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, make_expert("fog"))
    source = write_file(tmp_path, make_expert("rain"))
    (bundle.path / "experts").rename(tmp_path / "elsewhere")
    (bundle.path / "experts").symlink_to(tmp_path / "elsewhere")
    refusal(tmp_path, lambda: Bundle.open(bundle.path))
    refusal(tmp_path, lambda: bundle.add(source))
    refusal(tmp_path, lambda: bundle.remove("fog"))
    refusal(tmp_path, lambda: remove_expert(bundle.path, "fog"))


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
@pytest.mark.parametrize("where", [".lock", ".manifest.json.partial", "experts"])
def test_traps_in_the_store_s_own_places_change_nothing(tmp_path: Path, where: str, kind: str) -> None:
    bundle = make_bundle(tmp_path, make_expert("fog"))
    source = write_file(tmp_path, make_expert("rain"))
    victim = tmp_path / "victim"
    victim.write_text("precious")
    trap = bundle.path / where
    if where == "experts":
        shutil.rmtree(trap)
    if kind == "folder":
        trap.mkdir()
        (trap / "full").touch()
    elif kind == "pipe":
        os.mkfifo(trap)
    else:
        trap.symlink_to(victim)
    harmless = where == ".manifest.json.partial" and kind != "folder"
    if harmless:
        bundle.add(source)
        assert verify_bundle(bundle.path) == []
    elif (where, kind) != ("experts", "folder"):
        refusal(tmp_path, lambda: bundle.add(source))
    assert victim.read_text() == "precious"


def test_what_killed_runs_left_is_swept_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, make_expert("fog"))
    ours = [".manifest.json.partial", "experts/.rain-12345678.safetensors.partial", "experts/rain-12345678.safetensors"]
    others = [
        "README.md",
        "notes.partial",
        "experts/rain.safetensors",
        "experts/rain-1234.safetensors.bak",
        "snow-12345678.safetensors",
    ]
    for name in [*ours, *others]:
        (bundle.path / name).write_text("left behind")
    (bundle.path / ".lock").write_text("999999\n")
    (bundle.path / "experts" / "folder-12345678.safetensors").mkdir()
    assert len(verify_bundle(bundle.path)) == len(ours)
    assert names(Bundle.open(bundle.path)) == ["base", "fog"]
    bundle = bundle.add(write_file(tmp_path, make_expert("rain")))
    expected = expected_tree(bundle.path) | {*others, "experts/folder-12345678.safetensors"}
    assert set(tree(bundle.path)) == expected
    assert verify_bundle(bundle.path) == []


def test_errors_of_experts_and_of_bundles_are_told_apart(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    with pytest.raises(ExpertError):
        bundle.add(tmp_path / "absent")
    with pytest.raises(BundleError):
        Bundle.open(tmp_path / "absent")
