"""The curves of a gate calibration as one self-contained picture, SVG or an HTML page around it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from mile_edge.bundle.files import write_whole
from mile_edge.calibration.roc import Roc
from mile_edge.errors import RecipeError

SUFFIXES = (".svg", ".html")
_WIDTH, _HEIGHT = 860, 470
_LEFT, _TOP, _RIGHT, _BOTTOM = 64, 46, 560, 410
_LEAST = 0.001
_LINE = 19
# Told apart without hue as well: every curve past the first six is dashed (Okabe and Ito's colours).
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#a08a00", "#56b4e9")
_STYLE = (
    "svg{font:13px system-ui,'DejaVu Sans',sans-serif;background:#fff}text{fill:#1a2029}.soft{fill:#5d6878}"
    ".grid{stroke:#e1e5eb}.curve{fill:none;stroke-width:2;stroke-linejoin:round}"
)


def write_picture(path: Path, curves: Sequence[Roc], title: str) -> None:
    """Draw the curves into a file; the suffix decides how.

    Raises:
        RecipeError: the suffix is neither ``.svg`` nor ``.html``, or the file cannot be written.
    """
    check_suffix(path)
    svg = draw(curves, title)
    text = svg if path.suffix == ".svg" else _page(svg, title)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode(), f"picture {path}", RecipeError)


def check_suffix(path: Path) -> None:
    """Refuse a picture of another kind before any work is done for it."""
    if path.suffix not in SUFFIXES:
        raise RecipeError(f"--out is {str(path)!r}; give a file that ends in {' or '.join(SUFFIXES)}")


def draw(curves: Sequence[Roc], title: str) -> str:
    """The SVG: false alarms from 0.1 % to 100 % to the right, logarithmic; detected frames upwards."""
    height = max(_HEIGHT, _TOP + 40 + _LINE * len(curves))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}"><style>{_STYLE}</style>',
        f'<text x="{_LEFT}" y="24" font-size="16" font-weight="600">{escape(title)}</text>',
        *_grid(),
        *(_curve(index, curve) for index, curve in enumerate(curves)),
        *_legend(curves),
        "</svg>",
    ]
    return "\n".join(parts)


def _grid() -> Iterable[str]:
    for share in (0.001, 0.01, 0.05, 0.1, 1.0):
        x = _x(share)
        yield f'<line class="grid" x1="{x}" y1="{_TOP}" x2="{x}" y2="{_BOTTOM}"/>'
        yield f'<text class="soft" x="{x}" y="{_BOTTOM + 20}" text-anchor="middle">{100 * share:g} %</text>'
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(share)
        yield f'<line class="grid" x1="{_LEFT}" y1="{y}" x2="{_RIGHT}" y2="{y}"/>'
        yield f'<text class="soft" x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{100 * share:g} %</text>'
    middle = (_LEFT + _RIGHT) / 2
    yield f'<text x="{middle}" y="{_BOTTOM + 44}" text-anchor="middle">known frames called novel</text>'
    yield (
        f'<text transform="translate(16 {(_TOP + _BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
        "unknown frames noticed</text>"
    )


def _curve(index: int, curve: Roc) -> str:
    steps: list[tuple[float, float]] = []
    last = 0.0
    for alarms, detected in curve.curve:
        # What is reached without any false alarm starts at the left edge; from there the curve is a staircase.
        place = (_x(alarms), _y(detected))
        steps += [(place[0], _y(last)), place]
        last = detected
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in dict.fromkeys(steps))
    return (
        f'<polyline class="curve" {_stroke(index)} points="{points}"><title>{escape(_name(curve))}</title></polyline>'
    )


def _legend(curves: Sequence[Roc]) -> Iterable[str]:
    x = _RIGHT + 24
    yield f'<text class="soft" x="{x}" y="{_TOP + 6}">unknown: AUC, noticed at 1 % and 5 %</text>'
    for index, curve in enumerate(curves):
        y = _TOP + 30 + _LINE * index
        yield f'<line class="curve" {_stroke(index)} x1="{x}" y1="{y - 4}" x2="{x + 22}" y2="{y - 4}"/>'
        figures = f"{curve.auc:.3f}, {100 * curve.at_1:.0f} %, {100 * curve.at_5:.0f} %"
        yield f'<text x="{x + 30}" y="{y}">{escape(_name(curve))}: {figures}</text>'


def _name(curve: Roc) -> str:
    return f"{curve.unknown} (left out)" if curve.left_out else curve.unknown


def _stroke(index: int) -> str:
    dash = ("", "7 4", "2 4")[index // len(_COLORS) % 3]
    return f'stroke="{_COLORS[index % len(_COLORS)]}"' + (f' stroke-dasharray="{dash}"' if dash else "")


def _x(share: float) -> float:
    place = 1 - math.log10(max(share, _LEAST)) / math.log10(_LEAST)
    return round(_LEFT + (_RIGHT - _LEFT) * place, 1)


def _y(share: float) -> float:
    return round(_BOTTOM - (_BOTTOM - _TOP) * share, 1)


def _page(svg: str, title: str) -> str:
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width"><body style="margin:2em auto;max-width:60em">'
        f"{svg}</body></html>\n"
    )
