"""Held-out frames as the gate sees them, by the expert that is right for them, in groups of frames that are alike."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mile_edge.calibration.reader import GateReader
from mile_edge.data.folder import FolderDataset
from mile_edge.replay.gate import right_expert

_LAST_NUMBER = re.compile(r"[_-]?[a-z]*\d+$")


@dataclass(frozen=True)
class Seen:
    """Frames of one domain.

    Attributes:
        values: (N, D) features or (N, E) distances.
        groups: (N,) int, the same for frames of one place.
    """

    values: np.ndarray
    groups: np.ndarray


def look(
    reader: GateReader, folders: Sequence[FolderDataset], alike: int, report: Callable[[int], None]
) -> tuple[dict[str, Seen], dict[str, Seen]]:
    """All frames of folders, those of known domains by expert and those of unknown ones by domain.

    Successive frames of one recording (what their names begin with), ``alike`` of them, are a group.
    """
    values: dict[tuple[bool, str], list[np.ndarray]] = defaultdict(list)
    groups: dict[tuple[bool, str], list[int]] = defaultdict(list)
    numbers: dict[tuple[int, str, int], int] = {}
    experts = reader.bundle.choices()
    done = 0
    for place, folder in enumerate(folders):
        right = right_expert(experts, folder.sensor, folder.domain)
        key = (right is not None, right or folder.domain)
        frames: dict[str, int] = defaultdict(int)
        for sample in folder:
            recording = _LAST_NUMBER.sub("", sample.name)
            group = (place, recording, frames[recording] // alike)
            frames[recording] += 1
            values[key].append(reader.see(sample.frame))
            groups[key].append(numbers.setdefault(group, len(numbers)))
            done += 1
            report(done)
    found = {key: Seen(np.stack(of), np.array(groups[key])) for key, of in values.items()}
    known, unknown = (
        {name: seen for (is_known, name), seen in found.items() if is_known == wanted} for wanted in (1, 0)
    )
    return known, unknown
