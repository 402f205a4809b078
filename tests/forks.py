"""Children that run a change and really die by SIGKILL.

They are forks that import nothing, so that dozens of them take seconds.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import pytest

from mile_edge.errors import MileError

TRACED = ("commit.py", "files.py", "history.py", "journal.py", "lock.py", "store.py")
# They only look: between two of their lines the disk is the same.
READERS = (
    *("named", "opened_regular", "read_regular", "hash_regular", "strays", "read_journal", "states", "read_state"),
    *("find_state", "files_of_states", "_files", "_tail", "_last_record", "_record", "_outcome"),
)
STUCK_AFTER_S = 240


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
