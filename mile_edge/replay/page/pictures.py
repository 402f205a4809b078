"""The report's pictures: strips of frames per topic and domain, the hardest frames and the most novel ones."""

from __future__ import annotations

from collections.abc import Mapping

from mile_edge.replay.film import Shot
from mile_edge.replay.fused import FusedTally
from mile_edge.replay.page.markup import chip, count, esc, percent, picture, topic_name
from mile_edge.replay.tally import Tally


def strips(tally: Tally, colors: Mapping[str, str], start: int) -> str:
    """A foldable strip per topic, divided by domain; `start` is the bag time of 0 s, nanoseconds."""
    by_topic: dict[str, list[tuple[str | None, list[Shot]]]] = {}
    for (topic, domain), shots in tally.film.strips().items():
        by_topic.setdefault(topic, []).append((domain, shots))
    parts = []
    for topic, groups in sorted(by_topic.items()):
        inner = "".join(
            f"<h3>{esc(domain if domain is not None else 'no true domain')}</h3>{film(shots, colors, start)}"
            for domain, shots in groups
        )
        told = f"{tally.topics[topic].kind}, {count(tally.topics[topic].frames)} frames"
        parts.append(f"<details open><summary>{topic_name(topic)}<span>{esc(told)}</span></summary>{inner}</details>")
    return "".join(parts) or '<p class="soft">No frame was replayed.</p>'


def fused(tally: FusedTally, colors: Mapping[str, str], start: int) -> str:
    """Strips of fused masks, one per domain."""
    return "".join(
        f"<h3>{esc(domain if domain is not None else 'no true domain')}</h3>{film(shots, colors, start)}"
        for (_, domain), shots in tally.film.strips().items()
    )


def film(shots: list[Shot], colors: Mapping[str, str], start: int, named: bool = False) -> str:
    """Frames side by side; `named` adds topic and domain to each."""
    return '<div class="film">' + "".join(_shot(shot, colors, start, named) for shot in shots) + "</div>"


def _shot(shot: Shot, colors: Mapping[str, str], start: int, named: bool) -> str:
    pictures = picture(shot.picture, "input") + picture(shot.overlay, "segmented")
    if shot.truth is not None:
        pictures += picture(shot.truth, "ground truth")
    wrong = shot.right is not None and shot.right != shot.expert
    verdict = ' <span class="bad" title="another expert is right">✕</span>' if wrong else ""
    facts = [f"confidence {percent(shot.confidence, 0)}"]
    if shot.miou is not None:
        facts.append(f"mIoU {shot.miou:.2f}")
    if shot.novel:
        facts.append(f"novel {shot.novelty:.2f} x limit")
    where = (
        f'<div class="say">{esc(shot.topic)}{esc(f" · {shot.domain}" if shot.domain else "")}</div>' if named else ""
    )
    right = f'<div class="say">right: {esc(shot.right)}</div>' if wrong else ""
    seconds = f'<span class="say">{(shot.time - start) / 1e9:.2f} s</span>'
    return (
        f'<figure class="shot"><div class="pics">{pictures}</div><figcaption>'
        f'<div class="line"><span>{chip(shot.expert, colors.get(shot.expert, "#888"))}{verdict}</span>{seconds}</div>'
        f'<div class="say">{esc(" · ".join(facts))}</div>{right}{where}</figcaption></figure>'
    )
