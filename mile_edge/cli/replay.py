"""`mile-edge replay`: recorded bags through a bundle, and a report."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from mile_edge.cli.options import belong_to
from mile_edge.cli.output import console
from mile_edge.cli.replay_shown import shown_progress, summarise
from mile_edge.data.sensors import KINDS, load_profile
from mile_edge.data.topics import OFF
from mile_edge.errors import RecipeError
from mile_edge.fleet import FleetResult, list_bags, replay_fleet
from mile_edge.fleet.places import is_url
from mile_edge.replay import ReplayOptions, ReplayResult, replay

_EPILOG = f"""\
examples:
  mile-edge replay bundles/reference drive_2024_05_01
  mile-edge replay bundles/reference drive.mcap --out out/drive --limit 500
  mile-edge replay bundles/reference drive.bag --topic /lepton/image=thermal --topic /rear/image_raw={OFF}
  mile-edge replay bundles/reference camvid_bag --class-map camvid_to_world.yaml
  mile-edge replay bundles/reference drive.mcap --fuse --tolerance 20
  mile-edge replay bundles/reference drive.mcap --sensor-profile my_lepton.yaml
  mile-edge replay bundles/reference drive.mcap --record-novel ring

Many bags, two at a time, into one report with a page for each; killed or interrupted, the same command goes on:

  mile-edge replay bundles/reference drives/*.mcap --workers 2 --out out/week
  mile-edge replay bundles/reference week.yaml 's3://robot-7/2026-11-*' --workers 16
  mile-edge replay bundles/reference week.txt --workers 64 --cluster auto --out /shared/week

week.yaml holds a list of bags, week.txt one a line, each a path relative to it, a pattern or a URL that fsspec knows
(pip install 'mile-edge[fleet]', and s3fs for s3://). --cluster runs the workers on a Ray cluster (the ray extra), on
machines that all see the bundle and --out.

A bag is a rosbag2 folder (MCAP or sqlite3), one of its files, or a ROS 1 .bag; damaged ones are read as far as they go,
and the report counts what was lost. No ROS is needed.

Labels are mono8 images of class ids, 255 = void, matched to images by stamp. The class map is a YAML file that gives
each source class, by id or by name, a class of the bundle or 255:

  source: classes.yaml      # only needed for names: the file whose `classes` list their ids
  pavement: sidewalk
  8: car
  bicyclist: 255

Ctrl-C or SIGTERM ends the replay early: the report then covers what was done, and the exit status is 130 or 143.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "replay",
        help="run a bag through a bundle and report what came out",
        description="Run every image of a recorded bag through a bundle; write report.html, report.json and "
        "predictions.mcap.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="bundle folder")
    parser.add_argument(
        "bags",
        nargs="+",
        metavar="BAG",
        help="bag folder, or a .mcap, .db3 or .bag file; a pattern, a URL, or a .yaml or .txt list of these",
    )
    parser.add_argument("--out", type=Path, default=Path("out/replay"), metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--topic",
        type=_topic_kind,
        action="append",
        default=[],
        metavar="NAME=KIND",
        help=f"sensor of an image topic: {', '.join(KINDS)}, or {OFF} to leave it out; found by encoding and name "
        "otherwise; may be given several times",
    )
    parser.add_argument(
        "--labels",
        action="append",
        default=[],
        metavar="TOPIC",
        help="topic with labels, any ending in /label otherwise; may be given several times",
    )
    parser.add_argument(
        "--domains", metavar="TOPIC", help="std_msgs/String topic that names the true domain; default: /truth/domain"
    )
    parser.add_argument(
        "--sensor-profile",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="YAML like calib/sensors/thermal.yaml: scale and range of your depth or thermal sensor, in place of the "
        "bundle's; may be given several times",
    )
    parser.add_argument("--class-map", type=Path, metavar="FILE", help="YAML: class of the bag to class of the bundle")
    parser.add_argument(
        "--fuse",
        action="store_true",
        help="segment frames of one moment together and fuse them into one more mask; all must see the same view",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="MS",
        help="how far stamps of one moment may lie apart, in milliseconds (default 50)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="stop after N frames")
    parser.add_argument(
        "--backend",
        choices=("onnx", "tensorrt", "tensorrt-rtx"),
        default="onnx",
        help="what runs the network; the TensorRT ones need `mile-edge build` first (default onnx)",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads of the network; default: all cores, 1 with several workers"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="bags at the same time, each in a process of its own")
    parser.add_argument(
        "--cluster", metavar="ADDRESS", help="workers on a Ray cluster: its address, `auto`, or `local` for one here"
    )
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="keep copies of remote bags here; default: in DIR until they are done"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="of many bags, replay also those that an earlier run has done"
    )
    parser.add_argument("--no-predictions", action="store_true", help="write no predictions.mcap")
    parser.add_argument(
        "--fallback",
        choices=("nearest", "base", "mix"),
        help="what serves a stream that no expert knows (default: mix where the gate mixes, else nearest)",
    )
    parser.add_argument(
        "--record-novel", type=Path, metavar="DIR", help="keep frames that no expert knows in a ring of MCAP files"
    )
    parser.add_argument("--record-mb", type=float, metavar="MB", help="that this ring may take (default 100)")
    parser.add_argument(
        "--shadow",
        action="store_true",
        help="compare the expert in shadow on these frames, and let it go live or be withdrawn at the end of its plan; "
        "otherwise a replay never changes the bundle",
    )
    parser.add_argument("--json", action="store_true", help="print report.json to stdout")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Replay a bag; returns 0, 1 when not a single frame could be replayed, 130 or 143 when Ctrl-C or SIGTERM came."""
    belong_to(args, args.fuse, "--fuse", {"tolerance": 50.0})
    belong_to(args, args.record_novel is not None, "--record-novel", {"record_mb": 100.0})
    options = ReplayOptions(
        out=args.out,
        kinds=dict(args.topic),
        labels=tuple(args.labels),
        domains=args.domains,
        class_map=args.class_map,
        limit=args.limit,
        predictions=not args.no_predictions,
        threads=args.threads,
        backend=args.backend,
        profiles=tuple(map(load_profile, args.sensor_profile)),
        fuse=args.fuse,
        tolerance_ns=_nanoseconds(args.tolerance),
        fallback=args.fallback,
        record_novel=args.record_novel,
        record_mb=args.record_mb,
        shadow=args.shadow,
    )
    bags = list_bags(args.bags)
    fleet = len(args.bags) > 1 or bags != args.bags or any(map(is_url, bags)) or args.cluster
    fleet = fleet or args.workers is not None
    belong_to(args, any(map(is_url, bags)), "a bag at a URL", {"cache": None})
    screen = console(stderr=True)
    result: ReplayResult | FleetResult
    with _interruptible() as interrupted, shown_progress(screen) as shown:

        def stop() -> bool:
            return bool(interrupted)

        if not fleet:
            result = replay(args.bundle, bags[0], options, progress=shown.frames, stop=stop)
        else:
            result = replay_fleet(
                args.bundle,
                bags,
                options,
                workers=1 if args.workers is None else args.workers,
                cluster=args.cluster,
                cache=args.cache,
                fresh=args.fresh,
                progress=shown.bags,
                stop=stop,
            )
    report = result.report
    if args.json:
        # In ASCII: whatever the output's encoding is, it stays JSON.
        print(json.dumps(report, indent=1))
    summarise(screen, report)
    for file in result.files:
        print(file, file=sys.stderr if args.json else sys.stdout)
    if report["stopped"] == "interrupted":
        if fleet:
            told = f"{report['bags_done']} bags; the same command goes on with the other {report['bags_to_do']}"
        else:
            told = f"{report['frames']} frames replayed so far"
        screen.print(f"[yellow]Interrupted[/]: the report covers the {told}.")
        return 128 + (interrupted or [signal.SIGINT])[0]
    return 0 if report["frames"] and not report.get("bags_failed") else 1


def _nanoseconds(milliseconds: float) -> int:
    # NaN is within no bounds.
    if not 0 <= milliseconds <= 60_000:
        raise RecipeError(f"--tolerance is {milliseconds:g} ms; give 0 to 60000")
    return round(milliseconds * 1e6)


def _topic_kind(text: str) -> tuple[str, str]:
    name, equals, kind = text.rpartition("=")
    if not equals or not name or kind not in (*KINDS, OFF):
        known = ", ".join((*KINDS, OFF))
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=KIND; KIND is one of {known}, as in /ir/image=thermal")
    return name, kind


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Turn the first Ctrl-C or SIGTERM into a wish to stop: the report is still written. The second ends at once.

    Yields the list of the signals that came.
    """
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
