"""Cells: the pieces of work that a study is made of, each addressed by everything that its content depends on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mile_edge.bundle.files import sync_folder, write_synced
from mile_edge.errors import DataError

RESULT = "result.json"
# Raised when what a kind of cell computes changes its meaning: cells of before are then not found any more.
VERSION = 1


@dataclass(frozen=True, eq=False)
class Cell:
    """One piece of work.

    Attributes:
        kind: which work, a name in ``work.WORKS``.
        params: plain JSON values that decide the content.
        needs: (role, cell) in order; the same role may come several times.
        where: paths that the work needs and that do not decide the content; their content is told in ``params``.
    """

    kind: str
    params: Mapping[str, Any]
    needs: tuple[tuple[str, Cell], ...] = ()
    where: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """Its address: 20 hexadecimal digits of a SHA-256."""
        content = [VERSION, self.kind, self.params, [(role, cell.key) for role, cell in self.needs]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]

    @property
    def title(self) -> str:
        """What a person is shown."""
        return f"{self.kind} {self.params.get('title', self.key)}"


@dataclass(frozen=True)
class Job:
    """A cell as a worker gets it: paths in place of cells.

    Attributes:
        needs: role to the folders of the cells that were needed, in order.
        folder: where the finished cell will lie.
        check: to be called now and then; raises when the run is to end.
    """

    kind: str
    params: Mapping[str, Any]
    needs: Mapping[str, tuple[Path, ...]]
    where: Mapping[str, str]
    folder: Path
    check: Callable[[], object] = bool

    @property
    def checkpoint(self) -> Path:
        """Where a training keeps what it resumes from after a kill."""
        return self.folder.with_name(self.folder.name + ".checkpoint")

    def report(self, _progress: object) -> None:
        """What a training calls after every step: the run may be over."""
        self.check()

    def one(self, role: str) -> Path:
        """The folder of the only cell in this role."""
        (path,) = self.needs[role]
        return path


@dataclass(frozen=True)
class Store:
    """The folder that holds finished cells, each a folder named by its key.

    A cell is written aside and renamed when it is complete, so whatever is there is whole; a killed run leaves nothing
    but what lies aside, and the next run of the same cell takes that away.
    """

    folder: Path

    def path(self, cell: Cell) -> Path:
        """Where a cell lies, finished or not."""
        return self.folder / cell.key

    def has(self, cell: Cell) -> bool:
        """Whether it is finished."""
        return self.has_key(cell.key)

    def has_key(self, key: str) -> bool:
        """Whether the cell of this key is finished."""
        return (self.folder / key / RESULT).is_file()

    def result(self, cell: Cell) -> dict[str, Any]:
        """What a finished cell's work returned."""
        return read_result(self.path(cell))

    def job(self, cell: Cell) -> Job:
        """The cell for a worker."""
        needs: dict[str, tuple[Path, ...]] = {}
        for role, needed in cell.needs:
            needs[role] = (*needs.get(role, ()), self.path(needed).resolve())
        return Job(cell.kind, dict(cell.params), needs, dict(cell.where), self.path(cell).resolve())


def read_result(folder: Path) -> dict[str, Any]:
    """The result of a finished cell.

    Raises:
        DataError: it is not there or damaged.
    """
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cell {folder} is damaged ({error}); remove that folder and run the study again") from None
    return dict(result)


@contextlib.contextmanager
def written(job: Job, result: dict[str, Any]) -> Any:
    """A folder to fill, which becomes the cell, with ``result`` beside what was put there, when the block ends well."""
    aside = job.folder.with_name(f"{job.folder.name}.aside")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    yield aside
    for file in aside.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
    write_synced(aside / RESULT, json.dumps(result).encode())
    shutil.rmtree(job.folder, ignore_errors=True)
    aside.replace(job.folder)
    sync_folder(job.folder.parent)
    job.checkpoint.unlink(missing_ok=True)


def closure(cells: Iterable[Cell]) -> dict[str, Cell]:
    """Every cell and all that they need, by key, each after what it needs."""
    found: dict[str, Cell] = {}

    def visit(cell: Cell) -> None:
        if cell.key not in found:
            for _, needed in cell.needs:
                visit(needed)
            found[cell.key] = cell

    for cell in cells:
        visit(cell)
    return found
