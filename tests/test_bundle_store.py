"""A bundle changes as a whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_checks import edit, names, refusal
from bundle_makers import (
    BASE_ONNX,
    CAR,
    DIM,
    ONNX,
    ROAD,
    SKY,
    entries,
    expected_tree,
    make_base,
    make_bundle,
    make_expert,
    make_manifest,
    tree,
    write_file,
)

from mile_edge.bundle import Bundle, Gate, expert_bytes, verify_bundle
from mile_edge.errors import BundleError, ExpertError


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
    said = refusal(tmp_path, lambda: Bundle.create(path, make_manifest(), ONNX, BASE_ONNX, make_base()))
    assert "cannot be created: it exists" in said


def test_a_bundle_that_makes_no_sense_is_not_created(tmp_path: Path) -> None:
    def create(manifest: Any = None, graph: bytes | None = BASE_ONNX, base: Any = None) -> Callable[[], object]:
        return lambda: Bundle.create(tmp_path / "bundle", manifest or make_manifest(), ONNX, graph, base or make_base())

    for act, reason in (
        (create(graph=None), "belong together"),
        (create(make_manifest(base_graph=None)), "belong together"),
        (create(make_manifest(network=replace(make_manifest().network, file="../out.onnx"))), "network.file"),
        (create(make_manifest(gate=Gate("mahalanobis", "full", DIM))), "tap 'early'"),
        (create(base=make_expert()), "has an adapter"),
        (create(base=make_base(base_sha256="cd" * 32)), "was trained on base cdcdcdcd"),
        (create(base=make_base(mean=np.full(DIM, np.nan))), "NaN"),
        (create(make_bundle(tmp_path / "other").manifest), "already has 1 experts"),
    ):
        assert reason in refusal(tmp_path, act)


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
    for wrong, reason in (
        (replace(gate, kind="l2"), "gate.kind is mahalanobis"),
        (replace(gate, dim=DIM + 1), "gate.dim is 4"),
        (replace(gate, thresholds={"nobody": 1.0}), "gate.thresholds.nobody"),
        (replace(gate, hysteresis=float("nan")), "the number nan"),
    ):
        assert reason in refusal(tmp_path, lambda wrong=wrong: bundle.set_gate(wrong))


def test_two_that_hold_the_same_bundle_see_each_other_s_changes(tmp_path: Path) -> None:
    one = make_bundle(tmp_path)
    other = Bundle.open(one.path)
    one.add(write_file(tmp_path, make_expert("fog")))
    assert names(other.add(write_file(tmp_path, make_expert("rain")))) == ["base", "fog", "rain"]
    assert names(one.remove("rain")) == ["base", "fog"]
    assert "has no expert 'rain'" in refusal(tmp_path, lambda: other.remove("rain"))
    assert "named 'fog' like one" in refusal(tmp_path, lambda: other.add(tmp_path / "fog.safetensors"))


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


def test_a_bundle_reached_through_a_link_is_the_bundle(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    (tmp_path / "latest").symlink_to(bundle.path)
    linked = Bundle.open(tmp_path / "latest")
    assert names(linked.add(write_file(tmp_path, make_expert("fog")))) == ["base", "fog"]
    assert names(Bundle.open(bundle.path)) == ["base", "fog"]


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
