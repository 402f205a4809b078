"""``mile-edge evaluate``: scores on labelled folders."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mile_edge.cli.options import MANY, belong_to, check_range, image_size, name_domains, names
from mile_edge.errors import BundleError, RecipeError

if TYPE_CHECKING:
    from mile_edge.bundle import ClassLabel
    from mile_edge.data.folder import FolderDataset
    from mile_edge.replay.controls import Control
    from mile_edge.replay.folders import Predictor

_EXAMPLES = """examples:
  mile-edge evaluate bundles/camvid ../shared/data/camvid/day/test ../shared/data/camvid/dusk/test
  mile-edge evaluate bundles/camvid ../shared/data/camvid/dusk/test --expert dusk --json
  mile-edge evaluate bundles/camvid ../shared/data/camvid/*/test --routing oracle      (the gate's upper bound)
  mile-edge evaluate bundles/reference --fuse data/night data/fog      (folders of mile-edge world --sensor all)
  mile-edge evaluate out/camvid-full ../shared/data/camvid/dusk/test        (a base folder; needs torch)"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``evaluate``."""
    parser = commands.add_parser(
        "evaluate",
        help="score a bundle or a base on labelled folders",
        description="mIoU per folder and gate accuracy, from the same pass that runs on the robot.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, help="a bundle, the folder of a base, or a .pth file of ESPNetv2")
    parser.add_argument("data", nargs="+", type=Path, help="folders with images/ and labels/")
    parser.add_argument("--expert", help="pin this expert instead of asking the gate (oracle routing)")
    parser.add_argument(
        "--routing",
        choices=("gate", "oracle", "random"),
        default="gate",
        help="who chooses the expert: the gate, each folder's sensor and domain, or chance (default gate)",
    )
    parser.add_argument(
        "--fuse",
        action="store_true",
        help="folders hold one aligned data set per sensor: score every subset of them, fused, beside each alone",
    )
    parser.add_argument("--seed", type=int, help="of --routing random (default 0)")
    parser.add_argument("--domain", type=names, help="true domain of each folder, in order (default: what they say)")
    parser.add_argument(
        "--size",
        type=image_size,
        metavar="HxW",
        help="network size of a base folder (default 240x320)",
    )
    parser.add_argument(
        "--class-map", type=Path, metavar="FILE", help="YAML from a base's classes to the data's (calib/class-maps)"
    )
    parser.add_argument(
        "--sensor-profile",
        type=Path,
        metavar="FILE",
        help="how images become frames (calib/sensors), in place of what the folders say",
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth frame of each folder")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate and print."""
    from rich.console import Console
    from rich.progress import Progress

    from mile_edge.data.folder import FolderDataset
    from mile_edge.data.sensors import load_profile
    from mile_edge.replay.folders import evaluate_folders

    belong_to(args, args.routing == "random", "--routing random", {"seed": 0})
    check_range(args, {"every": (1, MANY), "seed": (0, 2**31 - 1)})
    if args.fuse:
        return _fuse(args)
    profile = load_profile(args.sensor_profile) if args.sensor_profile else None
    folders = [FolderDataset(path, profile=profile, every=args.every) for path in args.data]
    name_domains(folders, args.domain or ())
    is_bundle = (args.model / "manifest.json").is_file()
    is_weights = args.model.suffix == ".pth" and args.model.is_file()
    if not is_bundle and not is_weights and not (args.model / "config.json").is_file():
        raise BundleError(f"{args.model} is neither a bundle, nor a base's folder or .pth file; give one of these")
    if is_bundle and args.class_map:
        raise RecipeError(f"--class-map is for bases, and classes of {args.model} go by their names; leave it out")
    belong_to(args, not is_bundle, "the folder of a base", {"size": (240, 320)})
    if is_bundle:
        predict, classes, gate, control = _bundle(args)
    else:
        if args.routing != "gate" or args.expert:
            raise RecipeError(f"{args.model} is a base, which has no experts to route to; give a bundle")
        predict, classes, gate = _base(args, folders)
        control = None
    before = control.before_folder if control else _nothing
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        line = bar.add_task("frames", total=sum(map(len, folders)))
        account = evaluate_folders(
            predict, folders, classes, gate, lambda done: bar.update(line, completed=done), before
        )
    if args.json:
        print(json.dumps(account))
    else:
        _show(account)
    return 0


def _fuse(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from mile_edge.data.aligned import AlignedFolders
    from mile_edge.replay.fused_folders import evaluate_fused
    from mile_edge.runtime import Segmenter

    if args.expert or args.routing != "gate":
        raise RecipeError("--fuse leaves every sensor to the gate; leave out --expert and --routing")
    idle = {"--domain": args.domain, "--class-map": args.class_map, "--sensor-profile": args.sensor_profile}
    idle["--size"] = args.size
    for option in [option for option, value in idle.items() if value] + ["--every"] * (args.every != 1):
        raise RecipeError(f"--fuse takes every moment as its folders describe it; leave out {option}")
    drives = [AlignedFolders(path) for path in args.data]
    bar = Progress(console=Console(stderr=True), disable=not sys.stderr.isatty())
    with Segmenter.open(args.model, hysteresis=0, shadow=False) as segmenter, bar:
        line = bar.add_task("moments", total=sum(map(len, drives)))
        account = evaluate_fused(segmenter, drives, lambda done: bar.update(line, completed=done))
    if args.json:
        print(json.dumps(account))
    else:
        _show_fused(account)
    return 0


def _show_fused(account: dict[str, Any]) -> None:
    from rich.table import Table

    from mile_edge.cli.output import console

    domains = list(next(iter(account["fused"].values()), {}))
    table = Table("sensors", "mask", *domains)
    for mask in ("own", "fused"):
        for name, row in account[mask].items():
            table.add_row(name, mask, *(f"{row[domain]:.3f}" for domain in domains))
    screen = console()
    screen.print(table)
    for domain, points in account["gain"].items():
        screen.print(f"{domain}: all sensors fused, {points:+.1f} points over the best one")
    worst = account["worst_missing"]
    screen.print(f"largest loss of a subset against its best sensor: {worst['points']:.1f} points "
                  f"({worst['sensors']}, {worst['domain']})")  # fmt: skip
    _show_notes(account)


def _nothing(_folder: FolderDataset) -> None:
    """A base treats all folders alike."""


def _bundle(args: argparse.Namespace) -> tuple[Predictor, tuple[ClassLabel, ...], Any, Control | None]:
    from mile_edge.bundle import Bundle
    from mile_edge.replay.controls import Control
    from mile_edge.replay.gate import GateScores
    from mile_edge.runtime import Segmenter

    bundle = Bundle.open(args.model)
    # Folders hold single frames, not a stream: there is no last expert to stay with.
    segmenter = Segmenter(bundle, hysteresis=0, shadow=False)
    if args.expert and args.routing != "gate":
        raise RecipeError(
            f"--expert {args.expert} and --routing {args.routing} contradict each other; give one of them"
        )
    if args.expert:
        segmenter.pin(args.expert)
    control = Control(segmenter, args.routing, args.seed)

    def predict(frame: Any, sensor: str) -> tuple[Any, str]:
        control.before_frame()
        result = segmenter(frame, sensor=sensor)
        return result.mask[0], result.expert[0]

    return predict, bundle.manifest.classes, None if args.expert else GateScores(bundle.choices()), control


def _base(args: argparse.Namespace, folders: list[FolderDataset]) -> tuple[Predictor, tuple[ClassLabel, ...], None]:
    import numpy as np
    import torch

    from mile_edge.data.class_map import read_class_map
    from mile_edge.network.base import load_base
    from mile_edge.training.base import Logits, shared_classes
    from mile_edge.training.evaluate import predict as predict_mask

    classes = shared_classes(folders)
    network = Logits(load_base(str(args.model), None if args.class_map else len(classes)))
    # What the map does not name becomes void, and void is never right.
    table = np.arange(256) if args.class_map is None else read_class_map(args.class_map, [c.name for c in classes])
    table = table.astype(np.uint8)

    def predict(frame: Any, _sensor: str) -> tuple[Any, str]:
        with torch.inference_mode():
            return table[predict_mask(network, frame, args.size, frame.shape[:2])], "base"

    return predict, classes, None


def _show(account: dict[str, Any]) -> None:
    from rich.table import Table

    from mile_edge.cli.output import console

    table = Table("folder", "domain", "sensor", "frames", "mIoU")
    folders = dict(account["folders"])
    if len(folders) > 1:
        folders["all"] = {"domain": "", "sensor": "", "frames": account["frames"], "miou": account["miou"]}
    for name, folder in folders.items():
        miou = "-" if folder["miou"] is None else f"{folder['miou']:.3f}"
        table.add_row(name, folder["domain"], folder["sensor"], str(folder["frames"]), miou)
    screen = console()
    screen.print(table)
    if "gate" in account:
        accuracy, reason = account["gate"]["accuracy"], account["gate"]["reason"]
        screen.print(f"gate accuracy: {f'not measured, {reason}' if accuracy is None else accuracy}")
        for pair, count in account["gate"]["confusion"].items():
            screen.print(f"  {pair}: {count}")
    _show_notes(account)


def _show_notes(account: dict[str, Any]) -> None:
    # Not through the console, which would wrap and colour a path.
    for note in account["notes"]:
        print(f"note: {note}")
