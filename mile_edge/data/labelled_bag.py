"""The frames of one sensor in a bag, as a data set that trains an expert like a folder does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mile_edge.bundle import ClassLabel
from mile_edge.data.bag_frames import BagFrames
from mile_edge.data.bags import Bag
from mile_edge.data.class_map import identity_map, read_class_map
from mile_edge.data.folder import LabelledFrame
from mile_edge.data.sensors import DEFAULT_PROFILES
from mile_edge.data.topics import plan_bag
from mile_edge.errors import DataError

BAG_SUFFIXES = {".mcap", ".db3", ".bag", ".zstd"}


class LabelledBag:
    """Frames whose label topic has a label of the same stamp. The bag is read anew at every iteration.

    Args:
        path: a bag folder or file.
        classes: label space of the labels, after the class map.
        sensor: frames of this kind only: camera, depth or thermal.
        domain: only frames that the bag's `/truth/domain` says are of this domain; all where ``None``.
        class_map: YAML file from the bag's label ids to ``classes``.
        labelled: only frames that have a label; without it all, for those who need no labels.

    Raises:
        BagError: no bag, or unreadable.
        DataError: the class map does not fit.
    """

    def __init__(
        self,
        path: Path | str,
        classes: tuple[ClassLabel, ...],
        *,
        sensor: str = "camera",
        domain: str | None = None,
        class_map: Path | None = None,
        labelled: bool = True,
    ) -> None:
        self.path, self.classes, self.sensor = Path(path), classes, sensor
        self.domain = domain or self.path.stem
        self._only, self._labelled = domain, labelled
        names = [label.name for label in classes]
        self._table = read_class_map(class_map, names) if class_map else identity_map(len(names))
        with Bag.open(self.path) as bag:
            has_labels = bool(plan_bag(bag).labels)
        if labelled and not has_labels:
            raise DataError(
                f"bag {self.path} has no label topic; record mono8 class ids on a topic that ends in /label, or "
                "teach only the gate with --gate-only"
            )

    def __iter__(self) -> Iterator[LabelledFrame]:
        with Bag.open(self.path) as bag:
            frames = BagFrames(bag, plan_bag(bag), DEFAULT_PROFILES, self._table)
            for frame in frames:
                wanted = frame.kind == self.sensor and (frame.label is not None or not self._labelled)
                if wanted and self._only in (None, frame.domain):
                    yield LabelledFrame(f"{frame.topic}@{frame.time}", frame.frame, frame.label)


def is_bag(path: Path) -> bool:
    """Whether a path looks like a bag: a bag file, or a folder that holds one."""
    if path.is_dir():
        return any(file.suffix in BAG_SUFFIXES for file in path.iterdir())
    return path.suffix in BAG_SUFFIXES
