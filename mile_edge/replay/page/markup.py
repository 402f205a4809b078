"""Small pieces of the report's markup: escaping, colours, numbers, chips."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable

from mile_edge.data.legible import legible

# Ten hues that stay apart on light and dark ground and for most colour-blind readers; the base, row 0, is grey.
_HUES = (
    "#8a919c",
    "#4269d0",
    "#efb118",
    "#ff725c",
    "#6cc5b0",
    "#3ca951",
    "#ff8ab7",
    "#a463f2",
    "#97bbf5",
    "#9c6b4e",
)

DASH = "\N{EN DASH}"


def esc(text: object) -> str:
    """Escape text for HTML; names come from bags, which anybody may have written."""
    return html.escape(legible(str(text)), quote=True)


def expert_colors(names: Iterable[str]) -> dict[str, str]:
    """A CSS colour per expert, in row order."""
    colors = {}
    for row, name in enumerate(names):
        turn = (row * 137.5) % 360
        colors[name] = _HUES[row] if row < len(_HUES) else f"hsl({turn:.0f} 58% {45 + row % 3 * 10}%)"
    return colors


def rgb(color: Iterable[int]) -> str:
    """A class colour as CSS."""
    return "#" + "".join(f"{int(part):02x}" for part in color)


def number(value: float | None, digits: int = 2) -> str:
    """A number, or a dash where there is none."""
    return DASH if value is None else f"{value:.{digits}f}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share 0..1 as percent, or a dash where there is none."""
    return DASH if share is None else f"{share * 100:.{digits}f} %"


def count(value: int) -> str:
    """A whole number with thin spaces between thousands."""
    return f"{value:,}".replace(",", "\u202f")


def chip(name: str, color: str, note: str = "") -> str:
    """A coloured dot with a name."""
    extra = f' <span class="soft">{esc(note)}</span>' if note else ""
    return f'<span class="chip"><span class="dot" style="background:{color}"></span>{esc(name)}{extra}</span>'


def topic_name(name: str) -> str:
    """A topic's name that may break after a slash or an underscore, and nowhere else."""
    return "<code>" + esc(name).replace("/", "/<wbr>").replace("_", "_<wbr>") + "</code>"


def picture(data: bytes, caption: str) -> str:
    """A JPEG inside the page."""
    source = base64.b64encode(data).decode("ascii")
    return (
        f'<div class="pic"><img loading="lazy" alt="{esc(caption)}" src="data:image/jpeg;base64,{source}">'
        f"<span>{esc(caption)}</span></div>"
    )


def bar(share: float | None) -> str:
    """A share 0..1 as a bar with its number."""
    if share is None:
        return f'<span class="soft">{DASH}</span>'
    width = min(max(share, 0.0), 1.0) * 100
    return f'<div class="bar"><i><b style="width:{width:.1f}%"></b></i><em>{share:.2f}</em></div>'


def table(head: Iterable[tuple[str, str]], rows: Iterable[Iterable[tuple[str, str]]]) -> str:
    """A table; every cell is (content as HTML, class)."""
    top = "".join(f'<th class="{kind}">{content}</th>' for content, kind in head)
    body = "".join(
        "<tr>" + "".join(f'<td class="{kind}">{content}</td>' for content, kind in row) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
