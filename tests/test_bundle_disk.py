"""Fill its disk, take its rights, cut its power: the bundle is in its old state or in its new one."""

from __future__ import annotations

import fcntl
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundle_checks import assert_swept, names
from bundle_makers import (
    BASE_ONNX,
    ONNX,
    entries,
    is_one_sentence,
    make_base,
    make_bundle,
    make_expert,
    make_manifest,
    tree,
    write_file,
)
from forks import Child

from mile_edge.bundle import Bundle, history, remove_expert
from mile_edge.bundle.files import write_whole
from mile_edge.errors import BundleError

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

NOBODY = 65534


def test_a_full_disk_leaves_the_bundle_as_it_was(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, make_expert("fog"))
    rain = write_file(tmp_path, make_expert("rain"))
    needed = max(rain.stat().st_size, (bundle.path / "manifest.json").stat().st_size + 200)
    before = tree(tmp_path)

    def add_with(limit: int) -> Callable[[Callable[[str], None]], None]:
        def act(_: Callable[[str], None]) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            bundle.add(rain)

        return act

    for limit in range(0, needed - 250, 150):
        status, said = Child(add_with(limit)).end()
        assert status == 3, said
        (line,) = said
        assert is_one_sentence(BundleError(line))
        assert "cannot be changed: file too large" in line
        assert tree(tmp_path) == before
    assert Child(add_with(needed)).end() == (0, [])
    assert_swept(bundle.path)


def test_a_full_disk_leaves_no_half_bundle(tmp_path: Path) -> None:
    def create(_: Callable[[str], None]) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        Bundle.create(tmp_path / "bundle", make_manifest(), ONNX, BASE_ONNX, make_base())

    status, said = Child(create).end()
    assert status == 3
    assert "cannot be created: file too large" in said[0]
    assert entries(tmp_path) == []


def test_a_read_only_folder_is_one_sentence_and_can_still_be_read(tmp_path: Path) -> None:
    # pytest's own folders are closed to other users, and root may write anywhere: the child becomes nobody.
    with tempfile.TemporaryDirectory() as open_to_all:
        folder = Path(open_to_all)
        bundle = make_bundle(folder, make_expert("fog"))
        rain = write_file(folder, make_expert("rain"))
        for path in (folder, bundle.path, bundle.path / "experts"):
            path.chmod(0o555)
        before = tree(folder)
        changes: list[Callable[[], object]] = [
            lambda: bundle.add(rain),
            lambda: bundle.remove("fog"),
            lambda: remove_expert(bundle.path, "fog"),
            lambda: bundle.set_gate(bundle.manifest.gate),
            lambda: Bundle.create(folder / "new", make_manifest(), ONNX, BASE_ONNX, make_base()),
        ]

        def act(say: Callable[[str], None]) -> None:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            say(" ".join(names(Bundle.open(bundle.path))))
            for change in changes:
                try:
                    change()
                except BundleError as error:
                    say(str(error))

        status, said = Child(act).end()
        assert status == 0, said
        assert said[0] == "base fog"
        assert len(said) == 1 + len(changes)
        for line in said[1:]:
            assert is_one_sentence(BundleError(line))
            assert "permission denied" in line
        assert tree(folder) == before
        for path in (folder, bundle.path, bundle.path / "experts"):
            path.chmod(0o755)


@pytest.mark.parametrize("change", ["create", "add", "remove"])
def test_a_power_cut_finds_nothing_renamed_that_is_not_on_the_disk(
    tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[str, str]] = []
    fsync = os.fsync

    def seen_fsync(descriptor: int) -> None:
        fsync(descriptor)
        steps.append(("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))

    def seen(event: str, given: tuple[Any, ...]) -> None:
        if event in ("os.rename", "os.remove") and listening:
            steps.append((event, " ".join(str(each) for each in given[: 2 if event == "os.rename" else 1])))

    # An audit hook cannot be taken away again, so it is told to be quiet.
    listening: list[bool] = []
    sys.addaudithook(seen)
    folder = tmp_path / "bundle"
    rain = write_file(tmp_path, make_expert("rain"))
    if change != "create":
        bundle = make_bundle(tmp_path, make_expert("fog"))
    # So that what is removed is also deleted.
    monkeypatch.setattr(history, "STATES", 0)
    monkeypatch.setattr(os, "fsync", seen_fsync)
    listening.append(True)
    if change == "create":
        make_bundle(tmp_path)
    else:
        bundle.add(rain) if change == "add" else bundle.remove("fog")
    listening.clear()

    moved = [index for index, (kind, _) in enumerate(steps) if kind == "os.rename"]
    synced = [(index, path) for index, (kind, path) in enumerate(steps) if kind == "fsync"]
    for index in moved:
        source = steps[index][1].split(" ")[0]
        assert any(path == source and earlier < index for earlier, path in synced), steps
    last = moved[-1]
    assert steps[last][1].endswith(" " + str(folder if change == "create" else folder / "manifest.json"))
    if change == "create":
        below = {path for earlier, path in synced if earlier < last}
        source = Path(steps[last][1].split(" ")[0])
        assert {str(source / name) for name in ("manifest.json", "segmenter.onnx", "base.onnx", "experts")} <= below
    if change == "add":
        assert any(path == str(folder / "experts") and moved[0] < index < last for index, path in synced)
    assert any(path == str(folder.parent if change == "create" else folder) for index, path in synced if index > last)
    if change == "remove":
        gone = [index for index, (kind, path) in enumerate(steps) if kind == "os.remove" and "fog-" in path]
        assert gone
        assert min(gone) > last
    if change != "create":
        assert any(path == str(folder / "journal.jsonl") and index < last for index, path in synced)


def test_a_folder_being_created_by_a_living_run_is_not_swept_by_another(tmp_path: Path) -> None:
    busy = tmp_path / ".bundle.123456.partial"
    busy.mkdir()
    descriptor = os.open(busy, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    stale = tmp_path / ".bundle.654321.partial"
    stale.mkdir()
    (stale / "segmenter.onnx").touch()
    make_bundle(tmp_path)
    os.close(descriptor)
    assert busy.exists()
    assert not stale.exists()


def test_what_a_killed_process_left_beside_a_file_is_swept_by_the_next_who_writes_it(tmp_path: Path) -> None:
    file = tmp_path / "fog.safetensors"
    killed = (
        "import os, sys; from pathlib import Path; from mile_edge.bundle.files import write_whole\n"
        "os.fsync = lambda descriptor: os.kill(os.getpid(), 9)\n"
        "write_whole(Path(sys.argv[1]), b'half', 'file', ValueError)"
    )
    left = []
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", killed, str(file)], check=False).returncode == -9
        (new,) = {path for path in tmp_path.iterdir() if path not in left}
        left.append(new)
    old, fresh = left
    alive = tmp_path / f".{file.name}.{os.getppid()}.partial"
    other = tmp_path / old.name.replace("fog", "rain")
    for path in (old, alive, other):
        path.touch()
        os.utime(path, (1, 1))
    write_whole(file, b"whole", "file", BundleError)
    assert entries(tmp_path) == sorted(path.name for path in (file, fresh, alive, other)), (
        "another host may write these"
    )
    assert file.read_bytes() == b"whole"
