"""A task's frames as a cell: rendered by the procedural world, or chosen from folders that stay where they are."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mile_edge.bundle import ClassLabel
from mile_edge.data.folder import VOID, FolderDataset, LabelledFrame
from mile_edge.data.world import WORLD_CLASSES, write_folder
from mile_edge.errors import DataError
from mile_edge.studies.cells import Cell, Job, read_result, written
from mile_edge.studies.plan import StudyRecipe, TaskPlan, domains_of

_FRAMES_PER_STREET = 4
# Streets of tests have other seeds than streets of training, whatever the task.
_TEST_STREETS = 1_000_000


@dataclass(frozen=True)
class Task:
    """One task of a stream: its cells, and what they show.

    Attributes:
        train, test: cells of data.
        classes: its label space.
    """

    name: str
    train: Cell
    test: Cell
    sensor: str
    domain: str
    classes: tuple[ClassLabel, ...]


@dataclass
class Frames:
    """Frames of one or several data cells in one label space; a :class:`mile_edge.data.folder.Dataset`."""

    path: Path
    classes: tuple[ClassLabel, ...]
    sensor: str
    domain: str
    frames: tuple[LabelledFrame, ...]

    def __iter__(self) -> Iterator[LabelledFrame]:
        """Every frame once."""
        return iter(self.frames)

    def in_space(self, classes: tuple[ClassLabel, ...]) -> Frames:
        """The same frames with labels in another label space that holds at least these classes, by name."""
        if classes == self.classes:
            return self
        table = class_table(self.classes, classes)
        frames = tuple(LabelledFrame(f.name, f.frame, None if f.label is None else table[f.label]) for f in self.frames)
        return Frames(self.path, classes, self.sensor, self.domain, frames)


def class_table(source: tuple[ClassLabel, ...], target: tuple[ClassLabel, ...]) -> np.ndarray:
    """(256,) uint8: the target's id of each of the source's ids by name; void; 254 for a class it lacks."""
    names = [label.name for label in target]
    table = np.full(256, 254, np.uint8)
    table[VOID] = VOID
    for place, label in enumerate(source):
        if label.name in names:
            table[place] = names.index(label.name)
    return table


def union(*spaces: tuple[ClassLabel, ...]) -> tuple[ClassLabel, ...]:
    """All classes by name, in the order in which they come first."""
    found: dict[str, ClassLabel] = {}
    for space in spaces:
        for label in space:
            found.setdefault(label.name, label)
    return tuple(found.values())


def make_task(name: str, plan: TaskPlan, recipe: StudyRecipe, folder: Path) -> Task:
    """A task's cells.

    Args:
        folder: that paths of the recipe are relative to.

    Raises:
        DataError: the folders are absent or hold no labelled frames.
    """
    counts = {"train": plan.train_frames or recipe.train_frames, "test": plan.test_frames or recipe.test_frames}
    if plan.world is not None:
        domains = domains_of(plan)
        street = zlib.crc32(f"{plan.sensor} {' '.join(domains)}".encode()) % 100_000
        cells = {}
        for part, number in (("train", street), ("test", _TEST_STREETS + street)):
            params = {
                "title": f"{name} {part}",
                "domains": list(domains),
                "sensor": plan.sensor,
                "frames": counts[part],
                "street": number,
                "size": list(recipe.size),
            }
            cells[part] = Cell("render", params)
        classes = tuple(ClassLabel(label, color) for label, color in WORLD_CLASSES)
        domain = domains[0] if len(domains) == 1 else "mixed"
        return Task(name, cells["train"], cells["test"], plan.sensor, domain, classes)
    folders = {part: FolderDataset(folder / str(getattr(plan, part))) for part in counts}
    cells = {part: _linked(f"{name} {part}", folders[part], counts[part]) for part in counts}
    if folders["train"].classes != folders["test"].classes:
        raise DataError(f"task {name!r}: train and test folder have different classes; give both one classes.yaml")
    first = folders["train"]
    return Task(name, cells["train"], cells["test"], first.sensor, plan.domain or name, first.classes)


def _linked(title: str, data: FolderDataset, count: int) -> Cell:
    chosen = _evenly(len(data), count)
    digest = hashlib.sha256(repr((data.classes, data.sensor, data.profile)).encode())
    for place in chosen:
        for file in data.files(place):
            digest.update(file.name.encode() + zlib.crc32(file.read_bytes()).to_bytes(4, "little"))
    return Cell(
        "link",
        {"title": title, "content": digest.hexdigest(), "chosen": chosen},
        (),
        {"folder": str(data.path.resolve())},
    )


def _evenly(length: int, count: int) -> list[int]:
    return sorted({int(place) for place in np.linspace(0, length - 1, min(count, length)).round()})


def render(job: Job) -> None:
    """Render a data set of the world."""
    params: Any = job.params
    streets = -(-params["frames"] // _FRAMES_PER_STREET)
    seeds = range(params["street"], params["street"] + streets)
    with written(job, {"frames": params["frames"]}) as folder:
        write_folder(
            folder / "data",
            seeds,
            _FRAMES_PER_STREET,
            params["domains"],
            params["sensor"],
            tuple(params["size"]),
            limit=params["frames"],
        )


def link(job: Job) -> None:
    """Note which frames of a folder are meant."""
    with written(job, {"folder": job.where["folder"], "chosen": list(job.params["chosen"])}):
        pass


def read_frames(folder: Path) -> Frames:
    """The frames of a data cell.

    Raises:
        DataError: the folder that was linked is gone.
    """
    result = read_result(folder)
    if "folder" not in result:
        data = FolderDataset(folder / "data")
        places = list(range(len(data)))
    else:
        data, places = FolderDataset(Path(result["folder"])), result["chosen"]
    return Frames(folder, data.classes, data.sensor, data.domain, tuple(data[place] for place in places))
