"""Jobs over a Ray cluster: one actor per worker; Ray is imported only here, and only when a cluster is asked for."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mile_edge.errors import MileError, RecipeError
from mile_edge.workers.jobs import STOPPED, Context, Job, Outcome, Prepare, do

POLL_S = 0.2


def run(
    prepare: Prepare,
    jobs: Sequence[Job],
    workers: int,
    cluster: str,
    threads: int,
    stop: Callable[[], bool],
    tell: Callable[[Job, Any], None],
) -> Iterator[Outcome[Job]]:
    """See `run_jobs`; what the work tells is passed on with its result, not before."""
    ray = _connected(cluster)
    remote = ray.remote(num_cpus=threads)(_Actor)
    team = [remote.remote(prepare) for _ in range(min(workers, max(1, len(jobs))))]
    waiting = deque(range(len(jobs)))
    busy: dict[Any, tuple[int, int]] = {}

    def give(number: int) -> None:
        place = waiting.popleft()
        busy[team[number].do.remote(jobs[place])] = (place, number)

    try:
        for number in range(len(team)):
            if waiting:
                give(number)
        while busy:
            if stop():
                for place, number in busy.values():
                    yield Outcome(jobs[place], None, STOPPED, 0.0, number)
                return
            for reference in ray.wait(list(busy), timeout=POLL_S)[0]:
                place, number = busy.pop(reference)
                try:
                    told, unfit, done = ray.get(reference)
                except ray.exceptions.RayError as problem:
                    reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
                    team[number] = remote.remote(prepare)
                    told, unfit, done = [], None, (None, f"its Ray worker was lost ({reason})", 0.0)
                if unfit is not None:
                    raise unfit
                for value in told:
                    tell(jobs[place], value)
                if waiting:
                    give(number)
                result, error, seconds = done
                yield Outcome(jobs[place], result, error, seconds, number)
    finally:
        for actor in team:
            ray.kill(actor)


def _connected(cluster: str) -> Any:
    try:
        import ray
    except ModuleNotFoundError:
        raise RecipeError("A cluster needs Ray; pip install 'mile-edge[ray]', or leave --cluster out.") from None
    if not ray.is_initialized():
        try:
            if cluster == "local":
                # Workers of this machine find modules where this process finds them, as spawned processes do.
                paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
                ray.init(log_to_driver=False, logging_level="error", runtime_env={"env_vars": paths})
            else:
                ray.init(address=cluster, log_to_driver=False, logging_level="error")
        except Exception as problem:  # Ray's connection errors share no base class
            reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
            raise RecipeError(f"The Ray cluster '{cluster}' cannot be reached ({reason}); check its address.") from None
    return ray


class _Actor:
    """A worker on the cluster; it prepares itself before its first job."""

    def __init__(self, prepare: Prepare) -> None:
        self._unfit: MileError | None = None
        try:
            self._work = prepare()
        except MileError as problem:
            self._unfit = problem

    def do(self, job: Any) -> tuple[list[Any], MileError | None, tuple[Any, str | None, float]]:
        """One job: what was told, why the worker is of no use, and how the job ended."""
        if self._unfit is not None:
            return [], self._unfit, (None, None, 0.0)
        told: list[Any] = []
        done = do(self._work, job, Context(lambda: False, told.append))
        return told[-1:], None, done
