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
from typing import Any

from mile_edge.bundle.strict_json import NAME
from mile_edge.errors import RecipeError
from mile_edge.workers.limits import Limits, cores_text

_NEEDED = ("torch", "transformers", "mile_edge")
_PROBE = "import importlib.util, sys; print(*[m for m in sys.argv[1:] if importlib.util.find_spec(m) is None])"
_LINE = re.compile(r"step (\d+)/(\d+) loss (\S+) mIoU ([\d.]+|-)")
_SAYS = "mile-edge: "
_GRACE_S = 10.0
# A group of its own: Ctrl-C in the terminal is for the node, which then ends the training itself. Within the node's
# session where Python can do that: Linux may share processors among sessions (autogroup), and niceness counts only
# inside one.
_APART: dict[str, Any] = {"process_group": 0} if sys.version_info >= (3, 11) else {"start_new_session": True}


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


def command(order: Order, python: str, limits: Limits, out: Path, device: str = "cpu") -> list[str]:
    """The command line that trains.

    Args:
        order: what.
        python: the interpreter.
        limits: what it may take from the node.
        out: the expert's file; the checkpoint lies beside it.
        device: "cpu" or "cuda".

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
    # From its first instruction: the command lowers itself further once it runs, and importing it alone takes seconds.
    parts += ["nice", "-n", str(limits.nice), python, "-m", "mile_edge", "train", "expert", order.bundle, order.data]
    parts += ["--name", order.name, "--out", str(out), "--json"]
    parts += ["--cores", cores_text(limits.cores), "--nice", str(limits.nice), "--memory", str(limits.memory_mb)]
    parts += ["--device", device]
    for option, value in (("--sensors", order.sensor), ("--bag-domain", order.domain), ("--steps", order.steps)):
        parts += [option, str(value)] if value else []
    return parts + (["--gate-only"] if order.gate_only else [])


class Training:
    """One training under way.

    Args:
        line: from `command`.
        python: the interpreter in it, whose environment is cleared of this process's packages where it differs.
        folder: where it works.
        tell: called with each sentence that it says while it works.
    """

    def __init__(
        self, line: list[str], python: str, folder: Path, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.progress = TrainingProgress()
        self._last_words, self._tell = "", tell
        self._process = subprocess.Popen(
            line,
            cwd=folder,
            env=_environment(python),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            **_APART,
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
        status = self._process.returncode
        if status < 0:
            raise RecipeError(
                f"the training was ended by {signal.Signals(-status).name}, as a machine out of memory does; the same "
                "goal goes on from its last checkpoint"
            )
        if status:
            raise RecipeError(self._last_words or f"the training ended with status {status}")

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
            elif said := line.strip():
                self._last_words = said.removeprefix(_SAYS)[-500:]
                if said.startswith(_SAYS):
                    self._tell(self._last_words)


def _environment(python: str) -> dict[str, str]:
    # Where GPUs are shared through MPS, 1 is below normal; elsewhere it has no effect.
    environment = dict(os.environ, PYTHONUNBUFFERED="1", CUDA_MPS_CLIENT_PRIORITY="1")
    if python != sys.executable:
        # Another interpreter must not find the packages of this one, which ROS lists in PYTHONPATH.
        environment.pop("PYTHONPATH", None)
    return environment
