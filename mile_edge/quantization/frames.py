"""Which frames set the ranges, and which other ones judge what int8 costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mile_edge.bundle import Manifest
from mile_edge.data.folder import FolderDataset
from mile_edge.errors import DataError
from mile_edge.quantization.recipe import FEWEST
from mile_edge.replay.folders import check_ids, label_table
from mile_edge.runtime.resize import resize_frames


@dataclass(frozen=True)
class Sample:
    """One frame to judge by.

    Attributes:
        folder: where it is from.
        frame: (1, H, W, 3) uint8 of the network's size.
        label: (h, w) uint8 ids of the bundle's classes, of the image's own size; ``None`` where there is none.
    """

    folder: str
    frame: np.ndarray
    label: np.ndarray | None


@dataclass(frozen=True)
class CalibrationFrames:
    """Frames for the ranges, each (1, H, W, 3) uint8, and other frames to judge by."""

    ranges: tuple[np.ndarray, ...]
    judged: tuple[Sample, ...]


def pick_frames(folders: Sequence[FolderDataset], manifest: Manifest, limit: int) -> CalibrationFrames:
    """Up to ``limit`` frames for the ranges and as many others to judge by, spread evenly over folders and drives.

    Raises:
        DataError: there are too few, or a folder's labels do not fit the bundle.
    """
    share = max(1, limit // len(folders))
    size = (manifest.network.height, manifest.network.width)
    ranges: list[np.ndarray] = []
    judged: list[Sample] = []
    for folder in folders:
        table = label_table(folder, manifest.classes)
        places = np.linspace(0, len(folder) - 1, min(2 * share, len(folder))).round().astype(int)
        for turn, place in enumerate(dict.fromkeys(places.tolist())):
            labelled = folder[place]
            frame = resize_frames(labelled.frame[None], size)
            if turn % 2 == 0:
                ranges.append(frame)
                continue
            if labelled.label is not None:
                check_ids(labelled, folder)
            label = None if labelled.label is None else table[labelled.label]
            judged.append(Sample(str(folder.path), frame, label))
    if min(len(ranges), len(judged)) < FEWEST:
        count = len(ranges) + len(judged)
        raise DataError(
            f"--data and --limit leave {count} frames, half of them to judge by; give at least {2 * FEWEST} in all"
        )
    return CalibrationFrames(tuple(ranges), tuple(judged))
