"""`mile-edge experts keygen|pack|sign|verify|history|rollback`, as a person or a script calls them."""

from __future__ import annotations

from pathlib import Path

import pytest
from bundle_makers import make_bundle, make_expert, write_file
from commands import run, run_json

from mile_edge.bundle import Bundle


def test_from_a_plain_expert_to_a_fleet_that_takes_only_signed_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, plain = make_bundle(tmp_path), write_file(tmp_path, make_expert("fog"))
    package, keys, trusted = tmp_path / "fog-1.safetensors", tmp_path / "keys", tmp_path / "trusted"
    key = run_json(capsys, "experts", "keygen", "workshop", "--out", keys)["key"]
    trusted.mkdir()
    (trusted / "workshop.pub").write_bytes((keys / "workshop.pub").read_bytes())
    packed = run_json(capsys, "experts", "pack", plain, "--version", 1, "--out", package)
    assert (packed["name"], packed["version"], packed["key"]) == ("fog", 1, "")
    status, out, _ = run(capsys, "experts", "verify", package, "--keys", trusted)
    assert status == 1
    assert "is not signed" in out
    status, out, _ = run(capsys, "experts", "sign", package, "--key", keys / "workshop.key")
    assert (status, out) == (0, f"signed fog version 1: {package}\n")
    status, out, _ = run(capsys, "experts", "verify", package, "--keys", trusted)
    assert (status, out) == (0, f"{package}: fog, version 1, signed by workshop\n")
    assert run_json(capsys, "experts", "verify", package, "--keys", trusted)["key"] == key
    status, _, err = run(capsys, "experts", "add", bundle.path, plain, "--keys", trusted)
    assert status == 2
    assert "is not signed" in err
    assert run(capsys, "experts", "add", bundle.path, package, "--keys", trusted)[0] == 0
    assert run(capsys, "experts", "verify", bundle.path, "--keys", trusted)[0] == 0
    (trusted / "revoked").write_text(key)
    status, out, _ = run(capsys, "experts", "verify", bundle.path, "--keys", trusted)
    assert status == 1
    assert "which is revoked" in out
    status, _, err = run(capsys, "experts", "verify", package, "--policy", "signed")
    assert (status, "name it with --keys" in err) == (2, True)


def test_a_plain_expert_is_signed_as_a_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "experts", "keygen", "workshop", "--out", tmp_path)
    plain = write_file(tmp_path, make_expert("fog"))
    status, _, err = run(capsys, "experts", "sign", plain, "--key", tmp_path / "workshop.key")
    assert status == 2
    assert "--version N" in err


def test_a_newer_version_is_signed_in_one_step_and_replaces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "experts", "keygen", "workshop", "--out", tmp_path)
    sign = ("experts", "sign", "--key", tmp_path / "workshop.key", "--version")
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    bundle = make_bundle(tmp_path)
    run(capsys, *sign, 1, write_file(tmp_path, make_expert("fog")), "--out", old)
    run(capsys, *sign, 2, write_file(tmp_path, make_expert("fog", seed=1)), "--out", new)
    for file, options in ((old, ()), (new, ("--replace",))):
        status, out, _ = run(capsys, "experts", "add", bundle.path, file, "--keys", tmp_path, *options)
        assert (status, out) == (0, "added fog as row 1 of 4\n")
    status, _, err = run(capsys, "experts", "add", bundle.path, old, "--keys", tmp_path, "--replace")
    assert status == 2
    assert "version 2 was here already" in err
    assert run(capsys, "experts", "add", bundle.path, old, "--keys", tmp_path, "--replace", "--downgrade")[0] == 0


def test_history_tells_who_did_what_and_rollback_undoes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    bundle = make_bundle(tmp_path, make_expert("fog"), make_expert("rain"))
    run(capsys, "experts", "remove", bundle.path, "fog")
    told = run_json(capsys, "experts", "history", bundle.path)
    assert [(each["change"]["action"], each["change"]["expert"]) for each in told["records"]] == [
        ("add", "fog"),
        ("add", "rain"),
        ("remove", "fog"),
    ]
    assert [each["outcome"] for each in told["records"]] == ["done"] * 3
    assert told["records"][-1]["after"] == told["state"]
    state = told["records"][0]["after"]
    status, out, _ = run(capsys, "experts", "history", bundle.path)
    assert status == 0
    for shown in ("remove", "rain", f"--to {state[:8]}", "present", "states to roll back to, newest first: "):
        assert shown in out
    monkeypatch.delenv("COLUMNS")
    status, out, _ = run(capsys, "experts", "history", bundle.path)
    assert "hash" in out and told["records"][0]["change"]["sha256"][:8] in out, "a pipe is no narrow terminal"
    status, out, _ = run(capsys, "experts", "rollback", bundle.path)
    assert (status, out) == (0, "rolled back; experts are now base, fog, rain\n")
    assert run_json(capsys, "experts", "rollback", bundle.path, "--to", state[:8])["experts"] == ["base", "fog"]
    status, _, err = run(capsys, "experts", "rollback", bundle.path, "--to", "nowhere")
    assert status == 2
    assert "kept are" in err
    assert Bundle.open(bundle.path).verify() == []


def test_a_shadow_run_is_begun_and_ended_from_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, fog = make_bundle(tmp_path), write_file(tmp_path, make_expert("fog"))
    assert run_json(capsys, "experts", "add", bundle.path, fog, "--shadow", 300)["shadow"] == "fog"
    assert [entry.name for entry in Bundle.open(bundle.path).manifest.experts] == ["base"]
    assert run_json(capsys, "experts", "list", bundle.path)["candidate"]["plan"]["frames"] == 300
    assert "in shadow: fog, for 300 frames, one in 10" in run(capsys, "experts", "list", bundle.path)[1]
    status, _, err = run(capsys, "experts", "add", bundle.path, fog, "--shadow", 0)
    assert (status, "give 1 to" in err) == (2, True)
    assert run_json(capsys, "experts", "withdraw", bundle.path)["experts"] == ["base"]
    run(capsys, "experts", "add", bundle.path, fog, "--shadow", 300)
    assert run_json(capsys, "experts", "promote", bundle.path)["experts"] == ["base", "fog"]
    status, _, err = run(capsys, "experts", "promote", bundle.path)
    assert (status, "no expert in shadow" in err) == (2, True)
