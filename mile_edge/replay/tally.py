"""All that is gathered while a bag is replayed, one frame at a time, in memory that does not grow with the bag."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from mile_edge.bundle import ClassLabel, Expert, Manifest
from mile_edge.data.bag_frames import BagFrame
from mile_edge.replay.film import Film, Shot, palette, thumbnails
from mile_edge.replay.fused import FusedTally
from mile_edge.replay.gate import GateScores, right_expert
from mile_edge.replay.latency import Latency
from mile_edge.replay.scores import LabelScores
from mile_edge.replay.timeline import Timeline
from mile_edge.runtime import Segmentation

# A damaged or hostile bag may announce a new domain with every frame; each keeps a confusion matrix.
MAX_DOMAINS = 64
OTHER_DOMAINS = "(other domains)"
NO_DOMAIN = "(no domain)"


@dataclass
class TopicTally:
    """Counts of one image topic.

    Attributes:
        kind, encoding: of its last frame.
        sizes: (width, height) of its frames.
        frames, labelled, resized_labels, novel: counts.
        confidence: sum over frames of the mean confidence, 0..1 each.
        first, last: bag time, nanoseconds.
        experts, domains: name to frames.
    """

    kind: str = ""
    encoding: str = ""
    sizes: set[tuple[int, int]] = field(default_factory=set)
    frames: int = 0
    labelled: int = 0
    resized_labels: int = 0
    novel: int = 0
    confidence: float = 0.0
    first: int = 0
    last: int = 0
    experts: Counter[str] = field(default_factory=Counter)
    domains: Counter[str] = field(default_factory=Counter)


class Tally:
    """Everything a report is made of, apart from what was skipped."""

    def __init__(self, manifest: Manifest, experts: tuple[Expert, ...]) -> None:
        self.classes: tuple[ClassLabel, ...] = manifest.classes
        self.topics: dict[str, TopicTally] = {}
        self.scores = LabelScores(len(self.classes))
        self.gate = GateScores(experts)
        self.latency = Latency()
        self.timelines: dict[str, Timeline] = {}
        self.film = Film()
        self.frames = 0
        self.fused: FusedTally | None = None
        self._colors = palette([label.color for label in self.classes])
        self._domains: set[str] = set()

    def add(self, frame: BagFrame, result: Segmentation) -> None:
        """Add one frame and the segmenter's answer to it, a batch of one."""
        self.frames += 1
        mask, expert = result.mask[0], result.expert[0]
        confidence = float(result.confidence[0].mean()) / 255
        novel = bool(result.novel[0])
        domain = self._bounded(frame.domain)
        right = self.gate.add(frame.kind, domain, expert)
        self._count(frame, expert, domain, novel, confidence)
        self.timelines.setdefault(frame.topic, Timeline()).add(frame.time, expert, domain, novel)
        self.latency.add(_stages(frame, result))
        miou = None
        if frame.label is not None:
            miou = self.scores.add(frame.topic, domain or NO_DOMAIN, frame.label, mask)
        novelty = float(result.novelty[0])

        def shoot() -> Shot:
            pictures = thumbnails(frame.frame, mask, frame.label, self._colors)
            return Shot(
                frame.topic,
                frame.kind,
                domain,
                expert,
                right,
                frame.time,
                confidence,
                novelty,
                novel,
                miou,
                *pictures,
            )

        self.film.offer(frame.topic, domain, miou, novelty if novel else None, shoot)

    def right_expert(self, kind: str, domain: str | None) -> str | None:
        """The expert that is right for a sensor kind in a domain, None where unknown."""
        return None if domain is None else right_expert(self.gate.experts, kind, domain)

    def expert_shares(self) -> dict[str, float]:
        """Every expert of the bundle, in row order, to its share of all frames."""
        used: Counter[str] = Counter()
        for topic in self.topics.values():
            used.update(topic.experts)
        return {expert.name: used[expert.name] / max(1, self.frames) for expert in self.gate.experts}

    def _count(self, frame: BagFrame, expert: str, domain: str | None, novel: bool, confidence: float) -> None:
        topic = self.topics.setdefault(frame.topic, TopicTally(first=frame.time, last=frame.time))
        topic.kind, topic.encoding = frame.kind, frame.encoding
        if len(topic.sizes) < MAX_DOMAINS:
            topic.sizes.add((frame.frame.shape[1], frame.frame.shape[0]))
        topic.frames += 1
        topic.labelled += frame.label is not None
        topic.resized_labels += frame.label_resized
        topic.novel += novel
        topic.confidence += confidence
        topic.first, topic.last = min(topic.first, frame.time), max(topic.last, frame.time)
        topic.experts[expert] += 1
        topic.domains[domain or NO_DOMAIN] += 1

    def _bounded(self, domain: str | None) -> str | None:
        if domain is None or domain in self._domains:
            return domain
        if len(self._domains) >= MAX_DOMAINS:
            return OTHER_DOMAINS
        self._domains.add(domain)
        return domain


def _stages(frame: BagFrame, result: Segmentation) -> dict[str, float]:
    passed = {stage: float(result.timings[stage]) for stage in ("resize", "network", "restore")}
    total = frame.decode_ms + frame.map_ms + float(result.timings["total"])
    return {"decode": frame.decode_ms, "map": frame.map_ms, **passed, "total": total}
