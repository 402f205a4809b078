"""Kill it, interrupt it, fill its disk, take its rights, race it: the bundle is in its old state or in its new one.

The children are forks that really die by SIGKILL; they import nothing, so that dozens of them take seconds.
"""

from __future__ import annotations

import fcntl
import functools
import io
import itertools
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import pytest
from bundle_makers import (
    BASE_ONNX,
    ONNX,
    entries,
    expected_tree,
    is_one_sentence,
    make_base,
    make_bundle,
    make_expert,
    make_manifest,
    tree,
    write_file,
)

from mile_edge.bundle import Bundle, Manifest, history, lock, remove_expert, verify_bundle
from mile_edge.bundle.lock import locked
from mile_edge.errors import BundleError, MileError

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

TRACED = ("commit.py", "files.py", "history.py", "journal.py", "lock.py", "store.py")
# They only look: between two of their lines the disk is the same.
READERS = (
    *("named", "opened_regular", "read_regular", "hash_regular", "strays", "read_journal", "states", "read_state"),
    *("find_state", "files_of_states", "_files", "_tail", "_last_record", "_record", "_outcome"),
)
STUCK_AFTER_S = 240
NOBODY = 65534


class Child:
    """A fork that runs `act`, with a pipe on which it can tell what it is about to do."""

    def __init__(self, act: Callable[[Callable[[str], None]], None]) -> None:
        self._read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(act, write)
        os.close(write)

    @staticmethod
    def _run(act: Callable[[Callable[[str], None]], None], write: int) -> NoReturn:
        status = 1
        try:
            # A child that hangs must not hang the tests.
            signal.alarm(STUCK_AFTER_S)
            act(lambda line: os.write(write, (line + "\n").encode()) and None)
            status = 0
        except MileError as error:
            os.write(write, f"refused {error}\n".encode())
            status = 3
        finally:
            os._exit(status)

    def wait_for_line(self) -> None:
        """Until the child says something for the first time."""
        self._said = os.read(self._read, 65536)

    def end(self) -> tuple[int, list[str]]:
        """Its exit status (negative: the signal that ended it) and the lines it said."""
        said = getattr(self, "_said", b"")
        while piece := os.read(self._read, 65536):
            said += piece
        os.close(self._read)
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status), said.decode().splitlines()


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder in memory where there is one: these tests kill processes, not disks, and make hundreds of changes."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def names(folder: Path) -> list[str]:
    return [entry.name for entry in Bundle.open(folder).manifest.experts]


def whole_state(folder: Path) -> list[str]:
    """The names in a bundle whose only faults are leftovers that the next change sweeps."""
    problems = verify_bundle(folder)
    assert all("not named by the manifest" in problem for problem in problems), problems
    return [entry.name for entry in Manifest.from_json((folder / "manifest.json").read_bytes()).experts]


def assert_swept(folder: Path) -> None:
    Bundle.open(folder)
    assert set(tree(folder)) == expected_tree(folder)


@functools.cache
def _is_traced(file: str, function: str) -> bool:
    path = Path(file)
    return path.parent.name == "bundle" and path.name in TRACED and function not in READERS


def _changes_the_disk(frame: FrameType | None) -> bool:
    return frame is not None and _is_traced(frame.f_code.co_filename, frame.f_code.co_name)


def at_event(kind: str, number: int, act: Callable[[], None]) -> Callable[[FrameType, str, Any], Any]:
    """A trace or profile function that calls `act` at the n-th event of a kind in the store's code."""
    left = number

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if kind != "line" and event != kind:
            return None
        # A C call made for us by pathlib returns into pathlib's frame, one above ours.
        if not _changes_the_disk(frame) and (kind == "line" or not _changes_the_disk(frame.f_back)):
            return None
        if event == kind:
            left -= 1
            if left == 0:
                act()
        return trace

    return trace


def kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at_line(number: int, change: Callable[..., object], *given: object) -> bool:
    """Run a change in a child that dies before its n-th line; False when it has fewer lines and finished."""

    def act(_: Callable[[str], None]) -> None:
        sys.settrace(at_event("line", number, kill_myself))
        change(*given)
        sys.settrace(None)

    status, said = Child(act).end()
    assert status in (0, -signal.SIGKILL), said
    return status != 0


