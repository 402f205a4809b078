"""Jobs over processes of this machine, each with its own interpreter; a worker that dies costs only its job."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from typing import Any

from mile_edge.errors import BackendError, MileError
from mile_edge.workers.jobs import STOPPED, Context, Job, Outcome, Prepare, do

POLL_S = 0.2
# How long workers may take to notice that the run is to end before they are ended.
GRACE_S = 15.0
_READY, _UNFIT, _TOLD, _DONE = "ready", "unfit", "told", "done"
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass
class _Worker:
    number: int
    process: BaseProcess
    connection: Connection
    ready: bool = False
    place: int | None = None
    started: float = 0.0


def run(
    prepare: Prepare,
    jobs: Sequence[Job],
    workers: int,
    threads: int,
    stop: Callable[[], bool],
    tell: Callable[[Job, Any], None],
) -> Iterator[Outcome[Job]]:
    """See `run_jobs`."""
    # Not forked: ONNX Runtime and BLAS have threads, whose locks a fork would copy in whatever state they are.
    spawn = multiprocessing.get_context("spawn")
    stopping = spawn.Event()
    waiting = deque(range(len(jobs)))
    team: list[_Worker] = []

    def hire(number: int) -> None:
        team.append(_start(spawn, number, prepare, stopping, threads))

    try:
        for number in range(workers):
            hire(number)
        deadline = None
        while waiting or any(worker.place is not None for worker in team):
            if deadline is None and stop():
                stopping.set()
                waiting.clear()
                deadline = time.monotonic() + GRACE_S
            if deadline is not None and time.monotonic() > deadline:
                return
            for worker in _heard(team):
                place = worker.place
                try:
                    kind, value = worker.connection.recv()
                except (EOFError, OSError):
                    team.remove(worker)
                    reason = _end_of(worker)
                    if not worker.ready:
                        raise BackendError(f"A worker {reason} before its first job; run fewer workers.") from None
                    if place is not None:
                        seconds = time.perf_counter() - worker.started
                        error = f"its worker {reason}; run fewer workers, or leave this one out"
                        yield Outcome(jobs[place], None, error, seconds, worker.number)
                    if waiting:
                        hire(worker.number)
                    continue
                if kind == _UNFIT:
                    raise value
                if kind == _TOLD and place is not None:
                    tell(jobs[place], value)
                    continue
                worker.ready, worker.place = True, None
                if waiting:
                    worker.place, worker.started = waiting.popleft(), time.perf_counter()
                    with contextlib.suppress(OSError):  # a worker that has just died is heard at the next turn
                        worker.connection.send(jobs[worker.place])
                if kind == _DONE and place is not None:
                    result, failed, seconds = value
                    yield Outcome(jobs[place], result, failed, seconds, worker.number)
    finally:
        stopping.set()
        _dismiss(team)


def _start(spawn: Any, number: int, prepare: Prepare, stopping: Event, threads: int) -> _Worker:
    ours, theirs = spawn.Pipe()
    process = spawn.Process(
        target=_serve, args=(theirs, prepare, stopping, os.getpid()), name=f"worker-{number}", daemon=True
    )
    with _environment({name: str(threads) for name in _THREADS}):
        process.start()
    theirs.close()
    return _Worker(number, process, ours)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    # Numerical libraries read these when they are imported, which in a spawned worker comes before any code of ours.
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _heard(team: Sequence[_Worker]) -> list[_Worker]:
    heard = set(map(id, wait([worker.connection for worker in team], POLL_S)))
    return [worker for worker in team if id(worker.connection) in heard]


def _end_of(worker: _Worker) -> str:
    worker.process.join(GRACE_S)
    status = worker.process.exitcode
    if status is not None and status < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def _dismiss(team: Sequence[_Worker]) -> None:
    for worker in team:
        worker.connection.close()
    for worker in team:
        worker.process.join(0.5 if worker.place is not None else 2.0)
        if worker.process.is_alive():
            worker.process.terminate()
        worker.process.join(GRACE_S)
        if worker.process.is_alive():
            worker.process.kill()


def _serve(connection: Connection, prepare: Prepare, stopping: Event, parent: int) -> None:
    # Ctrl-C reaches the whole group: who runs the jobs decides how it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def stop() -> bool:
        # A worker whose master was killed must not go on beside the next run.
        return stopping.is_set() or os.getppid() != parent

    def tell(value: Any) -> None:
        connection.send((_TOLD, value))

    with contextlib.suppress(OSError, EOFError):
        try:
            work = prepare()
        except MileError as problem:
            connection.send((_UNFIT, problem))
            return
        connection.send((_READY, None))
        while True:
            job = connection.recv()
            done = do(work, job, Context(stop, tell))
            connection.send((_DONE, done))
            if done[1] == STOPPED:
                return
