"""Choosing where jobs run: in this process, in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from mile_edge.errors import RecipeError
from mile_edge.workers import processes, ray_cluster
from mile_edge.workers.jobs import Context, Job, Outcome, Prepare, do

# A process each, or an actor of a cluster.
MAX_WORKERS = 10_000


def run_jobs(
    prepare: Prepare,
    jobs: Sequence[Job],
    *,
    workers: int = 1,
    cluster: str | None = None,
    threads: int = 1,
    apart: bool = False,
    stop: Callable[[], bool] = lambda: False,
    tell: Callable[[Job, Any], None] = lambda _job, _value: None,
) -> Iterator[Outcome[Job]]:
    """Do every job once; yields outcomes in the order in which they come.

    A job that fails, or whose worker dies, is an outcome with an error and takes no other job with it. When `stop`
    turns True no further job begins, and those under way end as stopped.

    Args:
        prepare: called once per worker; gives the function ``work(job, context)``.
        jobs: picklable values.
        workers: how many work at the same time; 1 works in this very process.
        cluster: address of a Ray cluster, "auto" for the one this machine belongs to, or "local" for one of its own;
            None keeps to this machine without Ray.
        threads: of numerical libraries in each worker.
        apart: a process of its own even for one worker, so that no job can bring down this one.
        stop: asked several times a second.
        tell: called with a job and what its worker told.

    Raises:
        RecipeError: fewer than one worker or more than can be, or Ray is missing or cannot be reached.
        MileError: what `prepare` raised in a worker; jobs cannot be done at all.
    """
    if workers < 1 or threads < 1:
        raise RecipeError(f"{workers} workers of {threads} threads cannot do anything; give 1 or more of each.")
    if workers > MAX_WORKERS:
        raise RecipeError(f"{workers} workers are more than can be started; give at most {MAX_WORKERS}.")
    if cluster is not None:
        return ray_cluster.run(prepare, jobs, workers, cluster, threads, stop, tell)
    workers = min(workers, max(1, len(jobs)))
    if workers == 1 and not apart:
        return _here(prepare, jobs, stop, tell)
    return processes.run(prepare, jobs, workers, threads, stop, tell)


def _here(
    prepare: Prepare, jobs: Sequence[Job], stop: Callable[[], bool], tell: Callable[[Job, Any], None]
) -> Iterator[Outcome[Job]]:
    work = prepare()
    for job in jobs:
        if stop():
            return
        result, error, seconds = do(work, job, Context(stop, partial(tell, job)))
        yield Outcome(job, result, error, seconds)
