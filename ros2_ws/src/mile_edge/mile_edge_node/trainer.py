"""`mile-edge train expert` as a child process that steps aside for everything else, with no ROS."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mile_edge.bundle.strict_json import NAME
from mile_edge.errors import RecipeError

_NEEDED = ("torch", "transformers", "mile_edge")
_PROBE = "import importlib.util, sys; print(*[m for m in sys.argv[1:] if importlib.util.find_spec(m) is None])"
_LINE = re.compile(r"step (\d+)/(\d+) loss (\S+) mIoU ([\d.]+|-)")
_GRACE_S = 10.0


@dataclass(frozen=True)
class Order:
    """What to train.

    Attributes:
        bundle: folder it is for.
        data: labelled bag or folder.
        name: of the new expert.
        sensor: its kind, empty for the data's own.
        domain: of a bag, only frames of this true domain; empty for all.
        steps: optimiser steps, 0 for the default.
        gate_only: no adapter.
    """

    bundle: str
    data: str
    name: str
    sensor: str = ""
    domain: str = ""
    steps: int = 0
    gate_only: bool = False


@dataclass(frozen=True)
class TrainingProgress:
    """How far a training is; loss and miou are NaN until they are known."""

    step: int = 0
    steps: int = 0
    loss: float = float("nan")
    miou: float = float("nan")


def check_interpreter(python: str) -> None:
    """Refuse an interpreter that cannot train.

    Raises:
        RecipeError: it does not run, or lacks a package.
    """
    try:
        # From another folder: here a checkout of the library may lie, which the training itself would not find.
        done = subprocess.run(
            [python, "-c", _PROBE, *_NEEDED],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            cwd="/",
            env=_environment(python),
        )
    except (OSError, subprocess.SubprocessError) as problem:
        reason = getattr(problem, "strerror", None) or type(problem).__name__
        raise RecipeError(f"the interpreter {python!r} does not run ({reason}); set train_python to another") from None
    missing = done.stdout.split()
    if missing:
        raise RecipeError(
            f"{missing[0]} is not installed for {python}; install mile-edge[train] there, or set train_python to an "
            "interpreter that has it"
        )


def command(order: Order, python: str, nice: int, out: Path) -> list[str]:
    """The command line that trains.

    Raises:
        RecipeError: the name is none, or the data does not exist.
    """
    if not NAME.fullmatch(order.name):
        raise RecipeError(f"the name is {order.name[:80]!r}; use lower-case letters, digits, - and _ (at most 64)")
    # Not Path's: it raises for a name that no file can have.
    if not order.data or not os.path.exists(order.data):  # noqa: PTH110
        raise RecipeError(f"the data {order.data[:200]!r} does not exist; give a labelled bag or folder on the robot")
    # It must not outlive a node that is killed: nobody would add its expert, and the next one would train beside it.
    parts = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
    parts += ["nice", "-n", str(nice), python, "-m", "mile_edge", "train", "expert", order.bundle, order.data]
    parts += ["--name", order.name, "--out", str(out), "--json"]
    for option, value in (("--sensors", order.sensor), ("--bag-domain", order.domain), ("--steps", order.steps)):
        parts += [option, str(value)] if value else []
    return parts + (["--gate-only"] if order.gate_only else [])


class Training:
    """One training under way.

    Args:
        line: from `command`.
        python: the interpreter in it, whose environment is cleared of this process's packages where it differs.
        folder: where it works.
    """

    def __init__(self, line: list[str], python: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.progress = TrainingProgress()
        self._last_words = ""
        # A session of its own: Ctrl-C in the terminal is for the node, which then ends the training itself.
        self._process = subprocess.Popen(
            line,
            cwd=folder,
            env=_environment(python),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait(self, tick: Callable[[TrainingProgress], bool], seconds: float = 0.5) -> None:
        """Wait for the end.

        Args:
            tick: called every `seconds` with the progress; True ends the training.
            seconds: between two calls.

        Raises:
            RecipeError: the training failed; the message is its own last line.
        """
        try:
            while self._process.poll() is None:
                if tick(self.progress):
                    return
                time.sleep(seconds)
        finally:
            self.stop()
        self._reader.join(timeout=5)
        if self._process.returncode:
            raise RecipeError(self._last_words or f"the training ended with status {self._process.returncode}")

    def stop(self) -> None:
        """End it, by force where it does not listen; harmless after the end."""
        for sign in (signal.SIGINT, signal.SIGKILL):
            if self._process.poll() is not None:
                return
            try:
                os.killpg(self._process.pid, sign)
                self._process.wait(_GRACE_S)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if match := _LINE.search(line):
                step, steps, loss, miou = match.groups()
                score = float("nan") if miou == "-" else float(miou)
                self.progress = TrainingProgress(int(step), int(steps), float(loss), score)
            elif line.strip():
                self._last_words = line.strip()[-500:]


def _environment(python: str) -> dict[str, str]:
    environment = dict(os.environ, PYTHONUNBUFFERED="1")
    if python != sys.executable:
        # Another interpreter must not find the packages of this one, which ROS lists in PYTHONPATH.
        environment.pop("PYTHONPATH", None)
    return environment
