"""The parts of many bags as one report, of the same form as that of a single bag."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mile_edge.bundle import Bundle
from mile_edge.data.topics import TopicPlan
from mile_edge.fleet.part import add_part
from mile_edge.replay.report import Circumstances, build_report, describe_bundle
from mile_edge.replay.run import PAGE
from mile_edge.replay.tally import Tally

_MAX_NOTES = 64


@dataclass
class Bags:
    """How far the bags are.

    Attributes:
        sources: as they were named.
        folders: where each one's report is.
        parts, failed: place to what was found, or to why nothing was.
        resumed: how many were done before this run.
        new_frames, wall_seconds, workers: of this run.
    """

    sources: tuple[str, ...]
    folders: tuple[Path, ...]
    parts: dict[int, dict[str, Any]] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    resumed: int = 0
    new_frames: int = 0
    wall_seconds: float = 0.0
    workers: int = 1


def merged_report(loaded: Bundle, manifest_sha256: str, bags: Bags, out: Path, created: str) -> dict[str, Any]:
    """One report over all bags that are done.

    Numbers are what one replay of all bags would have counted; latency percentiles are of at most 1024 frames of each
    bag. `frames_per_second` is over this run's wall time and new frames, None where nothing was new; `bags` has a row
    per bag.
    """
    tally = Tally(loaded.manifest, loaded.choices())
    skipped: Counter[str] = Counter()
    examples: dict[str, str] = {}
    left_out: dict[str, str] = {}
    labels: dict[str, str] = {}
    told: dict[str, list[str]] = {}
    spans: Counter[str] = Counter()
    parts = [bags.parts[number] for number in sorted(bags.parts)]
    for part in parts:
        add_part(tally, part)
        skipped.update(part["skipped"])
        examples = {**part["skipped_examples"], **examples}
        left_out.update(part["left_out"])
        labels.update(part["labels"])
        for note in part["notes"]:
            told.setdefault(note, []).append(Path(part["source"]).name)
        for name, topic in part["topics"].items():
            spans[name] += topic["last"] - topic["first"]
    notes = [f"{names[0] if len(names) == 1 else f'{len(names)} bags'}: {note}" for note, names in told.items()]
    todo = len(bags.sources) - len(parts) - len(bags.failed)
    about = Circumstances(
        describe_bundle(loaded, manifest_sha256),
        {"path": f"{len(bags.sources)} bags", "topics": {}},
        TopicPlan({}, labels, None, left_out, ()),
        skipped,
        examples,
        tuple(notes[:_MAX_NOTES]),
        bags.wall_seconds,
        "interrupted" if todo else None,
        created,
    )
    report = build_report(tally, about)
    for name, topic in report["topics"].items():
        # Between two bags there is no time: only the time inside each counts.
        bags_with_it = sum(name in part["topics"] for part in parts)
        seconds = spans[name] / 1e9
        topic["hz"] = round((topic["frames"] - bags_with_it) / seconds, 2) if seconds > 0 else None
    report["frames_per_second"] = (
        round(bags.new_frames / bags.wall_seconds, 2) if bags.new_frames and bags.wall_seconds > 0 else None
    )
    report["bag_seconds"] = round(sum(part["seconds"] for part in parts), 3)
    report["workers"] = bags.workers
    report["bags_done"], report["bags_failed"], report["bags_to_do"] = len(parts), len(bags.failed), todo
    report["bags_resumed"] = bags.resumed
    report["bags"] = [_row(bags, number, out) for number in range(len(bags.sources))]
    return report


def _row(bags: Bags, number: int, out: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"bag": bags.sources[number], "state": "to do", "error": None, "report": None}
    if number in bags.failed:
        row |= {"state": "failed", "error": bags.failed[number]}
    elif number in bags.parts:
        page = (bags.folders[number] / PAGE).relative_to(out).as_posix()
        row |= {"state": "done", "report": page, **bags.parts[number]["row"]}
    return row
