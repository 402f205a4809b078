"""Who is changing a bundle: for the journal, and for whoever waits on the lock."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import pwd
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from mile_edge.bundle.strict_json import parse_object

MAX_TEXT = 64
MAX_BYTES = 1024


@dataclass(frozen=True)
class Owner:
    """A process: user, host, pid, program and UTC time, as far as the system tells; nobody has proved any of it."""

    user: str
    host: str
    pid: int
    program: str
    since: str

    @classmethod
    def me(cls) -> Owner:
        """The process that asks, at this moment."""
        user = str(os.geteuid())
        with contextlib.suppress(KeyError):
            user = pwd.getpwuid(os.geteuid()).pw_name
        program = Path(sys.argv[0] if sys.argv and sys.argv[0] else "python")
        # `python -m mile_edge` is not called __main__.py by anybody.
        program = program.parent if program.name == "__main__.py" else program
        arguments = [program.name, *sys.argv[1:3]]
        # `mile-edge experts add`, but neither options nor paths.
        words = [arguments[0], *(word for word in arguments[1:] if word.isalpha())]
        return cls(_plain(user), _plain(platform.node()), os.getpid(), _plain(" ".join(words)), now())

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), sort_keys=True)

    def __str__(self) -> str:
        return f"process {self.pid} ({self.program} of {self.user} on {self.host}, since {self.since})"


def read_owner(text: bytes) -> Owner | None:
    """What a process wrote of itself; None where it is not whole."""
    try:
        values = parse_object(text)
    except ValueError:
        return None
    pid = values.get("pid")
    texts = [values.get(key) for key in ("user", "host", "program", "since")]
    if type(pid) is not int or not all(isinstance(each, str) and each and each == _plain(each) for each in texts):
        return None
    user, host, program, since = map(str, texts)
    return Owner(user, host, pid, program, since)


def now() -> str:
    """UTC with milliseconds, such as "2026-11-22T23:30:00.125Z"."""
    seconds = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03d}Z"


def _plain(text: str) -> str:
    """Printable ASCII of bounded length, so that a name cannot write to a terminal."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)[:MAX_TEXT] or "?"
