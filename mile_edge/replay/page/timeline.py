"""The timeline: what the gate chose for each topic, with the true domain above it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mile_edge.replay.page.markup import chip, esc, percent, topic_name
from mile_edge.replay.tally import Tally
from mile_edge.replay.timeline import Span

_HEIGHT = 26
# Below the experts: how many of the frames were novel.
_NOVEL, _ALARM = 6, "#d0021b"


def timeline(tally: Tally, colors: Mapping[str, str], kinds: Mapping[str, str]) -> str:
    """All lanes over one time axis.

    Args:
        tally: of the replay.
        colors: expert to CSS colour.
        kinds: topic to its sensor kind.
    """
    lanes = {topic: line.spans() for topic, line in sorted(tally.timelines.items())}
    spans = [span for lane in lanes.values() for span in lane]
    if not spans:
        return '<p class="soft">No frame was replayed.</p>'
    start, end = min(span.start for span in spans), max(span.end for span in spans)
    right = {
        (topic, domain): tally.right_expert(kinds[topic], domain)
        for topic, lane in lanes.items()
        for domain in {span.domain for span in lane}
    }
    legend = "".join(
        chip(name, colors[name], percent(share, 0))
        for name, share in tally.expert_shares().items()
        if share or len(colors) <= 12
    )
    rows = "".join(_lane(topic, kinds[topic], lane, start, end, colors, right) for topic, lane in lanes.items())
    return f'<div class="chips">{legend}</div>{rows}<div class="lane"><div></div>{_axis(start, end)}</div>'


def _lane(
    topic: str,
    kind: str,
    spans: list[Span],
    start: int,
    end: int,
    colors: Mapping[str, str],
    right: Mapping[tuple[str, str | None], str | None],
) -> str:
    scale = 1000 / max(1, end - start)
    shapes = "".join(_shape(span, start, scale, colors) for span in spans)
    truth = "".join(_truth(topic, span, start, end, colors, right) for span in _domains(spans))
    band = f'<div class="truth-band">{truth}</div>' if truth else ""
    return (
        f'<div class="lane"><div class="who">{topic_name(topic)}<span>{esc(kind)}</span></div>'
        f'<div class="bands">{band}<svg viewBox="0 0 1000 {_HEIGHT + _NOVEL}" '
        f'height="{_HEIGHT + _NOVEL}" preserveAspectRatio="none" '
        f'shape-rendering="crispEdges" '
        f'role="img" aria-label="experts chosen for {esc(topic)}">'
        f'<rect class="gap" width="1000" height="{_HEIGHT}"/>{shapes}</svg></div></div>'
    )


def _shape(span: Span, start: int, scale: float, colors: Mapping[str, str]) -> str:
    left, width = (span.start - start) * scale, max(0.8, (span.end - span.start) * scale)
    seconds = (span.start - start) / 1e9
    told = ", ".join(f"{name} {percent(share, 0)}" if share < 1 else name for name, share in span.experts)
    title = esc(f"{seconds:.2f} s: {told}" + (f" (true domain: {span.domain})" if span.domain else ""))
    title += f"; novel {percent(span.novel, 0)}" if span.novel else ""
    pieces, top = [], 0.0
    for name, share in span.experts:
        height = share * _HEIGHT
        pieces.append(
            f'<rect x="{left:.2f}" y="{top:.2f}" width="{width:.2f}" height="{height:.2f}" '
            f'fill="{colors.get(name, "#888")}"/>'
        )
        top += height
    if span.novel:
        told = f'<rect x="{left:.2f}" y="{_HEIGHT}" width="{width:.2f}" height="{_NOVEL}" fill="{_ALARM}"'
        pieces.append(f'{told} fill-opacity="{span.novel:.2f}"/>')
    return f"<g><title>{title}</title>{''.join(pieces)}</g>"


def _domains(spans: list[Span]) -> list[Span]:
    """Stretches of one true domain, whatever the experts did."""
    merged: list[Span] = []
    for span in spans:
        if merged and merged[-1].domain == span.domain:
            merged[-1] = Span(merged[-1].start, span.end, (), span.domain)
        else:
            merged.append(Span(span.start, span.end, (), span.domain))
    return [span for span in merged if span.domain is not None]


def _truth(
    topic: str,
    span: Span,
    start: int,
    end: int,
    colors: Mapping[str, str],
    right: Mapping[tuple[str, str | None], str | None],
) -> str:
    whole = max(1, end - start)
    left, width = (span.start - start) / whole * 100, (span.end - span.start) / whole * 100
    expert = right[topic, span.domain]
    color = f"--c:{colors[expert]};" if expert is not None and expert in colors else ""
    told = f"true domain {span.domain}; " + (f"{expert} is right" if expert else "no expert knows it")
    return (
        f'<span style="left:{left:.2f}%;width:calc({width:.2f}% - 1px);{color}" title="{esc(told)}">'
        f"{esc(span.domain)}</span>"
    )


def _axis(start: int, end: int) -> str:
    seconds = (end - start) / 1e9
    step = 10 ** math.floor(math.log10(max(seconds, 1e-3)))
    step = next(factor * step for factor in (0.1, 0.2, 0.5, 1, 2, 5) if seconds / (factor * step) <= 10)
    ticks = [place * step for place in range(int(seconds / step) + 1)]
    digits = max(0, -math.floor(math.log10(step)))
    marks = "".join(
        f'<span style="left:{tick / max(seconds, 1e-9) * 100:.2f}%">{tick:.{digits}f} s</span>' for tick in ticks
    )
    return f'<div class="axis">{marks}</div>'
