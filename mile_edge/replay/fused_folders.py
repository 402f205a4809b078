"""Scores of fused masks on aligned folders: every subset of the sensors, beside each sensor's own mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from mile_edge.data.aligned import AlignedFolders
from mile_edge.data.folder import LabelledFrame
from mile_edge.replay.folders import check_ids, folder_notes, label_table
from mile_edge.replay.scores import LabelScores, mean_iou
from mile_edge.runtime import Segmenter

# Scores are kept by (topic, domain): the topic is the subset, and sensors that speak for themselves are marked.
OWN = "own "


def evaluate_fused(
    segmenter: Segmenter, drives: Sequence[AlignedFolders], report: Callable[[int], None] = lambda _: None
) -> dict[str, Any]:
    """mIoU by domain of each sensor's own mask and of the fused mask of every subset of the sensors.

    Args:
        segmenter: of a bundle that fuses.
        drives: aligned, labelled folders; labels are matched to the bundle's classes by name.
        report: called after each moment with the number done.

    Returns:
        ``moments``, ``own`` and ``fused`` (sensors joined by ``+`` to domain to mIoU, ``all`` over all of them),
        ``gain`` (domain to points of all sensors over the best one), ``worst_missing`` (the largest loss, in points, of
        any subset against the best of its own sensors, with the subset and the domain), ``notes``.

    Raises:
        DataError: no class in common, or a label holds ids beyond its classes.
        FusionError: the bundle does not fuse.
    """
    scores = LabelScores(len(segmenter.classes))
    done = 0
    notes: list[str] = []
    for drive in drives:
        folder = next(iter(drive.folders.values()))
        table = label_table(folder, segmenter.classes)
        notes += [note for each in drive.folders.values() for note in each.notes]
        notes += [note for note in folder_notes(folder, segmenter.classes) if note not in notes]
        subsets = _subsets(tuple(drive.folders))
        for moment in drive:
            own, fused = segmenter.fuse_subsets(moment.frames, subsets)
            if moment.label is not None:
                check_ids(LabelledFrame(moment.name, next(iter(moment.frames.values())), moment.label), folder)
                truth = table[moment.label]
                for sensor, mask in own.items():
                    scores.add(OWN + str(sensor), drive.domain, truth, mask)
                for subset, mask in zip(subsets, fused, strict=True):
                    scores.add("+".join(subset), drive.domain, truth, mask)
            done += 1
            report(done)
    return {**_account(scores, done), "notes": list(dict.fromkeys(notes))}


def _subsets(sensors: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [subset for size in range(1, len(sensors) + 1) for subset in combinations(sensors, size)]


def _account(scores: LabelScores, moments: int) -> dict[str, Any]:
    table = {name: {domain: _score(scores, name, domain) for domain in scores.domains} for name in scores.topics}
    own = {name.removeprefix(OWN): row for name, row in table.items() if name.startswith(OWN)}
    fused = {name: row for name, row in table.items() if not name.startswith(OWN)}
    every = max(fused, key=lambda name: name.count("+"), default="")
    gain = {
        domain: round(100 * (fused[every][domain] - max(row[domain] for row in own.values())), 2)
        for domain in scores.domains
    }
    losses = [
        (round(100 * (max(own[sensor][domain] for sensor in name.split("+")) - row[domain]), 2), name, domain)
        for name, row in fused.items()
        for domain in scores.domains
    ]
    worst = max(losses, default=(0.0, "", ""))
    for prefix, rows in ((OWN, own), ("", fused)):
        for name, row in rows.items():
            row["all"] = _score(scores, prefix + name, None)
    return {
        "moments": moments,
        "own": own,
        "fused": fused,
        "gain": gain,
        "worst_missing": {"points": worst[0], "sensors": worst[1], "domain": worst[2]},
    }


def _score(scores: LabelScores, name: str, domain: str | None) -> float:
    miou = mean_iou(scores.of(topic=name, domain=domain))
    return float(np.nan) if miou is None else round(miou, 4)
