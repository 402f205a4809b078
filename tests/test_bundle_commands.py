"""`mile-edge experts` and `mile-edge inspect`, as a person or a script calls them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bundle_makers import CAR, SKY, is_one_sentence, make_bundle, make_expert, tree, write_file
from commands import run, run_json

from mile_edge.bundle import Bundle
from mile_edge.errors import BundleError


def test_an_expert_is_added_listed_and_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle(tmp_path)
    fog = write_file(tmp_path, make_expert("fog", classes=(SKY, CAR)))
    status, out, _ = run(capsys, "experts", "add", bundle.path, fog)
    assert (status, out) == (0, "added fog as row 1 of 4, with new classes car\n")
    added = run_json(capsys, "experts", "add", bundle.path, fog, "--name", "fog-2")
    assert (added["added"], added["row"], added["new_classes"]) == ("fog-2", 2, [])
    assert run_json(capsys, "experts", "remove", bundle.path, "fog") == {
        "removed": "fog",
        "experts": ["base", "fog-2"],
    }
    status, out, _ = run(capsys, "experts", "remove", bundle.path, "fog-2")
    assert (status, out) == (0, "removed fog-2; 1 experts are left\n")
    status, out, _ = run(capsys, "experts", "verify", bundle.path)
    assert (status, out) == (0, f"{bundle.path} is whole\n")


def test_the_list_says_what_each_expert_is_for_and_what_it_weighs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expert = make_expert("fog", domains=("fog", "haze"), scores={"miou": 0.51234, "per_class": {"sky": 0.9}})
    bundle = make_bundle(tmp_path, expert)
    listed = run_json(capsys, "experts", "list", bundle.path)
    assert listed["capacity"] == 4
    base, fog = listed["experts"]
    assert (base["row"], base["name"], base["adapter_bytes"]) == (0, "base", 0)
    sizes = expert.sizes()
    assert (fog["adapter_bytes"], fog["head_bytes"], fog["gate_bytes"]) == tuple(sizes.values())
    assert fog["share_of_base"] == (sizes["adapter"] + sizes["gate"]) / 100_000
    assert fog["share_of_base_with_head"] == sum(sizes.values()) / 100_000
    assert (fog["sensors"], fog["domains"], fog["classes"]) == (["camera"], ["fog", "haze"], ["sky", "road"])
    monkeypatch.setenv("COLUMNS", "160")
    status, out, _ = run(capsys, "experts", "list", bundle.path)
    assert status == 0
    for shown in ("fog", "camera", "fog, haze", "76 B", "miou 0.5123", "0.16%"):
        assert shown in out


def test_inspect_shows_a_bundle_and_an_expert_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    fog = make_expert("fog", training={"data": "world", "epochs": 3})
    bundle = make_bundle(tmp_path, fog)
    _, out, _ = run(capsys, "inspect", bundle.path)
    for shown in (
        "tiny-base",
        "64 x 48 pixels",
        "rank 2 on 2 layers",
        "mahalanobis, early tap",
        "camera, depth",
        "fog",
    ):
        assert shown in out
    _, out, _ = run(capsys, "inspect", tmp_path / "fog.safetensors")
    for shown in ("fog", "rank 2 on 2 layers", "2 classes x 5 channels", "training epochs", "world"):
        assert shown in out
    facts = run_json(capsys, "inspect", bundle.path)
    assert facts["low_rank"]["numbers_per_row"] == bundle.manifest.low_rank.row_length
    assert facts["low_rank"]["bank_bytes"] == 5 * bundle.manifest.low_rank.row_length * 4
    assert [each["name"] for each in facts["experts"]] == ["base", "fog"]
    facts = run_json(capsys, "inspect", tmp_path / "fog.safetensors")
    a, b = fog.low_rank["block.0.query"]
    assert facts["update_norms"]["block.0.query"] == pytest.approx(((b @ a) ** 2).sum() ** 0.5, rel=1e-5)
    assert facts["training"] == {"data": "world", "epochs": 3}


@pytest.mark.parametrize(
    "arguments",
    [
        ("experts", "list", "nowhere"),
        ("experts", "add", "bundle", "nowhere.safetensors"),
        ("experts", "add", "bundle", "pickle.safetensors"),
        ("experts", "add", "bundle", "fog.safetensors"),
        ("experts", "add", "bundle", "fog.safetensors", "--name", "../evil"),
        ("experts", "remove", "bundle", "base"),
        ("experts", "remove", "bundle", "nobody"),
        ("experts", "remove", "nowhere", "fog"),
        ("inspect", "nowhere"),
        ("inspect", "pickle.safetensors"),
        ("inspect", "."),
    ],
)
def test_a_refusal_is_one_line_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    make_bundle(tmp_path, make_expert("fog"))
    (tmp_path / "pickle.safetensors").write_bytes(b"\x80\x04\x95" + b"x" * 100)
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("mile-edge: ")
    assert is_one_sentence(BundleError(err[:-1]))
    assert tree(tmp_path) == before


def test_verify_lists_every_problem_and_says_so_in_its_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(tmp_path, make_expert("fog"))
    (bundle.path / "segmenter.onnx").write_bytes(b"changed")
    (bundle.path / bundle.manifest.entry("fog").file).unlink()
    status, out, _ = run(capsys, "experts", "verify", bundle.path)
    assert status == 1
    assert len(out.splitlines()) == 2
    status, out, _ = run(capsys, "experts", "verify", bundle.path, "--json")
    assert status == 1
    assert len(json.loads(out)["problems"]) == 2


@pytest.mark.parametrize("command", [("inspect",), ("experts", "verify")])
def test_a_folder_that_is_no_bundle_is_bad_input_and_no_damage(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, *command, tmp_path)
    assert (status, out) == (2, "")
    assert "manifest.json" in err


@pytest.mark.parametrize("digits", ["abcd", "x" * 64])
def test_a_hash_that_is_none_is_not_called_that_of_another_file(
    digits: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(tmp_path)
    fog = write_file(tmp_path, make_expert("fog"))
    status, _, err = run(capsys, "experts", "add", bundle.path, fog, "--sha256", digits)
    assert status == 2
    assert "64 hexadecimal digits" in err
    right = hashlib.sha256(Path(fog).read_bytes()).hexdigest().upper()
    assert run(capsys, "experts", "add", bundle.path, fog, "--sha256", right)[0] == 0


def test_a_damaged_expert_can_be_removed_from_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle(tmp_path, make_expert("fog"))
    (bundle.path / bundle.manifest.entry("fog").file).write_bytes(b"")
    assert run(capsys, "experts", "list", bundle.path)[0] == 2
    assert run(capsys, "experts", "remove", bundle.path, "fog")[0] == 0
    assert run(capsys, "experts", "list", bundle.path)[0] == 0


def test_text_from_a_file_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nasty = {"\x1b[2Jkey": "\x1b]0;title\x07", "[red]": "[link=http://evil]x[/link]", "nested": ["\x1b[31m"]}
    evil = make_expert("evil", training=nasty, scores={"\x1b[5m": 1.0, "[bold]": 2.0}, domains=("[red]fog",))
    bundle = make_bundle(tmp_path, evil)
    for arguments in (
        ("inspect", tmp_path / "evil.safetensors"),
        ("inspect", bundle.path),
        ("experts", "list", bundle.path),
    ):
        status, out, _ = run(capsys, *arguments)
        assert status == 0
        assert "\x1b" not in out
        assert "\x07" not in out
    _, out, _ = run(capsys, "inspect", tmp_path / "evil.safetensors")
    assert "[link=http://evil]x[/link]" in out


def test_names_that_are_not_text_are_no_obstacle(tmp_path: Path) -> None:
    """A folder whose name is not UTF-8, read by a process whose output is."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n"))
    folder.mkdir()
    bundle = make_bundle(folder, make_expert("fog"))
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONPATH": str(Path(__file__).parents[1])}
    # One process for all three: most of what each costs is its start.
    program = """
import sys
from mile_edge.cli.main import main
sys.exit(any([main([*command.split(), sys.argv[1]]) for command in ("experts list", "inspect", "experts verify")]))
"""
    command = [sys.executable, "-c", program, str(bundle.path)]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=240, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().count("fog") >= 2


def test_reading_needs_no_right_to_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle(tmp_path, make_expert("fog"))
    before = tree(tmp_path)
    for arguments in (("inspect",), ("experts", "list"), ("experts", "verify")):
        assert run(capsys, *arguments, bundle.path)[0] == 0
    assert tree(tmp_path) == before
    assert Bundle.open(bundle.path) == bundle