def events_until_done(change: Callable[[int], bool]) -> Iterator[int]:
    for number in range(1, 2000):
        if not change(number):
            assert number > 30
            return
        yield number
    pytest.fail("the change never finishes")


def test_killed_before_any_line_of_adding_it_is_old_or_new(place: Path) -> None:
    bundle = make_bundle(place, make_expert("fog"))
    rain = write_file(place, make_expert("rain"))
    seen: set[bool] = set()
    for _ in events_until_done(lambda number: killed_at_line(number, bundle.add, rain)):
        state = whole_state(bundle.path)
        assert state in (["base", "fog"], ["base", "fog", "rain"])
        seen.add("rain" in state)
        # The next change sweeps; a completed one is taken back so that the next child starts from the old state.
        remove_expert(bundle.path, "rain") if "rain" in state else bundle.set_gate(bundle.manifest.gate)
        assert_swept(bundle.path)
    assert seen == {False, True}


def test_killed_before_any_line_of_removing_it_is_old_or_new(place: Path) -> None:
    rain = write_file(place, make_expert("rain"))
    bundle = make_bundle(place, make_expert("fog"), make_expert("rain"))
    seen: set[bool] = set()
    for _ in events_until_done(lambda number: killed_at_line(number, Bundle.open(bundle.path).remove, "rain")):
        state = whole_state(bundle.path)
        assert state in (["base", "fog"], ["base", "fog", "rain"])
        seen.add("rain" in state)
        bundle.set_gate(bundle.manifest.gate) if "rain" in state else bundle.add(rain)
        assert_swept(bundle.path)
    assert seen == {False, True}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("event", ["line", "c_return"])
def test_interrupted_anywhere_in_adding_it_is_old_or_new(place: Path, event: str) -> None:
    bundle = make_bundle(place, make_expert("fog"))
    rain = write_file(place, make_expert("rain"))
    install = sys.settrace if event == "line" else sys.setprofile

    def interrupt() -> None:
        raise KeyboardInterrupt

    def interrupted_at(number: int) -> bool:
        before = sys.gettrace() if event == "line" else sys.getprofile()
        install(at_event(event, number, interrupt))
        try:
            bundle.add(rain)
        except KeyboardInterrupt:
            return True
        finally:
            install(before)
        return False

    seen: set[bool] = set()
    for _ in events_until_done(interrupted_at):
        state = whole_state(bundle.path)
        assert state in (["base", "fog"], ["base", "fog", "rain"])
        seen.add("rain" in state)
        remove_expert(bundle.path, "rain") if "rain" in state else bundle.set_gate(bundle.manifest.gate)
        assert_swept(bundle.path)
    assert seen == {False, True}


