"""What one bag's replay leaves for the merged report: numbers that add up, as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mile_edge.bundle.strict_json import parse_object
from mile_edge.replay import ReplayResult
from mile_edge.replay.tally import Tally, TopicTally

SCHEMA = 1
PART = "part.json"
_COUNTS = ("frames", "labelled", "resized_labels", "novel")


def part_of(result: ReplayResult, source: str, fingerprint: str) -> dict[str, Any]:
    """A replay as a part.

    Args:
        source: the bag, as it was named.
        fingerprint: of everything that the result depends on.
    """
    report, tally = result.report, result.tally
    return {
        "schema": SCHEMA,
        "fingerprint": fingerprint,
        "source": source,
        "manifest_sha256": report["bundle"]["manifest_sha256"],
        "frames": tally.frames,
        "seconds": report["seconds"],
        "row": _row(report),
        "topics": {name: _topic(topic) for name, topic in tally.topics.items()},
        "scores": [[*place, _sparse(counts)] for place, counts in tally.scores.counts.items()],
        "gate": {
            "confusion": [[*pair, count] for pair, count in tally.gate.confusion.items()],
            "unknown_domain": dict(tally.gate.unknown_domain),
            "no_truth": tally.gate.no_truth,
        },
        "latency": tally.latency.sample(),
        "skipped": report["skipped"],
        "skipped_examples": report["skipped_examples"],
        "left_out": report["left_out"],
        "labels": dict(result.plan.labels),
        "notes": report["notes"],
    }


def _row(report: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "frames": report["frames"],
        "seconds": report["seconds"],
        "frames_per_second": report["frames_per_second"],
        "latency_p50_ms": report["latency_ms"]["p50"],
        "gate_accuracy": report["gate"]["accuracy"],
        "miou": report["miou"],
        "novel": report["novel"],
        "skipped": sum(report["skipped"].values()),
        "stopped": report["stopped"],
    }


def add_part(tally: Tally, part: Mapping[str, Any]) -> None:
    """Add a part to a tally, which may hold others already.

    Raises:
        ValueError, KeyError, TypeError: it is no part of this bundle's.
    """
    tally.frames += int(part["frames"])
    for name, values in part["topics"].items():
        _add_topic(tally.topics.setdefault(name, TopicTally(first=values["first"], last=values["last"])), values)
    size = len(tally.classes)
    for topic, domain, entries in part["scores"]:
        counts = np.zeros((size, size + 1), np.int64)
        for truth, predicted, count in entries:
            counts[truth, predicted] = count
        tally.scores.merge(topic, domain, counts)
    for right, chosen, count in part["gate"]["confusion"]:
        tally.gate.confusion[right, chosen] += count
    tally.gate.unknown_domain.update(part["gate"]["unknown_domain"])
    tally.gate.no_truth += part["gate"]["no_truth"]
    tally.latency.merge(part["latency"], int(part["frames"]))


def read_part(text: bytes, fingerprint: str) -> dict[str, Any] | None:
    """A part, None unless it is whole and its fingerprint the one that is asked for."""
    try:
        part = parse_object(text)
    except ValueError:
        return None
    return part if part.get("schema") == SCHEMA and part.get("fingerprint") == fingerprint else None


def _topic(topic: TopicTally) -> dict[str, Any]:
    return {
        "kind": topic.kind,
        "encoding": topic.encoding,
        "sizes": sorted(topic.sizes),
        **{name: getattr(topic, name) for name in _COUNTS},
        "confidence": topic.confidence,
        "first": topic.first,
        "last": topic.last,
        "experts": dict(topic.experts),
        "domains": dict(topic.domains),
    }


def _add_topic(topic: TopicTally, values: Mapping[str, Any]) -> None:
    topic.kind = values["kind"]
    # Bags of several robots, or from before and after a change of driver.
    topic.encoding = ", ".join(sorted({*filter(None, topic.encoding.split(", ")), *values["encoding"].split(", ")}))
    topic.sizes |= {(width, height) for width, height in values["sizes"]}
    for name in _COUNTS:
        setattr(topic, name, getattr(topic, name) + int(values[name]))
    topic.confidence += float(values["confidence"])
    topic.first, topic.last = min(topic.first, values["first"]), max(topic.last, values["last"])
    topic.experts.update(values["experts"])
    topic.domains.update(values["domains"])


def _sparse(counts: np.ndarray) -> list[list[int]]:
    return [[int(truth), int(predicted), int(counts[truth, predicted])] for truth, predicted in np.argwhere(counts)]
