"""What a person sees of training: a bar while it runs, and its account at the end."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mile_edge.training.fit import FitResult, Progress

# Seconds after which a log gets a line also where fifty steps take longer.
_QUIET_S = 10.0


def say(sentence: str) -> None:
    """One sentence on standard error."""
    print(f"mile-edge: {sentence}", file=sys.stderr, flush=True)


@contextmanager
def shown_progress(name: str) -> Iterator[Callable[[Progress], None]]:
    """A bar on a terminal, a line now and then elsewhere; gives what is called after every step."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  mIoU {task.fields[miou]}  {task.fields[left]} left"),
    )
    console = Console(stderr=True)
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        line = bar.add_task(name, total=None, loss=float("nan"), miou="-", left="?")
        told = -_QUIET_S

        def report(progress: Progress) -> None:
            minutes, seconds = divmod(int(progress.seconds_left), 60)
            miou = "-" if progress.miou is None or progress.miou != progress.miou else f"{progress.miou:.3f}"
            bar.update(
                line,
                total=progress.steps,
                completed=progress.step,
                loss=progress.loss,
                miou=miou,
                left=f"{minutes}:{seconds:02d}",
            )
            nonlocal told
            if not console.is_terminal and (progress.step % 50 == 0 or time.monotonic() - told > _QUIET_S):
                told = time.monotonic()
                line_of_log = f"{name}: step {progress.step}/{progress.steps} loss {progress.loss:.3f} mIoU {miou}"
                print(f"{line_of_log}, {minutes}:{seconds:02d} left", file=sys.stderr, flush=True)

        yield report


def with_result(where: dict[str, Any], result: FitResult | None) -> dict[str, Any]:
    """An account of what was trained and of how it went; ``None`` where nothing was fitted."""
    if result is None:
        return where
    miou = None if result.miou != result.miou else round(result.miou, 4)
    return where | {"validation_miou": miou, "steps": result.steps, "seconds": round(result.seconds, 1)}


def tell_account(account: dict[str, Any], as_json: bool) -> None:
    """Print an account, a line for each of its parts."""
    if as_json:
        print(json.dumps(account))
        return
    for key, value in account.items():
        print(f"{key:>16}: {value}")