def test_killed_before_any_line_of_creating_there_is_no_bundle_or_a_whole_one(place: Path) -> None:
    path = place / "bundle"

    def create() -> object:
        return Bundle.create(path, make_manifest(), ONNX, BASE_ONNX, make_base())

    for _ in events_until_done(lambda number: killed_at_line(number, create)):
        if path.exists():
            assert_swept(path)
            for file in sorted(path.rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
            path.rmdir()
        # What earlier children left beside it is swept by the next one that gets far enough.
        assert len(entries(place)) <= 2
    assert entries(place) == ["bundle"]
    assert_swept(path)


def test_killed_at_random_moments_it_is_old_or_new(place: Path) -> None:
    bundle = make_bundle(place, make_expert("fog"))
    sources = [write_file(place, make_expert(name)) for name in ("rain", "snow")]

    def change_for_ever(say: Callable[[str], None]) -> None:
        mine = Bundle.open(bundle.path)
        before: list[str] | None = None
        for source, back in itertools.cycle(itertools.product(sources, (False, False, True))):
            old = [expert.name for expert in mine.experts()]
            if back and before is not None:
                say(f"{' '.join(old)}|{' '.join(before)}")
                mine = mine.rollback()
            else:
                name = source.stem
                new = [each for each in old if each != name] if name in old else [*old, name]
                say(f"{' '.join(old)}|{' '.join(new)}")
                mine = mine.remove(name) if name in old else mine.add(source)
            before = old
            say("done")

    dice = random.Random(20)
    midway = 0
    # The issue asks for 500: MILE_EDGE_KILLS=500.
    kills = int(os.environ.get("MILE_EDGE_KILLS", "60"))
    for _ in range(kills):
        child = Child(change_for_ever)
        child.wait_for_line()
        time.sleep(dice.uniform(0, 0.04))
        os.kill(child.pid, signal.SIGKILL)
        status, said = child.end()
        assert status == -signal.SIGKILL, said
        old, new = [line for line in said if line != "done"][-1].split("|")
        allowed = [new.split()] if said[-1] == "done" else [old.split(), new.split()]
        midway += said[-1] != "done"
        assert whole_state(bundle.path) in allowed
    print(f"{kills} kills, {midway} of them in the middle of a change")
    assert midway > 10
    now = Bundle.open(bundle.path)
    now.set_gate(now.manifest.gate)
    assert_swept(bundle.path)


def test_processes_that_add_at_the_same_time_all_succeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # On a busy machine twelve changes can take longer than a person would wait for one.
    monkeypatch.setattr(lock, "WAIT_S", STUCK_AFTER_S)
    bundle = make_bundle(tmp_path, capacity=16)
    sources = [[write_file(tmp_path, make_expert(f"e{child}-{index}")) for index in range(3)] for child in range(4)]

    def add_all(mine: list[Path]) -> Callable[[Callable[[str], None]], None]:
        return lambda _: [Bundle.open(bundle.path).add(source) for source in mine] and None

    children = [Child(add_all(mine)) for mine in sources]
    ends = [child.end() for child in children]
    assert [status for status, _ in ends] == [0] * 4, ends
    assert sorted(names(bundle.path)) == sorted(["base", *(path.stem for mine in sources for path in mine)])
    assert_swept(bundle.path)


def test_readers_never_see_a_change_half_made(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    source = write_file(tmp_path, make_expert("fog"))

    def change(_: Callable[[str], None]) -> None:
        for _ in range(25):
            Bundle.open(bundle.path).add(source)
            remove_expert(bundle.path, "fog")

    writer = Child(change)
    seen = set()
    while os.waitid(os.P_PID, writer.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        seen.add(tuple(names(bundle.path)))
        assert all("not named" in problem for problem in verify_bundle(bundle.path))
    assert writer.end() == (0, [])
    assert seen <= {("base",), ("base", "fog")}


def test_a_bundle_in_another_s_hands_names_the_other(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)

    def hold(say: Callable[[str], None]) -> None:
        with locked(bundle.path):
            say("held")
            time.sleep(STUCK_AFTER_S)

    holder = Child(hold)
    try:
        holder.wait_for_line()
        with (
            pytest.raises(BundleError, match=rf"process {holder.pid} \(.* on .*, since 20.*\);") as caught,
            locked(bundle.path, wait_s=0.1),
        ):
            pass
        assert is_one_sentence(caught.value)
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.end()
    # The kernel has dropped the dead process's lock, and its file is no obstacle.
    assert (bundle.path / ".lock").exists()
    bundle.add(write_file(tmp_path, make_expert("fog")))
    assert_swept(bundle.path)


def test_a_lock_is_held_by_one_at_a_time_and_leaves_no_file(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")

    def count(_: Callable[[str], None]) -> None:
        for _ in range(40):
            with locked(tmp_path, wait_s=STUCK_AFTER_S):
                counter.write_text(str(int(counter.read_text()) + 1))

    ends = [child.end() for child in [Child(count) for _ in range(4)]]
    assert ends == [(0, [])] * 4
    assert counter.read_text() == "160"
    assert entries(tmp_path) == ["counter"]


def test_a_lock_file_that_was_replaced_meanwhile_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ".lock"
    try_lock = lock._try_lock
    new_holder: list[io.FileIO] = []

    def after_a_change_of_holders(stream: io.FileIO) -> bool:
        if not new_holder:
            path.unlink()
            new_holder.append(io.FileIO(path, "w"))
            fcntl.flock(new_holder[0], fcntl.LOCK_EX)
        return try_lock(stream)

    monkeypatch.setattr(lock, "_try_lock", after_a_change_of_holders)
    with pytest.raises(BundleError, match="another process"), locked(tmp_path, wait_s=0.1):
        pass
    new_holder[0].close()


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
            say(" ".join(names(bundle.path)))
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
