"""Scores on labelled folders instead of bags: the same masks, the same gate, frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mile_edge.bundle import ClassLabel
from mile_edge.data.folder import FolderDataset, LabelledFrame
from mile_edge.errors import DataError
from mile_edge.replay.gate import GateScores
from mile_edge.replay.scores import VOID, LabelScores, class_iou, mean_iou

# One (H, W, 3) uint8 frame and its sensor kind to a mask (H, W) uint8 and the name of the expert that made it.
Predictor = Callable[[np.ndarray, str], tuple[np.ndarray, str]]


def evaluate_folders(
    predict: Predictor,
    folders: Sequence[FolderDataset],
    classes: Sequence[ClassLabel],
    gate: GateScores | None = None,
    report: Callable[[int], None] = lambda _: None,
    before: Callable[[FolderDataset], None] = lambda _: None,
) -> dict[str, Any]:
    """mIoU overall and by folder, and how often the gate was right.

    Args:
        predict: what makes the masks.
        folders: labelled or unlabelled; unlabelled frames count for the gate only.
        classes: label space of the masks; labels are matched to it by class name.
        gate: scores to fill; none for predictors without a gate.
        report: called after each frame with the number done.
        before: called before a folder's first frame.

    Raises:
        DataError: a folder has no class in common with the masks, or a label holds ids beyond its classes.
    """
    scores = LabelScores(len(classes))
    done = 0
    notes: list[str] = []
    by_folder: dict[str, dict[str, Any]] = {}
    for folder in folders:
        before(folder)
        names, translate = str(folder.path), label_table(folder, classes)
        for sample in folder:
            mask, expert = predict(sample.frame, folder.sensor)
            if gate is not None:
                gate.add(folder.sensor, folder.domain, expert)
            if sample.label is not None:
                check_ids(sample, folder)
                scores.add(folder.sensor, names, translate[sample.label], mask)
            done += 1
            report(done)
        counts = scores.of(domain=names)
        notes += folder_notes(folder, classes)
        by_folder[names] = {
            "domain": folder.domain,
            "sensor": folder.sensor,
            "frames": len(folder),
            "labelled": folder.labelled,
            "miou": _rounded(mean_iou(counts)),
            "iou": {c.name: _rounded(v) for c, v in zip(classes, class_iou(counts), strict=True) if not np.isnan(v)},
        }
    account: dict[str, Any] = {"frames": done, "miou": _rounded(mean_iou(scores.of())), "folders": by_folder}
    account["notes"] = list(dict.fromkeys(notes))
    if gate is not None:
        pairs = {f"{right} -> {chosen}": count for (right, chosen), count in sorted(gate.confusion.items())}
        account["gate"] = {"accuracy": _rounded(gate.accuracy()), "confusion": pairs, "reason": gate.reason()}
    return account


def folder_notes(folder: FolderDataset, classes: Sequence[ClassLabel]) -> list[str]:
    """A sentence for each thing that a folder's score leaves out."""
    notes, known = list(folder.notes), {label.name for label in classes}
    missing = len(folder) - folder.labelled
    if missing:
        notes.append(f"{missing} of {len(folder)} frames in {folder.path} have no label and are in no mIoU")
    strange = [label.name for label in folder.classes if label.name not in known]
    if strange and folder.labelled:
        notes.append(f"the masks do not know {', '.join(strange)} of {folder.path}; such pixels count as unlabelled")
    return notes


def label_table(folder: FolderDataset, classes: Sequence[ClassLabel]) -> np.ndarray:
    """(256,) uint8 from the folder's class ids to the masks'; classes the masks do not know become void.

    Raises:
        DataError: the masks know none of the folder's classes.
    """
    table = np.full(256, VOID, np.uint8)
    ids = {label.name: index for index, label in enumerate(classes)}
    for index, label in enumerate(folder.classes):
        table[index] = ids.get(label.name, VOID)
    if folder.classes and (table == VOID).all():
        theirs = ", ".join(label.name for label in folder.classes)
        raise DataError(
            f"{folder.path} is labelled with {theirs}, none of which the masks know; use data of this label space"
        )
    return table


def check_ids(sample: LabelledFrame, folder: FolderDataset) -> None:
    """Refuse a label with ids that ``classes.yaml`` does not list: as void they would only make the score too good."""
    counts = np.bincount(np.asarray(sample.label).reshape(-1), minlength=256)
    known = len(folder.classes)
    beyond = np.flatnonzero(counts[known:VOID])
    if len(beyond):
        raise DataError(
            f"the label of {sample.name} in {folder.path} holds the id {beyond[0] + known}, but there are {known} "
            "classes; mend classes.yaml"
        )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)
