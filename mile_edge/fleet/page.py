"""The merged `report.html`: the same look as one bag's, with a row and a link for each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from mile_edge.replay.page import document, numbers
from mile_edge.replay.page.markup import DASH, bar, count, esc, number, percent, table


def render_fleet(report: Mapping[str, Any]) -> str:
    """A whole HTML document of what `merged_report` made."""
    failed, todo = report["bags_failed"], report["bags_to_do"]
    told = f"{report['bags_done']} of {len(report['bags'])} bags are done"
    told += f", {report['bags_resumed']} of them in an earlier run" if report["bags_resumed"] else ""
    told += f"; {todo} are still to do: the same command goes on with them" if todo else ""
    told += f"; {failed} could not be replayed" if failed else ""
    parts = [("bags", "Bags", told + ".", _bags(report)), *numbers(report)]
    title = f"{count(len(report['bags']))} bags"
    return document(report, title, parts, warned=bool(failed))


def _bags(report: Mapping[str, Any]) -> str:
    head = [("bag", ""), ("frames", "num"), ("fps", "num"), ("p50 ms", "num"), ("gate", "num"), ("mIoU", "")]
    head += [("novel", "num"), ("skipped", "num"), ("", "")]
    return table(head, [_row(row) for row in report["bags"]])


def _row(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    name = esc(PurePosixPath(row["bag"].rstrip("/")).name or row["bag"])
    if row["state"] != "done":
        why = row["error"] if row["state"] == "failed" else "to do"
        blank = [(DASH, "num"), (DASH, "num"), (DASH, "num"), (DASH, "num"), ("", ""), (DASH, "num"), (DASH, "num")]
        return [(f'<span title="{esc(row["bag"])}">{name}</span>', "wrap"), *blank, (esc(why), "wrap soft")]
    link = f'<a href="{esc(quote(row["report"]))}" title="{esc(row["bag"])}">{name}</a>'
    return [
        (link, "wrap"),
        (count(row["frames"]), "num"),
        (number(row["frames_per_second"], 1), "num"),
        (number(row["latency_p50_ms"], 1), "num"),
        (percent(row["gate_accuracy"], 1), "num"),
        (bar(row["miou"]), ""),
        (percent(row["novel"]), "num"),
        (count(row["skipped"]), "num"),
        ("stopped at the limit" if row["stopped"] == "limit" else "", "soft"),
    ]
