"""`mile-edge world`: labelled frames, bags and pictures of the procedural street."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mile_edge.cli.options import belong_to, check_range, image_size
from mile_edge.data.world import DOMAINS, SENSORS, World, write_bag, write_drives, write_folder, write_preview
from mile_edge.data.world.writer import Progress as Report
from mile_edge.errors import RecipeError

EPILOG = """examples:
  mile-edge world data/fog --domain fog --sensor camera --frames 200 --seed 0 --size 240x320
  mile-edge world data/depth --domain clear,night,fog --sensor depth --frames 200
  mile-edge world data/moments --domain night --sensor all --frames 80     (camera/, depth/ and thermal/, aligned)
  mile-edge world drive --bag --domain clear,night,fog --seconds 5 --rate 10 --seed 7
  mile-edge world --preview world.png

A folder holds images/, labels/ and classes.yaml; a bag holds three sensors, their labels and the true domain. Both
appear only when complete. The same options always make the same frames; other seeds are other streets."""


ALL = "all"
# Seeds are 32 bits, and a folder takes one for each street.
_BOUNDS: dict[str, tuple[float, float]] = {"frames": (1, 10**9), "per_street": (1, 10**9), "streets": (1, 1000)}
_BOUNDS |= {"seed": (0, 2**31), "seconds": (0.001, 1e6), "rate": (0.001, 1e4)}


def add_parser(subparsers: Any) -> None:
    """Add `world`."""
    parser = subparsers.add_parser(
        "world",
        help="render a labelled street: folders, bags or a preview picture",
        description="Render the procedural street with labels, true depth and thermal, in six kinds of weather.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", metavar="OUT", nargs="?", help="the folder or bag to make; it must not exist yet")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--bag", action="store_true", help="write a ROS 2 bag instead of a folder")
    kind.add_argument("--preview", metavar="FILE.png", help="write one picture of all domains and sensors instead")
    parser.add_argument(
        "--domain",
        "--domains",
        dest="domains",
        metavar="NAME[,NAME...]",
        help=f"of {', '.join(DOMAINS)}; several take turns (default: clear, or all for --preview)",
    )
    parser.add_argument(
        "--sensor",
        choices=(*SENSORS, ALL),
        help="sensor of a folder; all: a folder per sensor, frames of one moment under one name (default: camera)",
    )
    parser.add_argument("--frames", type=int, help="frames of a folder (default: 200)")
    parser.add_argument("--per-street", type=int, metavar="N",
                        help="frames of a folder from one street before the next seed (default: 10)")  # fmt: skip
    parser.add_argument("--seconds", type=float, help="length of each domain in a bag (default: 5)")
    parser.add_argument("--rate", type=float, help="frames per second of a bag (default: 10)")
    parser.add_argument("--storage", choices=("mcap", "sqlite3"), help="storage of a bag (default: mcap)")
    parser.add_argument("--streets", type=int, metavar="N", help="streets of a preview (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="the first street (default: 0)")
    parser.add_argument(
        "--size", type=image_size, default=(240, 320), metavar="HxW", help="height x width in pixels (default: 240x320)"
    )
    parser.add_argument("--json", action="store_true", help="write JSON to standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make the folder, bag or picture; exit status 0."""
    started = time.monotonic()
    size: tuple[int, int] = args.size
    domains = read_domains(args.domains, DOMAINS if args.preview else ("clear",))
    if args.preview and args.out:
        raise RecipeError(f"OUT is {args.out} and --preview is {args.preview}; give one of the two.")
    if not args.preview and not args.out:
        raise RecipeError("No output was named; give OUT, or --preview FILE.png.")
    folder = not args.bag and not args.preview
    belong_to(args, folder, "a folder to make", {"frames": 200, "per_street": 10, "sensor": "camera"})
    belong_to(args, args.bag, "--bag", {"seconds": 5.0, "rate": 10.0, "storage": "mcap"})
    belong_to(args, bool(args.preview), "--preview", {"streets": 2})
    check_range(args, _BOUNDS)
    with _bar() as report:
        if args.preview:
            seeds = range(args.seed, args.seed + args.streets)
            path = write_preview(args.preview, seeds, domains, size, progress=report)
            done: dict[str, Any] = {"preview": str(path), "streets": args.streets}
        elif args.bag:
            segments = [(domain, args.seconds) for domain in domains]
            world = World(args.seed, size)
            path = write_bag(args.out, world, segments, args.rate, storage=args.storage, progress=report)
            done = {"bag": str(path), "frames": len(segments) * max(1, round(args.seconds * args.rate))}
        else:
            seeds = range(args.seed, args.seed - (-args.frames // args.per_street))
            if args.sensor == ALL:
                path = write_drives(args.out, seeds, args.per_street, domains, size, limit=args.frames, progress=report)
            else:
                path = write_folder(args.out, seeds, args.per_street, domains, args.sensor, size, limit=args.frames,
                                    progress=report)  # fmt: skip
            done = {"folder": str(path), "frames": args.frames, "sensor": args.sensor}
    done |= {"domains": list(domains), "seed": args.seed, "size": list(size)}
    if args.json:
        json.dump(done | {"seconds": round(time.monotonic() - started, 2)}, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        count = f"{done['frames']} frames" if "frames" in done else f"{done['streets']} streets"
        print(f"{path}: {count} of {', '.join(domains)} in {time.monotonic() - started:.1f} s")
    return 0


def read_domains(text: str | None, default: tuple[str, ...]) -> tuple[str, ...]:
    """Domain names from a comma-separated list. Raises RecipeError for an unknown one."""
    if text is None:
        return default
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    for name in names or (text,):
        if name not in DOMAINS:
            raise RecipeError(f"--domain names {name!r}; choose from {', '.join(DOMAINS)}.")
    return names


@contextmanager
def _bar() -> Iterator[Report]:
    """A progress bar with the time left, on standard error."""
    columns = (TextColumn("rendering"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("rendering", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
