"""``mile-edge bench``: what gating costs on this machine."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from mile_edge.cli.options import check_range

_EXAMPLES = """examples:
  mile-edge bench bundles/reference
  mile-edge bench bundles/reference --experts 128 --rounds 50 --json"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``bench``."""
    parser = commands.add_parser(
        "bench",
        help="time the gated pass against the frozen base",
        description="Time the gated pass against the frozen base in interleaved runs, on a copy of the bundle.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="bundle folder")
    parser.add_argument("--rounds", type=int, default=30, metavar="N", help="interleaved rounds (default 30)")
    parser.add_argument("--experts", type=int, metavar="N", help="fill the bank up to N (default: the bundle's own)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of one pass (default: all that it may use)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from rich.console import Console
    from rich.progress import Progress

    from mile_edge.bundle import Bundle
    from mile_edge.bundle.manifest import MAX_EXPERTS
    from mile_edge.runtime.backends import network_threads
    from mile_edge.runtime.bench import bench

    # One row of a bank is the base's.
    check_range(args, {"rounds": (1, 10**6), "experts": (1, MAX_EXPERTS - 1)})
    network_threads(args.threads)
    bundle = Bundle.open(args.bundle)
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        line = bar.add_task("rounds", total=args.rounds)
        result = bench(
            bundle,
            rounds=args.rounds,
            experts=args.experts,
            threads=args.threads,
            report=lambda done, _: bar.update(line, completed=done),
        )
    account = asdict(result)
    if args.json:
        print(json.dumps(account))
        return 0
    for key, value in account.items():
        print(f"{key:>20}: {value}")
    return 0
