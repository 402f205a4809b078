"""What ``mile-edge train`` may take from a machine that has other work."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from mile_edge.errors import RecipeError
from mile_edge.workers.limits import Limits, read_cores, within


def add_options(form: argparse.ArgumentParser) -> None:
    """Add ``--cores``, ``--nice`` and ``--memory``."""
    group = form.add_argument_group("beside other work", "For a robot that segments meanwhile, or a shared machine.")
    group.add_argument("--cores", metavar="LIST", help="processors that it may use, such as 3 or 0,2-3 (default all)")
    group.add_argument(
        "--nice", type=int, default=0, metavar="N", help="niceness; 19 takes only time that nobody wants (default 0)"
    )
    group.add_argument(
        "--memory", type=int, default=0, metavar="MB", help="end in one sentence beyond so much memory (default: any)"
    )


def kept(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """A command that keeps to its ``--cores``, ``--nice`` and ``--memory``."""

    def run_within(args: argparse.Namespace) -> int:
        with within(_limits(args)):
            return run(args)

    return run_within


def _limits(args: argparse.Namespace) -> Limits:
    for option, low, high in (("nice", 0, 19), ("memory", 0, 10**8)):
        if not low <= getattr(args, option) <= high:
            raise RecipeError(f"--{option} is {getattr(args, option)}; give {low} to {high}")
    return Limits(read_cores(args.cores) if args.cores else (), args.nice, args.memory)
