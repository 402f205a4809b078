"""What a person sees of `mile-edge replay`: a bar while it runs, and its figures in a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table


class ReplayBar:
    """The bar of a replay, in frames of one bag or in bags of many."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown
        self._task = shown.add_task("replay", total=None, rate="")

    def frames(self, done: int, total: int | None) -> None:
        """So many frames of one bag are done."""
        speed = self._shown.tasks[0].speed
        self._shown.update(self._task, completed=done, total=total, rate=f"{speed:.1f} fps" if speed else "")

    def bags(self, done: int, total: int, frames: int) -> None:
        """So many bags and frames of all are done."""
        self._shown.update(self._task, completed=done, total=total, rate=f"bags, {frames} frames")


@contextmanager
def shown_progress(console: Console) -> Iterator[ReplayBar]:
    """A bar on a terminal, and nothing elsewhere."""
    columns = (
        TextColumn("[bold]Replaying"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        yield ReplayBar(shown)


def summarise(console: Console, report: Mapping[str, Any]) -> None:
    """Print the figures of a report.json, of one bag or of many."""
    latency, gate = report["latency_ms"], report["gate"]
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    if "bags" in report:
        table.add_row("bags", f"{report['bags_done']} of {len(report['bags'])}, {report['bags_resumed']} done before")
    speed = f", {report['frames_per_second']} per second" if report["frames_per_second"] is not None else ""
    topics = "1 topic" if len(report["topics"]) == 1 else f"{len(report['topics'])} topics"
    table.add_row("frames", f"{report['frames']} on {topics}{speed}")
    if report["frames"]:
        table.add_row("latency", f"{latency['p50']:.1f} ms (p95 {latency['p95']:.1f}, p99 {latency['p99']:.1f})")
    accuracy = gate["accuracy"]
    table.add_row("gate", _or_why(accuracy, gate["reason"], f"{(accuracy or 0) * 100:.1f} % right of {gate['frames']}"))
    table.add_row("mean IoU", _or_why(report["miou"], report["miou_reason"], f"{report['miou']}"))
    for domain, value in report["miou_by_domain"].items():
        table.add_row(f"  {escape(domain)}", f"{value}")
    if "fused" in report:
        found = report["fused"]
        single = [sensor["miou"] for sensor in found["sensors"].values() if sensor["miou"] is not None]
        told = f"{found['miou']} (best single sensor {max(single)})" if single else "not measured: no labels"
        table.add_row("fused", f"{found['moments']} moments, {found['complete']} with all sensors; mean IoU {told}")
    for row in report.get("bags", ()):
        if row["error"]:
            table.add_row("[red]failed[/]", f"{escape(row['bag'])}: {escape(row['error'])}")
    for reason, times in report["skipped"].items():
        example = report["skipped_examples"].get(reason)
        told = f" [dim](first: {escape(example)})[/]" if example else ""
        table.add_row("[yellow]skipped[/]", f"{times} x {escape(reason)}{told}")
    for note in report["notes"]:
        table.add_row("note", escape(note))
    console.print(table)


def _or_why(value: float | None, why: str | None, text: str) -> str:
    return text if value is not None else f"[dim]not measured: {escape(why or '')}[/]"
