"""``mile-edge demo``: a street nobody has seen, three sensors, changing weather, one bundle."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mile_edge.cli.options import check_range
from mile_edge.errors import BundleError, RecipeError

if TYPE_CHECKING:
    from mile_edge.data.world import World

_EXAMPLES = """examples:
  mile-edge demo
  mile-edge demo --seed 7 --domains clear,fog,snow --out out/snow"""
_REFERENCE = Path(__file__).parents[2] / "bundles" / "reference"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``demo``."""
    parser = commands.add_parser(
        "demo",
        help="replay a freshly made multi-sensor bag through the reference bundle",
        description="Render a drive along an unseen street with camera, depth and thermal, and replay it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--bundle", type=Path, default=_REFERENCE, help="bundle (default: the shipped bundles/reference)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/demo"), help="folder for bag and report (default out/demo)"
    )
    parser.add_argument(
        "--domains", default="clear,night,fog,rain", help="weathers in turn (default clear,night,fog,rain)"
    )
    parser.add_argument("--seconds", type=float, default=6.0, help="length of each (default 6)")
    parser.add_argument("--rate", type=float, default=2.0, help="frames per second and sensor (default 2)")
    parser.add_argument("--seed", type=int, default=20261, help="which street (default 20261)")
    parser.add_argument("--json", action="store_true", help="print the report's figures as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Render, replay, and say where to look."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from mile_edge.data.world import World
    from mile_edge.replay import ReplayOptions, replay

    if not args.bundle.is_dir():
        raise BundleError(
            f"bundle {args.bundle} does not exist; run from a clone of the repository or name one with --bundle"
        )
    check_range(args, {"seconds": (0.001, 1e6), "rate": (0.001, 1e4), "seed": (0, 2**31)})
    segments = [(domain.strip(), args.seconds) for domain in args.domains.split(",")]
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = "it is a file" if isinstance(error, FileExistsError) else error.strerror
        raise RecipeError(f"--out {args.out} cannot be made ({why}); name another folder") from error
    columns = (TextColumn("{task.description:>9}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        line = bar.add_task("rendering", total=None)
        bag = _fresh_bag(
            args, World(args.seed), segments, lambda done, total: bar.update(line, completed=done, total=total)
        )
        second = bar.add_task("replaying", total=None)
        result = replay(
            args.bundle,
            bag,
            ReplayOptions(out=args.out),
            progress=lambda done, total: bar.update(second, completed=done, total=total),
        )
    if args.json:
        print(json.dumps(result.report))
    else:
        _tell(result.report, (bag, *result.files))
    return 0


def _fresh_bag(
    args: argparse.Namespace, world: World, segments: list[tuple[str, float]], progress: Callable[[int, int], None]
) -> Path:
    """The bag is written aside and moved into place, so that a second demo may replace the first."""
    from mile_edge.data.world import write_bag

    target = args.out / "bag"
    with tempfile.TemporaryDirectory(dir=args.out, prefix=".bag-") as folder:
        made = Path(folder) / "bag"
        write_bag(made, world, segments, args.rate, progress=progress)
        shutil.rmtree(target, ignore_errors=True)
        made.rename(target)
    return target


def _tell(report: Mapping[str, Any], files: Sequence[Path]) -> None:
    def figure(value: float | None) -> str:
        return "unknown" if value is None else f"{value:.3f}"

    gate, latency = report["gate"], report["latency_ms"]
    print(
        f"{report['frames']} frames of {len(report['topics'])} topics at {report['frames_per_second']:.1f} per second"
    )
    print(
        f"mIoU {figure(report['miou'])}, gate accuracy {figure(gate['accuracy'])}, latency p50 {latency['p50']:.1f} ms"
    )
    for file in files:
        print(f"  {file}")
    print(f"Open {files[1]} in a browser.")
