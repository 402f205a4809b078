"""A bundle that was damaged, or was never one, is refused, and what is wrong with it is named."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundle_checks import edit, flip_last_byte, names, refusal
from bundle_makers import DIM, HIDDEN, is_one_sentence, make_bundle, make_expert, tree, write_file

from mile_edge.bundle import Bundle, remove_expert, verify_bundle
from mile_edge.errors import BundleError


def replaced_by(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        path.unlink()
        make(path)

    return act


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
    ("change", "reason"),
    [
        (lambda values: values.update(experts=[]), "has no experts"),
        (lambda values: values["experts"].reverse(), "adapter in row 0"),
        (lambda values: values["experts"].append(values["experts"][1]), "experts[2].name"),
        (lambda values: values["base"].update(sha256="cd" * 32), "was trained on base abababab"),
        (lambda values: values["gate"].update(tap="full"), "tap 'early'"),
        (lambda values: values["gate"].update(dim=DIM + 1), "gate.mean has 4 numbers"),
        (lambda values: values["low_rank"].update(rank=3), "has rank 2"),
        (lambda values: values["low_rank"]["layers"].pop(), "adapts layer"),
        (lambda values: values["low_rank"].update(hidden=HIDDEN + 1), "classifier.weight"),
        (lambda values: values.update(classes=values["classes"][:1]), "classes that the manifest lacks"),
        (lambda values: values["network"].update(file="base.onnx"), "another file than network.file"),
        (lambda values: values["network"].update(sha256="cd" * 32), "not the one the manifest names"),
        (lambda values: values["experts"][1].update(file="../fog.safetensors"), "experts[1].file"),
        (lambda values: values.update(capacity=1, experts=values["experts"] * 2), "0 to 2 entries"),
    ],
)
def test_a_manifest_that_contradicts_its_files_is_refused(
    tmp_path: Path, change: Callable[[Any], None], reason: str
) -> None:
    bundle = make_bundle(tmp_path, make_expert("fog"))
    edit(bundle.path / "manifest.json", change)
    assert reason in refusal(tmp_path, lambda: Bundle.open(bundle.path))
    assert verify_bundle(bundle.path)


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for strange in ("file", "empty", "pipe", "absent", "a\0b", "x" * 300):
        assert "bundle manifest" in refusal(tmp_path, lambda strange=strange: Bundle.open(tmp_path / strange))
        assert "bundle manifest" in refusal(tmp_path, lambda strange=strange: remove_expert(tmp_path / strange, "fog"))
        assert len(verify_bundle(tmp_path / strange)) == 1


def test_a_linked_experts_folder_is_neither_read_nor_written(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, make_expert("fog"))
    source = write_file(tmp_path, make_expert("rain"))
    (bundle.path / "experts").rename(tmp_path / "elsewhere")
    (bundle.path / "experts").symlink_to(tmp_path / "elsewhere")
    for act in (
        lambda: Bundle.open(bundle.path),
        lambda: bundle.add(source),
        lambda: bundle.remove("fog"),
        lambda: remove_expert(bundle.path, "fog"),
    ):
        assert "has a symbolic link as experts" in refusal(tmp_path, act)


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
        assert str(bundle.path) in refusal(tmp_path, lambda: bundle.add(source))
    assert victim.read_text() == "precious"
