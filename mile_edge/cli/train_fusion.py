"""``mile-edge train fusion``: the small head that fuses several sensors."""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mile_edge.cli import limits
from mile_edge.cli.options import check_range
from mile_edge.cli.train_shown import tell_account
from mile_edge.errors import DataError

if TYPE_CHECKING:
    from mile_edge.bundle import Bundle
    from mile_edge.training.fit import Progress

# As in mile_edge.bundle.fusion, which is imported when it is needed.
_KINDS = ("uniform", "routed", "both", "both-aux")
_BOUNDS = {"steps": (1, 10**7), "batch": (1, 4096), "seed": (0, 2**31 - 1), "lr": (1e-9, 10.0), "width": (1, 4096)}
_EXAMPLES = """examples:
  for weather in clear dusk night fog rain snow; do
    mile-edge world data/moments/$weather --sensor all --domain $weather --frames 80 --per-street 5 --seed 50000
  done
  mile-edge train fusion bundles/reference data/moments/* --add
  mile-edge evaluate bundles/reference --fuse data/other-moments/*

A folder holds one data set per sensor (camera/, depth/, thermal/), frames of one moment under one file name. Base and
experts stay as they are: their features are computed once, and only the head learns, sensors left out at random."""


def add_form(forms: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``train fusion``."""
    form = forms.add_parser(
        "fusion",
        help="the head that fuses several sensors' masks",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    form.add_argument("bundle", type=Path, help="the bundle it is for")
    form.add_argument("data", nargs="+", type=Path, help="folders with one aligned data set per sensor")
    form.add_argument(
        "--out", type=Path, default=Path("fusion.safetensors"), help="file to write (default %(default)s)"
    )
    form.add_argument("--add", action="store_true", help="put it into the bundle, with a graph if need be")
    form.add_argument("--kind", choices=_KINDS, help="what is fused (default: the bundle's, or both)")
    form.add_argument("--width", type=int, help="numbers per pixel that are fused (default: the bundle's, or 128)")
    form.add_argument("--base", help="folder of the base, for bundles whose graph does not hold its exact weights")
    form.add_argument("--cache", type=Path, help="where features lie while it trains (default: a temporary folder)")
    form.add_argument("--steps", type=int, default=1000, help="optimiser steps (default 1000)")
    form.add_argument("--batch", type=int, default=4, help="moments per step (default 4)")
    form.add_argument("--lr", type=float, default=2e-3, help="peak learning rate (default 0.002)")
    form.add_argument("--seed", type=int, default=0, help="of order, dropout and initial weights (default 0)")
    form.add_argument("--json", action="store_true", help="print the result as JSON")
    limits.add_options(form)
    form.set_defaults(run=limits.kept(run))


def run(args: argparse.Namespace) -> int:
    """Train a head and put it into the bundle where asked for."""
    from mile_edge.bundle import Bundle, set_fusion_head, write_head
    from mile_edge.bundle.fusion import WIDTH
    from mile_edge.data.aligned import AlignedFolders
    from mile_edge.export.fusion import fused_network, give_fusion
    from mile_edge.network.base import load_base
    from mile_edge.replay.folders import label_table
    from mile_edge.training.fusion import FusionSchedule, train_head
    from mile_edge.training.fusion_features import cache_features

    check_range(args, _BOUNDS)
    place = _folder(args)
    bundle = Bundle.open(args.bundle)
    has = bundle.manifest.fusion
    kind = args.kind or (has.kind if has else "both")
    width = args.width or (has.width if has else WIDTH)
    drives = [AlignedFolders(path) for path in args.data]
    tables = [label_table(next(iter(drive.folders.values())), bundle.manifest.classes) for drive in drives]

    def base() -> Any:
        return load_base(args.base, len(bundle.experts()[0].classes)) if args.base else None

    network = fused_network(bundle, kind, width, base())
    schedule = FusionSchedule(steps=args.steps, batch=args.batch, lr=args.lr, seed=args.seed)
    with tempfile.TemporaryDirectory(prefix=".features-", dir=place) as folder:
        with _Bar("features") as show:
            data = cache_features(bundle, network, drives, tables, Path(folder), show)
        with _Bar("head") as show:
            head = train_head(bundle, network.layout, data, schedule, lambda progress: _report(show, progress))
    head = replace(head, training={**head.training, "data": [str(drive.path) for drive in drives]})
    write_head(args.out, head)
    if args.add:
        _add(bundle, args.out, kind, width, give_fusion, set_fusion_head, base)
    account = {"head": str(args.out), "kind": kind, "width": width, "moments": head.training["moments"]}
    account |= {"steps": args.steps, "seconds": head.training["seconds"], "added": args.add}
    tell_account(account, args.json)
    return 0


def _add(bundle: Bundle, head: Path, kind: str, width: int, give: Any, put: Any, base: Any) -> None:
    """The graph only where there is none that fits: a robot's engine of it stays as it is."""
    has = bundle.manifest.fusion
    if has is None or (has.kind, has.width) != (kind, width):
        bundle = give(bundle, kind, width, base())
    put(bundle, head)


def _folder(args: argparse.Namespace) -> Path | None:
    if args.cache is not None and not args.cache.is_dir():
        raise DataError(f"--cache {args.cache} is no folder; make it, or leave the option out")
    folder: Path | None = args.cache
    return folder


class _Bar:
    """A progress bar on standard error; a line now and then where that is no terminal."""

    def __init__(self, name: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        console = Console(stderr=True)
        columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._name, self._terminal = name, console.is_terminal
        self._bar = Bar(*columns, console=console, disable=not console.is_terminal)
        self._line = self._bar.add_task(name, total=None)

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int, told: str = "") -> None:
        self._bar.update(self._line, completed=done, total=total)
        if not self._terminal and (done % 50 == 0 or done == total):
            print(f"{self._name}: {done}/{total}{told}", file=sys.stderr, flush=True)


def _report(show: _Bar, progress: Progress) -> None:
    minutes, seconds = divmod(int(progress.seconds_left), 60)
    show(progress.step, progress.steps, f" loss {progress.loss:.3f}, {minutes}:{seconds:02d} left")
