"""Jobs over workers: each is done once, one that dies takes no other with it, and the end comes at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mile_edge.errors import BackendError, DataError, RecipeError
from mile_edge.workers import Context, run_jobs


@dataclass(frozen=True)
class Squares:
    """Squares numbers, and falls over where the job says so; notes every preparation in a file."""

    notes: Path

    def __call__(self) -> Callable[[Any, Context], Any]:
        with self.notes.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return self.work

    def work(self, job: Any, context: Context) -> Any:
        context.tell(f"begins {job}")
        if job == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if job == "refuse":
            raise DataError("the job is no number; give one")
        if job == "break":
            raise ZeroDivisionError("oh")
        if job == "wait":
            while not context.check():
                time.sleep(0.01)
        return job * job, os.getpid()


@dataclass(frozen=True)
class Unfit:
    """A worker that can never work."""

    dies: bool = False

    def __call__(self) -> Callable[[Any, Context], Any]:
        if self.dies:
            os._exit(7)
        raise DataError("there is no network; export one")


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_is_done_once_and_what_is_dear_is_made_once_per_worker(tmp_path: Path, workers: int) -> None:
    told: list[tuple[int, str]] = []
    outcomes = list(
        run_jobs(Squares(tmp_path / "n"), range(9), workers=workers, tell=lambda job, value: told.append((job, value)))
    )
    assert {outcome.job: outcome.result[0] for outcome in outcomes} == {job: job * job for job in range(9)}
    assert len(outcomes) == 9 and all(outcome.error is None for outcome in outcomes)
    prepared = (tmp_path / "n").read_text().split()
    assert len(prepared) == len(set(prepared)) == workers
    assert {outcome.result[1] for outcome in outcomes} <= set(map(int, prepared))
    assert (str(os.getpid()) in prepared) == (workers == 1)
    assert sorted(told) == [(job, f"begins {job}") for job in range(9)]


def test_a_job_that_fails_or_kills_its_worker_takes_no_other_with_it(tmp_path: Path) -> None:
    outcomes = {o.job: o for o in run_jobs(Squares(tmp_path / "n"), ["die", 1, "refuse", 2, "break", 3], workers=2)}
    assert [outcomes[job].result[0] for job in (1, 2, 3)] == [1, 4, 9]
    assert outcomes["die"].error == "its worker was ended by SIGKILL; run fewer workers, or leave this one out"
    assert outcomes["refuse"].error == "the job is no number; give one"
    assert outcomes["break"].error == "ZeroDivisionError: oh"


@pytest.mark.parametrize("workers", [1, 2])
def test_stopping_ends_the_jobs_under_way_and_begins_no_other(tmp_path: Path, workers: int) -> None:
    begun: list[Any] = []
    outcomes = list(
        run_jobs(
            Squares(tmp_path / "n"),
            [2, "wait", "wait", "wait"],
            workers=workers,
            stop=lambda: begun.count("wait") >= workers,
            tell=lambda job, _: begun.append(job),
        )
    )
    assert [outcome.stopped for outcome in outcomes] == [False] + [True] * workers
    assert len(begun) == 1 + workers


def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    def forever() -> None:
        for _ in run_jobs(Squares(tmp_path / "n"), ["wait", "wait"], workers=2):
            pass

    child = os.fork()
    if child == 0:
        try:
            forever()
        finally:
            os._exit(1)
    deadline = time.monotonic() + 60
    while not (tmp_path / "n").exists() or len((tmp_path / "n").read_text().split()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for worker in map(int, (tmp_path / "n").read_text().split()):
        while Path(f"/proc/{worker}").exists() and ") Z" not in Path(f"/proc/{worker}/stat").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_that_can_never_work_raise_what_they_said(workers: int) -> None:
    with pytest.raises(DataError, match="there is no network"):
        list(run_jobs(Unfit(), [1, 2], workers=workers))


def test_workers_that_die_before_their_first_job_are_one_sentence() -> None:
    with pytest.raises(BackendError, match="ended with status 7 before its first job; run fewer workers"):
        list(run_jobs(Unfit(dies=True), [1, 2], workers=2))


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(RecipeError, match="0 workers"):
        run_jobs(Unfit(), [1], workers=0)


def test_the_same_jobs_run_on_a_ray_cluster(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    outcomes = list(run_jobs(Squares(tmp_path / "n"), [1, 2, "refuse", 3], workers=2, cluster="local"))
    assert sorted(o.result[0] for o in outcomes if o.error is None) == [1, 4, 9]
    assert [o.error for o in outcomes if o.error is not None] == ["the job is no number; give one"]
    with pytest.raises(DataError, match="there is no network"):
        list(run_jobs(Unfit(), [1, 2], workers=2, cluster="local"))
