"""Race it: processes that change one bundle take turns, and readers never see half of a change."""

from __future__ import annotations

import fcntl
import io
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from bundle_checks import assert_swept, names
from bundle_makers import entries, is_one_sentence, make_bundle, make_expert, write_file
from forks import STUCK_AFTER_S, Child

from mile_edge.bundle import Bundle, lock, remove_expert, verify_bundle
from mile_edge.bundle.lock import locked
from mile_edge.errors import BundleError

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


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
    added = [path.stem for mine in sources for path in mine]
    assert sorted(names(Bundle.open(bundle.path))) == sorted(["base", *added])
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
        seen.add(tuple(names(Bundle.open(bundle.path))))
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
