"""The sheet that every page of this project is written on: style, header, links to its sections, footer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mile_edge.replay.page.markup import esc

# Name for links, title, what it shows, and its content as HTML.
Part = tuple[str, str, str, str]


def sheet(title: str, header: str, parts: Sequence[Part], footer: str) -> str:
    """A whole HTML document that needs nothing else, neither network nor scripts.

    Args:
        title: of the document, plain text.
        header: as HTML.
        parts: its sections, in order.
        footer: as HTML.
    """
    links = "".join(f'<a href="#{name}">{esc(told)}</a>' for name, told, _, _ in parts)
    body = "".join(_section(*part) for part in parts)
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{esc(title)}</title><style>{style}</style></head><body>"
        f"{header}<nav><div>{links}</div></nav><main>{body}</main>{footer}</body></html>\n"
    )


def _section(name: str, title: str, told: str, content: str) -> str:
    why = f'<p class="why">{esc(told)}</p>' if told else '<div style="height:10px"></div>'
    return f'<section id="{name}"><h2>{esc(title)}</h2>{why}{content}</section>'
