"""One input at a time under limits of time and memory; what comes out other than a result or a `MileError` is kept."""

from __future__ import annotations

import contextlib
import random
import resource
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from mile_edge.errors import MileError

REPOSITORY = Path(__file__).parents[2]
REFERENCE = REPOSITORY / "bundles" / "reference"
# Of processor time, not of the clock: on a busy machine the clock says nothing about a parser.
SECONDS = 10.0
MEMORY = 1 << 30
_GRACE_S = 60


class TooSlowError(BaseException):
    """An input took more processor time than any input may; no `except Exception` swallows it."""


@dataclass(frozen=True)
class Target:
    """A parser and where its inputs come from.

    Attributes:
        name: as it is listed.
        make: the dice to an input's bytes.
        parse: what meets the bytes; it may use the folder, which is empty at the start of a batch.
    """

    name: str
    make: Callable[[random.Random], bytes]
    parse: Callable[[bytes, Path], Any]


@dataclass(frozen=True)
class Batch:
    """Inputs `first` to `first + count` of a target under a seed."""

    target: str
    seed: int
    first: int
    count: int


@dataclass
class Findings:
    """What a batch came to: how many inputs were taken, refused with a `MileError`, and broke something."""

    accepted: int = 0
    refused: int = 0
    broken: list[str] = field(default_factory=list)


def dice_of(batch: Batch, index: int) -> random.Random:
    """The dice of one input, so that any one of them can be made again."""
    return random.Random(f"{batch.target}/{batch.seed}/{index}")


@contextlib.contextmanager
def limits(memory: int = MEMORY) -> Iterator[None]:
    """Allow this process `memory` bytes of address space more than it has now; refusals come as MemoryError."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def watch(target: Target, batch: Batch, folder: Path, failures: Path) -> Findings:
    """Feed a batch to its target; every input that breaks something is saved in `failures`."""
    findings = Findings()
    current = failures / f"current-{batch.target}-{batch.seed}-{batch.first}"
    with _processor_time(batch.count * 1.0 + SECONDS + _GRACE_S):
        for index in range(batch.first, batch.first + batch.count):
            data = target.make(dice_of(batch, index))
            current.write_bytes(data)
            reason = _feed(target, data, folder, findings)
            if reason is not None:
                kept = failures / f"{batch.target}-{batch.seed}-{index}"
                kept.write_bytes(data)
                kept.with_suffix(".txt").write_text(reason)
                findings.broken.append(f"{kept.name}: {reason.strip().splitlines()[-1]}")
    current.unlink(missing_ok=True)
    return findings


@contextlib.contextmanager
def _processor_time(seconds: float) -> Iterator[None]:
    """Allow this process so much processor time more; the process may be a test run that goes on afterwards."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    before = resource.getrlimit(resource.RLIMIT_CPU)
    handler = signal.signal(signal.SIGPROF, _too_slow)
    # A loop inside a C library hears no exception: the kernel ends the process, and the current input tells why.
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime + seconds), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CPU, before)
        signal.signal(signal.SIGPROF, handler)


def _feed(target: Target, data: bytes, folder: Path, findings: Findings) -> str | None:
    try:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        with warnings.catch_warnings(), limits():
            warnings.simplefilter("ignore")
            target.parse(data, folder)
        findings.accepted += 1
    except MileError as error:
        findings.refused += 1
        text = str(error)
        return None if len(text.splitlines()) == 1 and len(text) < 4000 else f"not one sentence: {text[:500]!r}"
    except TooSlowError:
        return f"more than {SECONDS} s of processor time\n" + traceback.format_exc()
    except BaseException:  # whatever it is, it is a finding
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return None


def _too_slow(_number: int, _frame: FrameType | None) -> None:
    raise TooSlowError
