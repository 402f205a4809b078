"""The study's plots as inline SVG: no scripts, readable in light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mile_edge.replay.page.markup import esc

_WIDTH, _HEIGHT = 1120, 430
_LEFT, _TOP, _RIGHT, _BOTTOM = 64, 16, 800, 374
_LINE = 20
_DASHES = ("", "7 4", "2 4")


@dataclass(frozen=True)
class Curve:
    """A method's points (x, y), each with the ends of its interval or nothing."""

    name: str
    points: Sequence[tuple[float, float, tuple[float, float] | None]]


@dataclass(frozen=True)
class Axis:
    """An axis: what it measures, where it is marked, and how marks are written."""

    title: str
    marks: Sequence[float]
    labels: Sequence[str]
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies between the first mark and the last, 0..1."""
        low, high, at = self.marks[0], self.marks[-1], value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(value)
        return (at - low) / (high - low) if high > low else 0.5


def chart(title: str, curves: Sequence[Curve], x: Axis, y: Axis, colors: Mapping[str, str]) -> str:
    """Points, joined where a method has several, with a legend that names them in order of their last height."""
    ordered = sorted((curve for curve in curves if curve.points), key=lambda curve: -curve.points[-1][1])
    if not ordered:
        return '<p class="soft">Not measured.</p>'
    height = max(_HEIGHT, _TOP + 16 + _LINE * len(ordered))
    inside = [*_grid(x, y)]
    for place, curve in enumerate(ordered):
        inside.append(_drawn(curve, x, y, colors[curve.name], place))
        inside.append(_entry(curve, colors[curve.name], place))
    return (
        f'<div class="scroll"><svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{esc(title)}" '
        'style="width:100%;min-width:760px;display:block" font-size="13" fill="currentColor">'
        f"{''.join(inside)}</svg></div>"
    )


def linear_axis(title: str, low: float, high: float, digits: int | None = None) -> Axis:
    """About five round marks from below the lowest value to above the highest."""
    step = 10 ** math.floor(math.log10(max(high - low, 1e-9)))
    step = next(part * step for part in (0.1, 0.2, 0.5, 1, 2, 5) if (high - low) / (part * step) <= 6)
    first, last = math.floor(low / step), max(math.ceil(high / step), math.floor(low / step) + 1)
    marks = [place * step for place in range(first, last + 1)]
    shown = max(0, -math.floor(math.log10(step) + 1e-9)) if digits is None else digits
    return Axis(title, marks, [f"{mark:.{shown}f}" for mark in marks])


def log_axis(title: str, low: float, high: float) -> Axis:
    """Marks at 1, 2 and 5 times powers of ten around positive values."""
    every = [part * 10.0**power for power in range(-3, 7) for part in (1, 2, 5)]
    below = max((mark for mark in every if mark <= low), default=every[0])
    above = min((mark for mark in every if mark >= high and mark > below), default=every[-1])
    marks = [mark for mark in every if below <= mark <= above]
    return Axis(title, marks, [f"{mark:g}" for mark in marks], log=True)


def _grid(x: Axis, y: Axis) -> list[str]:
    parts = []
    for mark, label in zip(x.marks, x.labels, strict=True):
        at = _x(x, mark)
        parts.append(f'<line x1="{at}" y1="{_TOP}" x2="{at}" y2="{_BOTTOM}" stroke="var(--line)"/>')
        parts.append(f'<text x="{at}" y="{_BOTTOM + 20}" text-anchor="middle" fill="var(--soft)">{esc(label)}</text>')
    for mark, label in zip(y.marks, y.labels, strict=True):
        at = _y(y, mark)
        parts.append(f'<line x1="{_LEFT}" y1="{at}" x2="{_RIGHT}" y2="{at}" stroke="var(--line)"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{at + 4}" text-anchor="end" fill="var(--soft)">{esc(label)}</text>')
    middle = (_LEFT + _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_BOTTOM + 46}" text-anchor="middle">{esc(x.title)}</text>')
    upright = f'transform="translate(16 {(_TOP + _BOTTOM) / 2}) rotate(-90)"'
    parts.append(f'<text {upright} text-anchor="middle">{esc(y.title)}</text>')
    return parts


def _drawn(curve: Curve, x: Axis, y: Axis, color: str, place: int) -> str:
    places = [(_x(x, across), _y(y, up)) for across, up, _ in curve.points]
    parts = [f"<g><title>{esc(curve.name)}</title>"]
    if len(places) > 1:
        joined = " ".join(f"{across},{up}" for across, up in places)
        dash = _DASHES[place % len(_DASHES)]
        parts.append(
            f'<polyline points="{joined}" fill="none" stroke="{color}" stroke-width="2" stroke-linejoin="round"'
            f"{_dashed(dash)}/>"
        )
    for (across, up), (_, _, ends) in zip(places, curve.points, strict=True):
        if ends is not None:
            low, high = (_y(y, min(max(end, y.marks[0]), y.marks[-1])) for end in ends)
            parts.append(f'<line x1="{across}" y1="{low}" x2="{across}" y2="{high}" stroke="{color}" opacity=".55"/>')
        parts.append(f'<circle cx="{across}" cy="{up}" r="4.5" fill="{color}" stroke="var(--card)"/>')
    return "".join(parts) + "</g>"


def _entry(curve: Curve, color: str, place: int) -> str:
    x, y = _RIGHT + 26, _TOP + 12 + _LINE * place
    line = ""
    if len(curve.points) > 1:
        dash = _dashed(_DASHES[place % len(_DASHES)])
        line = f'<line x1="{x - 6}" y1="{y - 4}" x2="{x + 16}" y2="{y - 4}" stroke="{color}" stroke-width="2"{dash}/>'
    return (
        f'{line}<circle cx="{x + 5}" cy="{y - 4}" r="4.5" fill="{color}"/>'
        f'<text x="{x + 26}" y="{y}">{esc(curve.name)}</text>'
        f'<text x="{_WIDTH - 6}" y="{y}" text-anchor="end" fill="var(--soft)">{curve.points[-1][1]:.3g}</text>'
    )


def _dashed(dash: str) -> str:
    return f' stroke-dasharray="{dash}"' if dash else ""


def _x(axis: Axis, value: float) -> float:
    return round(_LEFT + (_RIGHT - _LEFT) * axis.share(value), 1)


def _y(axis: Axis, value: float) -> float:
    return round(_BOTTOM - (_BOTTOM - _TOP) * axis.share(value), 1)
