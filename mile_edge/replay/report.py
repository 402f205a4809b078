"""`report.json`: what a replay found, as plain values."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from mile_edge import __version__
from mile_edge.bundle import Bundle
from mile_edge.data.bag_frames import LABEL_REASONS
from mile_edge.data.topics import TopicPlan
from mile_edge.replay.scores import class_iou, mean_iou
from mile_edge.replay.tally import Tally, TopicTally
from mile_edge.replay.timeline import Timeline

SCHEMA = 1


@dataclass(frozen=True)
class Circumstances:
    """What a report says besides what was gathered.

    Attributes:
        bundle, bag: descriptions, JSON objects.
        plan: what each topic was for.
        skipped: reason to count.
        examples: reason to the first message about it.
        notes: sentences.
        seconds: wall time of the replay.
        stopped: None when the bag was replayed to its end, else "limit" or "interrupted".
        created: local time, ISO 8601.
    """

    bundle: Mapping[str, Any]
    bag: Mapping[str, Any]
    plan: TopicPlan
    skipped: Mapping[str, int]
    examples: Mapping[str, str]
    notes: tuple[str, ...]
    seconds: float
    stopped: str | None
    created: str


def build_report(tally: Tally, about: Circumstances) -> dict[str, Any]:
    """Put everything into one JSON object; numbers that do not exist are None, with a reason beside them."""
    latency = tally.latency.percentiles()
    overall = tally.scores.of()
    return {
        "schema": SCHEMA,
        "frames": tally.frames,
        "frames_per_second": round(tally.frames / about.seconds, 2) if about.seconds > 0 else None,
        "seconds": round(about.seconds, 3),
        "stopped": about.stopped,
        "latency_ms": latency.get("total", {"p50": None, "p95": None, "p99": None}),
        "stages_ms": latency,
        "topics": {name: _topic(name, topic, tally, about.plan) for name, topic in sorted(tally.topics.items())},
        "experts": _experts(tally),
        "gate": _gate(tally),
        "miou": _rounded(mean_iou(overall)),
        "miou_reason": None if overall.any() else _no_miou(tally, about.skipped),
        "miou_by_domain": {
            domain: _rounded(mean_iou(tally.scores.of(domain=domain))) for domain in tally.scores.domains
        },
        "miou_by_topic": {
            name: _rounded(mean_iou(tally.scores.of(topic=name)))
            for name, topic in sorted(tally.topics.items())
            if topic.labelled
        },
        "iou": _iou(tally, overall),
        "iou_by_domain": {domain: _iou(tally, tally.scores.of(domain=domain)) for domain in tally.scores.domains},
        **({} if tally.fused is None else {"fused": tally.fused.report()}),
        "labelled_frames": sum(topic.labelled for topic in tally.topics.values()),
        "novel": _share(sum(topic.novel for topic in tally.topics.values()), tally.frames),
        "skipped": dict(sorted(about.skipped.items())),
        "skipped_examples": dict(sorted(about.examples.items())),
        "left_out": dict(sorted(about.plan.left_out.items())),
        "notes": list(about.notes),
        "classes": [{"id": place, "name": c.name, "color": list(c.color)} for place, c in enumerate(tally.classes)],
        "bundle": dict(about.bundle),
        "bag": dict(about.bag),
        "versions": versions(),
        "created": about.created,
    }


def describe_bundle(bundle: Bundle, manifest_sha256: str) -> dict[str, Any]:
    """A bundle as reports name it."""
    manifest = bundle.manifest
    return {
        "name": manifest.name,
        "path": str(bundle.path),
        "manifest_sha256": manifest_sha256,
        "base": manifest.base.model,
        "base_sha256": manifest.base.sha256,
        "gate": manifest.gate.kind,
        "size": f"{manifest.network.width}x{manifest.network.height}",
        "precision": manifest.network.precision,
    }


def versions() -> dict[str, str]:
    """Versions of what took part."""
    found = {"mile_edge": __version__, "python": platform.python_version(), "machine": platform.machine()}
    for package in ("numpy", "onnxruntime", "rosbags", "pillow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def _topic(name: str, topic: TopicTally, tally: Tally, plan: TopicPlan) -> dict[str, Any]:
    seconds = (topic.last - topic.first) / 1e9
    return {
        "kind": topic.kind,
        "encoding": topic.encoding,
        "sizes": [f"{width}x{height}" for width, height in sorted(topic.sizes)],
        "frames": topic.frames,
        "hz": round((topic.frames - 1) / seconds, 2) if seconds > 0 else None,
        "start_ns": topic.first,
        "end_ns": topic.last,
        "labels": plan.labels.get(name),
        "labelled": topic.labelled,
        "resized_labels": topic.resized_labels,
        "miou": _rounded(mean_iou(tally.scores.of(topic=name))),
        "confidence": round(topic.confidence / topic.frames, 4),
        "novel": _share(topic.novel, topic.frames),
        # A merged tally has no timelines: the bags of a fleet share no time.
        "novel_spans_ns": _novel_spans(tally.timelines[name]) if name in tally.timelines else [],
        "experts": dict(topic.experts.most_common()),
        "domains": dict(topic.domains.most_common()),
    }


def _novel_spans(line: Timeline) -> list[list[int]]:
    """[start, end] of the stretches in which most frames were novel, nanoseconds of bag time."""
    found: list[list[int]] = []
    for span in line.spans():
        if span.novel <= 0.5:
            continue
        if found and found[-1][1] == span.start:
            found[-1][1] = span.end
        else:
            found.append([span.start, span.end])
    return found


def _experts(tally: Tally) -> dict[str, Any]:
    shares = tally.expert_shares()
    return {
        expert.name: {
            "frames": sum(topic.experts[expert.name] for topic in tally.topics.values()),
            "share": round(shares[expert.name], 4),
            "sensors": list(expert.sensors),
            "domains": list(expert.domains),
        }
        for expert in tally.gate.experts
    }


def _gate(tally: Tally) -> dict[str, Any]:
    confusion: dict[str, dict[str, int]] = {}
    for (right, chosen), count in sorted(tally.gate.confusion.items()):
        confusion.setdefault(right, {})[chosen] = count
    return {
        "accuracy": _rounded(tally.gate.accuracy()),
        "reason": tally.gate.reason(),
        "frames": sum(tally.gate.confusion.values()),
        "confusion": confusion,
        "unknown_domain": dict(sorted(tally.gate.unknown_domain.items())),
        "no_truth": tally.gate.no_truth,
    }


def _iou(tally: Tally, counts: np.ndarray) -> dict[str, float | None]:
    values = class_iou(counts)
    return {
        label.name: None if np.isnan(value) else round(float(value), 4)
        for label, value in zip(tally.classes, values, strict=True)
    }


def _no_miou(tally: Tally, skipped: Mapping[str, int]) -> str:
    if any(topic.labelled for topic in tally.topics.values()):
        return "the labels hold only void"
    lost = [reason for reason in skipped if reason in LABEL_REASONS]
    return f"no frame has a usable label ({', '.join(lost)})" if lost else "no frame has a label"


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
