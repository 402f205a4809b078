"""Frames of several sensors that show the same moment: folder data sets side by side, matched by file name.

``mile-edge world OUT --sensor all`` writes such a folder: OUT/camera, OUT/depth and OUT/thermal, each a data set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mile_edge.bundle import ClassLabel
from mile_edge.data.folder import FolderDataset
from mile_edge.errors import DataError


@dataclass(frozen=True)
class Moment:
    """One moment as several sensors saw it.

    Attributes:
        name: file name without its suffix.
        frames: folder name to (H, W, 3) uint8.
        label: (H, W) uint8 class ids, 255 where unlabelled; ``None`` where no folder has one. The first folder's.
    """

    name: str
    frames: dict[str, np.ndarray]
    label: np.ndarray | None


class AlignedFolders:
    """The moments that all sensors of a drive saw, read from disk when asked for.

    Args:
        path: a folder whose subfolders are data sets with ``images/``, one per sensor.

    Attributes:
        folders: name to data set, in the order of names.
        classes, domain: of the first of them.

    Raises:
        DataError: there is no such subfolder, they have no file name in common, or their label spaces differ.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        children = sorted(self.path.iterdir()) if self.path.is_dir() else []
        self.folders = {child.name: FolderDataset(child) for child in children if (child / "images").is_dir()}
        if not self.folders:
            raise DataError(
                f"{self.path} has no subfolder with images/; give a drive with one data set per sensor, such as "
                "mile-edge world --sensor all writes"
            )
        first, *others = self.folders.values()
        for folder in others:
            if folder.classes != first.classes:
                raise DataError(f"{folder.path} has other classes than {first.path}; sensors of a drive share one list")
        self.classes: tuple[ClassLabel, ...] = first.classes
        self.domain = first.domain
        places = [{name: place for place, name in enumerate(folder.names)} for folder in self.folders.values()]
        self._places = [
            (name, [place[name] for place in places]) for name in places[0] if all(name in place for place in places)
        ]
        if not self._places:
            raise DataError(f"the sensors in {self.path} have no file name in common; name frames of a moment alike")

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Moment:
        name, places = self._places[index]
        samples = {sensor: folder[place] for (sensor, folder), place in zip(self.folders.items(), places, strict=True)}
        sizes = {sample.frame.shape[:2] for sample in samples.values()}
        if len(sizes) > 1:
            raise DataError(f"{name} of {self.path} has frames of several sizes; resize them to that of the labels")
        labels = (sample.label for sample in samples.values() if sample.label is not None)
        return Moment(name, {sensor: sample.frame for sensor, sample in samples.items()}, next(labels, None))

    def __iter__(self) -> Iterator[Moment]:
        return (self[index] for index in range(len(self)))
