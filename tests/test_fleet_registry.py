"""An expert registry moves files and verifies them: nothing is torn, or other than what was announced."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bundle_makers import is_one_sentence, make_bundle, make_expert, write_file
from conftest import REPOSITORY

from mile_edge.bundle import Bundle
from mile_edge.cli.main import main
from mile_edge.errors import ExpertError, MileError, TransferError
from mile_edge.fleet import RegistryEntry, list_entries, pull, push
from mile_edge.fleet.places import open_place
from mile_edge.fleet.transfer import fetch


@pytest.fixture(params=["folder", "file-url", "memory"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        pytest.importorskip("fsspec").filesystem("memory").store.clear()
        return "memory://fleet/experts"
    folder = tmp_path / "registry"
    return folder.as_uri() if request.param == "file-url" else str(folder)


def test_what_was_pushed_is_pulled_byte_for_byte_and_fits_the_bundle(registry: str, tmp_path: Path) -> None:
    files = [write_file(tmp_path, make_expert(name, seed)) for seed, name in enumerate(("fog", "rain"))]
    pushed = push(registry, files, tmp_path)
    assert [entry.name for entry in pushed] == ["fog", "rain"]
    assert push(registry, files, tmp_path)[0].sha256 == pushed[0].sha256
    pulled = pull(registry, [], tmp_path / "here")
    assert [path.read_bytes() for _, path in pulled] == [file.read_bytes() for file in files]
    bundle = make_bundle(tmp_path)
    for entry, path in pulled:
        assert entry.base_sha256 == bundle.manifest.base.sha256
        bundle = bundle.add(path)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(hashlib.sha256(b"").hexdigest()[:2])] == []


def test_the_latest_is_pulled_and_an_older_one_by_its_hash(registry: str, tmp_path: Path) -> None:
    old = push(registry, [write_file(tmp_path, make_expert("fog", 1), "a.safetensors")], tmp_path)[0]
    new = push(registry, [write_file(tmp_path, make_expert("fog", 2), "b.safetensors")], tmp_path)[0]
    assert [entry.sha256 for entry in list_entries(registry)] == [new.sha256, old.sha256]
    assert pull(registry, ["fog"], tmp_path / "here")[0][0].sha256 == new.sha256
    assert pull(registry, [f"fog@{old.sha256[:10].upper()}"], tmp_path / "here")[0][0].sha256 == old.sha256
    for wanted in (["haze"], ["fog@ffff"], ["../fog"]):
        with pytest.raises(ExpertError, match="has no expert") as caught:
            pull(registry, wanted, tmp_path / "here")
        assert is_one_sentence(caught.value)
    with pytest.raises(ExpertError, match="no expert that fits"):
        pull(registry, [], tmp_path / "here", base_sha256="0" * 64)


def test_a_pull_that_broke_off_reads_only_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = str(tmp_path / "registry")
    (entry,) = push(registry, [write_file(tmp_path, make_expert("fog"))], tmp_path)
    place, target = open_place(registry), tmp_path / "here" / "fog.safetensors"
    target.parent.mkdir()
    whole = (tmp_path / "fog.safetensors").read_bytes()
    partial = target.with_name(f".{target.name}.{entry.sha256[:16]}.partial")
    partial.write_bytes(whole[:700])
    starts: list[int] = []
    pieces = type(place).pieces
    monkeypatch.setattr(type(place), "pieces", lambda self, name, at=0: starts.append(at) or pieces(self, name, at))
    fetch(place, entry.file, target, sha256=entry.sha256)
    assert starts == [700] and target.read_bytes() == whole and not partial.exists()
    # A torn first half is found by the hash, and the next attempt starts from nothing.
    target.unlink()
    partial.write_bytes(b"x" * 700)
    with pytest.raises(TransferError, match="was announced"):
        fetch(place, entry.file, target, sha256=entry.sha256)
    assert not partial.exists() and not target.exists()
    fetch(place, entry.file, target, sha256=entry.sha256)
    assert starts == [700, 700, 0] and target.read_bytes() == whole


@pytest.mark.parametrize("damage", ["object", "cut", "entry", "moved", "climbs", "huge", "gone"])
def test_a_registry_that_lies_is_refused_in_one_sentence(tmp_path: Path, damage: str) -> None:
    registry = tmp_path / "registry"
    (entry,) = push(str(registry), [write_file(tmp_path, make_expert("fog"))], tmp_path)
    stored, note = registry / entry.file, registry / "index" / "fog" / f"{entry.sha256}.json"
    values = json.loads(note.read_text())
    if damage == "object":
        stored.write_bytes(bytes(entry.bytes))
    elif damage == "cut":
        stored.write_bytes(stored.read_bytes()[:-1])
    elif damage == "entry":
        note.write_text("{")
    elif damage == "moved":
        note.rename(note.with_name("0" * 64 + ".json"))
    elif damage == "climbs":
        note.write_text(json.dumps({**values, "name": "../../fog"}))
    elif damage == "huge":
        note.write_text(json.dumps({**values, "bytes": 2**62}))
    else:
        stored.unlink()
    with pytest.raises(MileError) as caught:
        pull(str(registry), ["fog"], tmp_path / "here")
    assert is_one_sentence(caught.value), caught.value
    assert not [path for path in (tmp_path / "here").rglob("*") if path.suffix == ".safetensors"]


def test_names_that_leave_a_place_are_refused(tmp_path: Path) -> None:
    for name in ("../x", "/etc/passwd", "a/../../x", "", "a\\..\\x", "a\0b"):
        with pytest.raises(TransferError, match="leaves its folder"):
            open_place(tmp_path).read(name, 10)


def test_a_push_killed_at_any_moment_leaves_whole_experts_only(tmp_path: Path) -> None:
    files = [str(write_file(tmp_path, make_expert(f"e{index}", index))) for index in range(12)]
    command = [sys.executable, "-m", "mile_edge", "experts", "push", str(tmp_path / "registry"), *files]
    seen = set()
    for kill_after in (1, 4, 9):
        child = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while len(list((tmp_path / "registry").glob("objects/*/*"))) < kill_after and child.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        pulled = pull(str(tmp_path / "registry"), [], tmp_path / f"here-{kill_after}") if kill_after > 1 else []
        for entry, path in pulled:
            assert hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256
        seen.add(len(pulled))
    assert main(["experts", "push", str(tmp_path / "registry"), *files]) == 0
    assert len(list_entries(str(tmp_path / "registry"))) == 12
    assert len(seen) > 1


def test_a_full_disk_leaves_the_registry_and_the_robot_as_they_were(tmp_path: Path) -> None:
    file = write_file(tmp_path, make_expert("fog"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:
        with pytest.raises(TransferError) as caught:
            push(str(tmp_path / "registry"), [file], tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert is_one_sentence(caught.value)
    assert list_entries(str(tmp_path / "registry")) == []
    (entry,) = push(str(tmp_path / "registry"), [file], tmp_path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:
        with pytest.raises(TransferError) as caught:
            pull(str(tmp_path / "registry"), [], tmp_path / "here")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert is_one_sentence(caught.value)
    assert isinstance(entry, RegistryEntry)
    assert pull(str(tmp_path / "registry"), [], tmp_path / "here")[0][1].read_bytes() == file.read_bytes()


def test_the_commands_push_list_and_pull(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle(tmp_path)
    file = write_file(tmp_path, make_expert("fog"))
    registry = str(tmp_path / "registry")
    assert main(["experts", "push", registry, str(file)]) == 0
    assert "pushed fog" in capsys.readouterr().out
    assert main(["experts", "pull", registry, "--list", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["experts"]
    assert entry["name"] == "fog"
    to = str(tmp_path / "here")
    assert main(["experts", "pull", registry, "fog", "--to", to, "--bundle", str(bundle.path), "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["experts"]
    assert main(["experts", "add", str(bundle.path), entry["path"]]) == 0
    assert [each.name for each in Bundle.open(bundle.path).experts()] == ["base", "fog"]
    capsys.readouterr()
    assert main(["experts", "pull", str(tmp_path / "nothing"), "--to", to]) == 2
    assert "has no expert that fits" in capsys.readouterr().err
    assert main(["experts", "pull", str(tmp_path / "nothing"), "fog", "--to", to]) == 2
    assert "check the place" in capsys.readouterr().err
