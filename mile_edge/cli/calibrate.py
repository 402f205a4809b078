"""``mile-edge calibrate gate``: thresholds and hysteresis from held-out frames."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

from mile_edge.errors import RecipeError

_EXAMPLES = """examples:
  mile-edge calibrate gate bundles/reference --data out/world/test/*
  mile-edge calibrate gate bundles/camvid --data ../shared/data/camvid/day/val --dry-run --json"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``calibrate``."""
    parser = commands.add_parser(
        "calibrate",
        help="set a bundle's novelty thresholds and hysteresis",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    forms = parser.add_subparsers(dest="form", required=True, metavar="gate")
    gate = forms.add_parser(
        "gate",
        help="novelty thresholds and hysteresis",
        description="Frames of domains that an expert knows set its threshold; others tell how well novelty is seen.",
        epilog=_EXAMPLES,
        formatter_class=parser.formatter_class,
    )
    gate.add_argument("bundle", type=Path)
    gate.add_argument("--data", nargs="+", type=Path, required=True, help="folders of held-out frames")
    gate.add_argument("--percentile", type=float, default=99.0, help="of an expert's own distances (default 99)")
    gate.add_argument("--dry-run", action="store_true", help="report, but leave the bundle as it is")
    gate.add_argument("--json", action="store_true", help="print JSON")
    gate.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Calibrate, write into the bundle, print."""
    from rich.console import Console
    from rich.progress import Progress

    from mile_edge.bundle import Bundle
    from mile_edge.calibration.gate import calibrate_gate
    from mile_edge.data.folder import FolderDataset
    from mile_edge.runtime import Segmenter

    if not 50 <= args.percentile <= 100:
        raise RecipeError(f"--percentile is {args.percentile}; give 50 to 100")
    bundle = Bundle.open(args.bundle)
    folders = [FolderDataset(path) for path in args.data]
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        line = bar.add_task("frames", total=sum(map(len, folders)))
        found = calibrate_gate(
            Segmenter(bundle, hysteresis=0), folders, args.percentile, lambda done: bar.update(line, completed=done)
        )
    if not args.dry_run:
        thresholds = {**bundle.manifest.gate.thresholds, **found.thresholds}
        bundle.set_gate(replace(bundle.manifest.gate, thresholds=thresholds, hysteresis=found.hysteresis))
    if args.json:
        print(json.dumps(asdict(found)))
        return 0
    for key, value in asdict(found).items():
        print(f"{key:>14}: {value}")
    return 0
