"""What a job, its worker and its end are."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mile_edge.errors import MileError

Job = TypeVar("Job")


class StoppedError(Exception):
    """Raised by `Context.check` in a worker that is asked to stop; the job counts as not done."""


@dataclass(frozen=True)
class Context:
    """What a worker may ask and say while it works on a job.

    Attributes:
        stop: whether the whole run is to end.
        tell: passes a small picklable value, such as the frames done so far, to the process that runs the jobs.
    """

    stop: Callable[[], bool]
    tell: Callable[[Any], None]

    def check(self) -> bool:
        """False, always.

        Raises:
            StoppedError: the run is to end.
        """
        if self.stop():
            raise StoppedError
        return False


@dataclass(frozen=True)
class Outcome(Generic[Job]):
    """How a job ended: done where `error` is None.

    Attributes:
        job: as it was given.
        result: what the work returned.
        error: one sentence; "stopped" for a job that the end of the run cut off.
        seconds: wall time in its worker.
        worker: which worker did it, counted from 0.
    """

    job: Job
    result: Any = None
    error: str | None = None
    seconds: float = 0.0
    worker: int = 0

    @property
    def stopped(self) -> bool:
        """The end of the run cut it off; it can be done again."""
        return self.error == STOPPED


Work = Callable[[Any, Context], Any]
Prepare = Callable[[], Work]
STOPPED = "stopped"


def do(work: Work, job: Any, context: Context) -> tuple[Any, str | None, float]:
    """Do one job here: (result, error or None, seconds); no exception of the work leaves it."""
    started = time.perf_counter()
    result, error = None, None
    try:
        result = work(job, context)
    except StoppedError:
        error = STOPPED
    except MileError as problem:
        error = str(problem)
    except MemoryError:
        error = "the worker ran out of memory; run fewer workers"
    except Exception as problem:  # one job that fails for whatever reason must not take the others with it
        error = f"{type(problem).__name__}: {problem}".splitlines()[0]
    return result, error, time.perf_counter() - started
