"""``mile-edge study``: methods compared on the same streams of tasks."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mile_edge.cli.options import check_range
from mile_edge.errors import RecipeError
from mile_edge.workers import MAX_WORKERS

if TYPE_CHECKING:
    from mile_edge.studies.run import Progress

_EXAMPLES = """examples:
  mile-edge study studies/small.yaml                      (CPU, one seed, under half an hour on two cores)
  mile-edge study studies/world.yaml --out out/world --workers 8
  mile-edge study studies/real.yaml --dry-run             (what there is to do, and what is done already)
  mile-edge study studies/world.yaml --cluster auto       (the same cells over a Ray cluster)

A killed study goes on where it stopped when the same command is given again. Studies that share --cells share every
expert, network and score that depends on the same things."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``study``."""
    parser = commands.add_parser(
        "study",
        help="compare methods on the same streams of tasks",
        description="Train and score a recipe's methods on its streams of tasks; write study.json and study.html.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", type=Path, help="YAML file, see studies/")
    parser.add_argument("--out", type=Path, help="folder of the report (default out/studies/NAME)")
    parser.add_argument("--cells", type=Path, help="folder of finished cells (default out/studies/cells)")
    parser.add_argument("--workers", type=int, help="processes, each with one thread (default: all cores)")
    parser.add_argument(
        "--cluster", metavar="ADDRESS", help="use the Ray cluster at this address (auto, local) instead of processes"
    )
    parser.add_argument("--dry-run", action="store_true", help="only tell what there is to do")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run a study and write its report."""
    # Before torch is imported, which takes seconds.
    if not args.recipe.is_file():
        raise RecipeError(f"recipe {args.recipe} does not exist; choose one of studies/")
    from mile_edge.studies.cells import Store, closure
    from mile_edge.studies.lab import Lab
    from mile_edge.studies.page import render_page
    from mile_edge.studies.recipe import load_study
    from mile_edge.studies.report import build_report, chosen_cells, latency_cell, study_cells
    from mile_edge.studies.run import run_cells

    check_range(args, {"workers": (1, MAX_WORKERS)})
    recipe = load_study(args.recipe)
    out = args.out or Path("out/studies") / recipe.name
    store = Store(args.cells or Path("out/studies/cells"))
    lab = Lab(recipe, args.recipe.resolve().parent)
    cells = study_cells(lab)
    timed = [cell for cell in [latency_cell(lab)] if cell is not None]
    for name, reason in lab.skipped.items():
        print(f"task {name} is skipped: {reason}", file=sys.stderr)
    if args.dry_run:
        return _tell_plan(args, [(cell.kind, store.has(cell)) for cell in closure([*cells, *timed]).values()])
    out.mkdir(parents=True, exist_ok=True)
    store.folder.mkdir(parents=True, exist_ok=True)
    workers = args.workers or len(os.sched_getaffinity(0))
    with _progress() as report:
        run_cells(cells, store, workers=workers, cluster=args.cluster, report=report)
        run_cells(chosen_cells(lab, store), store, workers=workers, cluster=args.cluster, report=report)
        # Alone: times of a machine that trains beside them would say little.
        run_cells(timed, store, workers=1, cluster=args.cluster, report=report)
    account = build_report(lab, store)
    _write(out / "study.json", json.dumps(account, indent=1, allow_nan=False) + "\n")
    _write(out / "study.html", render_page(account))
    _tell(args, account, out)
    return 0


def _write(path: Path, text: str) -> None:
    from mile_edge.bundle.files import write_whole

    write_whole(path, text.encode(), f"report {path}", RecipeError)


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (
        TextColumn("cells"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[last]}"),
    )
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        line = bar.add_task("cells", total=None, last="")

        def report(progress: Progress) -> None:
            bar.update(line, total=progress.total, completed=progress.done, last=progress.last)
            if not console.is_terminal and progress.last:
                print(f"{progress.done}/{progress.total} {progress.last}", file=sys.stderr, flush=True)

        yield report


def _tell_plan(args: argparse.Namespace, cells: list[tuple[str, bool]]) -> int:
    kinds: dict[str, list[bool]] = {}
    for kind, done in cells:
        kinds.setdefault(kind, []).append(done)
    plan = {kind: {"cells": len(each), "done": sum(each)} for kind, each in kinds.items()}
    if args.json:
        print(json.dumps(plan))
    else:
        for kind, counts in plan.items():
            print(f"{kind:>14}: {counts['done']} of {counts['cells']} cells done")
    return 0


def _tell(args: argparse.Namespace, account: dict[str, Any], out: Path) -> None:
    summary = {
        name: {order: figures["final_mean"]["mean"] for order, figures in method["figures"].items()}
        for name, method in account["methods"].items()
    }
    if args.json:
        print(json.dumps({"report": str(out / "study.html"), "final_mean": summary}))
        return
    from rich.console import Console
    from rich.table import Table

    orders = list(account["orders"])
    table = Table("method", *(f"final mean, {order}" for order in orders))
    for name, finals in summary.items():
        table.add_row(name, *("-" if finals[order] is None else f"{finals[order]:.3f}" for order in orders))
    console = Console()
    console.print(table)
    console.print(f"{out / 'study.html'}")
