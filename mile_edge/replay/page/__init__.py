"""`report.html`: one file that needs nothing else, neither network nor scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mile_edge.replay.page import pictures, sections
from mile_edge.replay.page.markup import chip, esc, expert_colors, rgb
from mile_edge.replay.page.sheet import Part, sheet
from mile_edge.replay.page.timeline import timeline
from mile_edge.replay.tally import Tally

_ENDINGS = {
    None: ("good", "complete"),
    "limit": ("warn", "stopped at the limit"),
    "interrupted": ("warn", "interrupted"),
}


def render_page(report: Mapping[str, Any], tally: Tally) -> str:
    """Render the report of a replay.

    Args:
        report: what `build_report` made.
        tally: the same replay's, for timelines and pictures.

    Returns:
        A whole HTML document.
    """
    colors = expert_colors(report["experts"])
    kinds = {name: topic["kind"] for name, topic in report["topics"].items()}
    start = min((topic["start_ns"] for topic in report["topics"].values()), default=0)
    figures = numbers(report)
    parts = [
        (
            "timeline",
            "Timeline",
            "The expert that the gate chose, over the bag's time. The band above names the true domain, in the "
            "colour of the expert that is right for it; red below are stretches that no expert knows.",
            timeline(tally, colors, kinds),
        ),
        *figures[:-1],
        *_fused(report, tally, colors, start),
        ("frames", "Frames", "", _legend(report) + pictures.strips(tally, colors, start)),
    ]
    if hard := tally.film.hardest():
        told = "The labelled frames with the lowest mean IoU."
        parts.append(("hardest", "Hardest frames", told, pictures.film(hard, colors, start, named=True)))
    if novel := tally.film.most_novel():
        told = "The frames of streams that were farthest beyond the limit of novelty."
        parts.append(("novel", "Most novel frames", told, pictures.film(novel, colors, start, named=True)))
    return document(report, Path(report["bag"]["path"]).name, [*parts, figures[-1]])


def numbers(report: Mapping[str, Any]) -> list[Part]:
    """The sections that need only the report: topics, segmentation, gate, latency and, last, what was skipped."""
    colors = expert_colors(report["experts"])
    return [
        ("topics", "Topics", "", sections.topics(report, colors)),
        (
            "iou",
            "Segmentation",
            "Intersection over union of all labelled pixels; void pixels are left out. The mean is over the classes "
            "that occur in the labels.",
            sections.iou(report),
        ),
        (
            "gate",
            "Gate",
            "Frames by the expert that is right for their sensor and true domain, and the one that was chosen.",
            sections.gate(report, colors),
        ),
        (
            "latency",
            "Latency",
            "Milliseconds per frame and stage: half of the frames took at most p50, one in a hundred more than p99.",
            sections.latency(report),
        ),
        ("skipped", "Skipped", "", sections.skipped(report)),
    ]


def document(report: Mapping[str, Any], title: str, parts: Sequence[Part], warned: bool = False) -> str:
    """A report's header and footer around its sections.

    Args:
        report: of one bag or of many.
        title: what was replayed.
        parts: (anchor, heading, what it tells, HTML) of each section.
        warned: something went wrong that the report's own figures do not show.
    """
    name = f"{title} through {report['bundle']['name']}"
    return sheet(name, _header(report, title, warned), parts, _footer(report))


def _fused(report: Mapping[str, Any], tally: Tally, colors: Mapping[str, str], start: int) -> list[Part]:
    if tally.fused is None:
        return []
    told = (
        "One mask of all live sensors, from the same pass as their own masks, which are scored beside it on the "
        "same moments. The share is the part of the fused mask that a sensor has on average."
    )
    content = sections.fused(report["fused"]) + pictures.fused(tally.fused, colors, start)
    return [("fused", "Sensors fused", told, content)]


def _header(report: Mapping[str, Any], title: str, warned: bool) -> str:
    bundle = report["bundle"]
    kind, ending = _ENDINGS[report["stopped"]]
    if (report["skipped"] or warned) and report["stopped"] is None:
        kind, ending = "warn", "complete, with losses"
    if not report["frames"] and report["stopped"] is None:
        kind, ending = "warn", "no frame replayed"
    facts = {
        "bundle": bundle["name"],
        "base": bundle["base"],
        "experts": len(report["experts"]),
        "gate": bundle["gate"],
        "network": f"{bundle['size']} {bundle['precision']}",
        "replayed": report["created"].replace("T", " "),
    }
    meta = "".join(f"<span>{esc(name)} <b>{esc(value)}</b></span>" for name, value in facts.items())
    return (
        f'<header class="top"><div class="over">mile-edge replay</div>'
        f'<h1>{esc(title)}<span class="pill {kind}">{esc(ending)}</span></h1>'
        f'<div class="meta">{meta}</div>{sections.tiles(report)}</header>'
    )


def _legend(report: Mapping[str, Any]) -> str:
    chips = "".join(chip(label["name"], rgb(label["color"])) for label in report["classes"])
    return f'<div class="chips">{chips}</div>'


def _footer(report: Mapping[str, Any]) -> str:
    told = " · ".join(f"{name} {value}" for name, value in report["versions"].items())
    return (
        f"<footer>Bag <code>{esc(report['bag']['path'])}</code> · bundle <code>{esc(report['bundle']['path'])}</code> "
        f"(manifest {esc(report['bundle']['manifest_sha256'][:12])})<br>{esc(told)}<br>"
        "All numbers are in report.json beside this page.</footer>"
    )
