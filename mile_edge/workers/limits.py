"""What a training may take from a machine that has other work: cores, processor time and memory. Needs no torch."""

from __future__ import annotations

import _thread
import contextlib
import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mile_edge.errors import RecipeError

_PIECE = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")
_LOOK_S = 0.1
# Until a training that was asked to end is ended by force.
_GRACE_S = 3.0
_MB = 1_000_000


@dataclass(frozen=True)
class Limits:
    """What may be taken.

    Attributes:
        cores: numbers of the processors; empty for all.
        nice: 0 to 19; 19 runs in what nobody else wants.
        memory_mb: megabytes of memory of its own, on the host; 0 for any.
    """

    cores: tuple[int, ...] = ()
    nice: int = 0
    memory_mb: int = 0


def read_cores(text: str) -> tuple[int, ...]:
    """Processors as in ``taskset -c``: ``0,2-3``.

    Raises:
        RecipeError: that is no list, or names one that this process may not use.
    """
    usable = sorted(os.sched_getaffinity(0))
    wanted: set[int] = set()
    for piece in text.split(","):
        match = _PIECE.fullmatch(piece.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if last < first:
            raise RecipeError(f"cores are {text[:80]!r}; give numbers and ranges such as 0,2-3")
        wanted |= set(range(first, last + 1))
    if strange := sorted(wanted - set(usable)):
        raise RecipeError(f"core {strange[0]} is none that may be used here; use some of {cores_text(usable)}")
    return tuple(sorted(wanted))


def cores_text(cores: Sequence[int]) -> str:
    """Processors as :func:`read_cores` takes them."""
    return ",".join(map(str, cores))


def cores_for_training() -> tuple[int, ...]:
    """The last quarter of the processors that this process may use, at least one: the others stay for its own work."""
    usable = sorted(os.sched_getaffinity(0))
    return tuple(usable[-max(1, len(usable) // 4) :])


def memory_for_training() -> int:
    """Half of the machine's memory, in megabytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 // _MB


@contextlib.contextmanager
def within(limits: Limits) -> Iterator[None]:
    """Keep this process within limits; cores and priority stay what they become, the memory is watched meanwhile.

    To be entered before torch is imported, whose threads are as many as there are cores then.

    Raises:
        RecipeError: the memory was not enough; also in place of a ``MemoryError``.
    """
    step_aside(limits)
    watch = _MemoryWatch(limits.memory_mb) if limits.memory_mb else None
    try:
        yield
    except (KeyboardInterrupt, MemoryError) as end:
        if watch is not None and watch.sentence:
            raise RecipeError(watch.sentence) from None
        if isinstance(end, MemoryError):
            raise RecipeError("the machine has no more memory; give a smaller --batch or fewer frames") from None
        raise
    finally:
        if watch is not None:
            watch.stop()


def step_aside(limits: Limits) -> None:
    """Take this process with all its threads to its cores and down to its priority.

    Raises:
        RecipeError: the system refuses the cores.
    """
    lower_threads("self", limits)
    if limits.nice:
        _lower_session(limits.nice)
    if limits.memory_mb:
        # Where the machine runs out of memory all the same, the kernel shall end the training and not the robot's work.
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")


def lower_threads(process: int | str, limits: Limits) -> None:
    """Take all threads of a process to its cores and down to its priority.

    Raises:
        RecipeError: the system refuses the cores.
    """
    for thread in map(int, os.listdir(f"/proc/{process}/task")):  # noqa: PTH208 (names, no paths)
        with contextlib.suppress(ProcessLookupError):
            _one_thread(thread, limits)


def _one_thread(thread: int, limits: Limits) -> None:
    if limits.cores:
        try:
            os.sched_setaffinity(thread, limits.cores)
        except ProcessLookupError:
            raise
        except OSError as problem:
            cores = cores_text(limits.cores)
            raise RecipeError(f"cores {cores} are refused ({problem.strerror}); give others with --cores") from None
    if not limits.nice:
        return
    if os.getpriority(os.PRIO_PROCESS, thread) < limits.nice:
        os.setpriority(os.PRIO_PROCESS, thread, limits.nice)
    # A waking thread of ordinary policy takes the processor from an idle one at once, from a nice one only in its turn.
    policy = os.SCHED_IDLE if limits.nice == 19 else os.SCHED_BATCH
    # Some containers forbid it; niceness is left then.
    with contextlib.suppress(PermissionError):
        if os.sched_getscheduler(thread) in (os.SCHED_OTHER, os.SCHED_BATCH):
            os.sched_setscheduler(thread, policy, os.sched_param(0))


def _lower_session(nice: int) -> None:
    """Lower a session of its own: where Linux groups by session (autogroup), niceness counts only within one."""
    # Not a session that others are in, such as a terminal's.
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(nice))


def memory_mb(process: str = "self") -> int:
    """Megabytes that a process has of its own: resident or swapped, without what it maps from files."""
    status = Path(f"/proc/{process}/status").read_text()
    kilobytes = re.findall(r"^(?:RssAnon|RssShmem|VmSwap):\s+(\d+) kB$", status, re.MULTILINE)
    return sum(map(int, kilobytes)) * 1024 // _MB


class _MemoryWatch:
    """Ends the process when it has more memory than it may.

    It looks at what is really there rather than setting a limit of the kernel's: RLIMIT_AS and RLIMIT_DATA count
    address space, of which torch, its thread pools and above all CUDA reserve gigabytes that they never touch, and an
    allocation refused inside oneDNN or OpenMP ends in an abort rather than in a sentence. A control group would need
    rights that a robot's user and a container often lack. The price is a tenth of a second in which it may grow on.
    """

    def __init__(self, most: int) -> None:
        self.sentence = ""
        self._most = most
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(_LOOK_S):
            found = memory_mb()
            if found <= self._most:
                continue
            self.sentence = (
                f"the training takes {found} MB of memory and may take {self._most} (--memory, the node's "
                "train_memory); allow more, or give fewer frames or a smaller --batch"
            )
            _thread.interrupt_main()
            # Long work outside Python, or Ctrl-C that is ignored as behind a shell's `&`: everything that this process
            # writes is put in place by a rename, so an end at any moment is safe.
            if not self._stopped.wait(_GRACE_S):
                sys.stderr.write(f"\nmile-edge: {self.sentence}\n")
                sys.stderr.flush()
                os._exit(2)
