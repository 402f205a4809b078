"""Running a study's cells: workers help themselves from the store, so no cell waits for a round of others to end.

Whoever is free takes the cell that most others wait for, of those whose needs are finished, and holds its lock while it
works. The kernel drops the lock with its process, so a cell of a killed worker is free again, and two studies over one
folder of cells share the work. Where workers run is :func:`mile_edge.workers.run_jobs`'s affair.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mile_edge.errors import MileError
from mile_edge.studies.cells import Cell, Job, Store, closure
from mile_edge.workers import Context, Work, run_jobs

_POLL_S = 0.3


@dataclass(frozen=True)
class Progress:
    """How far a study is: cells done and in all, and the one that ended last."""

    done: int
    total: int
    last: str


@dataclass(frozen=True)
class Errand:
    """A cell as a worker gets it.

    Attributes:
        title: what a person is shown.
        needs: keys of cells that must be finished first.
    """

    key: str
    title: str
    needs: tuple[str, ...]
    job: Job


@dataclass(frozen=True)
class Helper:
    """What a worker does: errands, in this order of preference, until none is left."""

    store: Store
    errands: tuple[Errand, ...]

    def __call__(self) -> Work:
        """See :class:`mile_edge.workers.Prepare`: torch is loaded once for each worker."""
        import torch

        from mile_edge.studies.work import WORKS

        torch.set_num_threads(1)

        def help_out(_number: int, context: Context) -> None:
            left = list(self.errands)
            while left := [errand for errand in left if not self.store.has_key(errand.key)]:
                context.check()
                for errand in left:
                    if all(map(self.store.has_key, errand.needs)) and self._do(errand, WORKS, context):
                        break
                else:
                    time.sleep(_POLL_S)

        return help_out

    def _do(self, errand: Errand, works: Mapping[str, Callable[[Job], None]], context: Context) -> bool:
        """Do one errand; False where another worker has it in hand."""
        with _claimed(self.store.folder / f"{errand.key}.lock") as mine:
            if not mine or self.store.has_key(errand.key):
                return False
            try:
                works[errand.job.kind](replace(errand.job, check=context.check))
            except MileError as error:
                raise MileError(f"{errand.title}: {error}") from None
        context.tell(errand.title)
        return True


def run_cells(
    cells: Iterable[Cell],
    store: Store,
    *,
    workers: int,
    cluster: str | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> None:
    """Bring all cells into the store; those that are there already cost nothing.

    Args:
        workers: how many work at the same time, each with one thread.
        cluster: address of a Ray cluster; the folder of cells must be the same path on all its machines.

    Raises:
        MileError: a cell could not be computed; it is named. What was finished stays.
    """
    wanted = _wanted(cells, store)
    heights = _heights(wanted)
    order = sorted(wanted.values(), key=lambda cell: -heights[cell.key])
    errands = tuple(
        Errand(cell.key, cell.title, tuple(needed.key for _, needed in cell.needs), store.job(cell)) for cell in order
    )
    total = len(closure(cells))
    report(Progress(total - len(errands), total, ""))
    if not errands:
        return
    failed: list[str] = []

    def tell(_number: int, title: str) -> None:
        done = total - sum(not store.has_key(errand.key) for errand in errands)
        report(Progress(done, total, title))

    helpers = range(min(workers, len(errands)))
    for outcome in run_jobs(
        Helper(store, errands), helpers, workers=workers, cluster=cluster, stop=lambda: bool(failed), tell=tell
    ):
        if outcome.error and not outcome.stopped:
            failed.append(outcome.error)
    if failed:
        raise MileError(failed[0])


@contextlib.contextmanager
def _claimed(path: Path) -> Iterator[bool]:
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)


def _wanted(cells: Iterable[Cell], store: Store) -> dict[str, Cell]:
    """Missing cells, and what is missing of their needs: what only finished cells need is not made again."""
    found: dict[str, Cell] = {}

    def visit(cell: Cell) -> None:
        if cell.key not in found and not store.has(cell):
            found[cell.key] = cell
            for _, needed in cell.needs:
                visit(needed)

    for cell in cells:
        visit(cell)
    return found


def _heights(cells: Mapping[str, Cell]) -> dict[str, int]:
    """How long the longest chain of cells is that waits for each."""
    heights = dict.fromkeys(cells, 0)
    # Needed cells come before those that need them in a closure: backwards, every height is final when it is read.
    for cell in reversed(list(closure(cells.values()).values())):
        for _, needed in cell.needs:
            if needed.key in heights and cell.key in heights:
                heights[needed.key] = max(heights[needed.key], heights[cell.key] + 1)
    return heights
