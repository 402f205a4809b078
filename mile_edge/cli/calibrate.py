"""``mile-edge calibrate``: what a bundle learns from held-out frames; novelty and hysteresis, or int8."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mile_edge.cli import int8
from mile_edge.cli.options import name_domains, names
from mile_edge.errors import RecipeError

if TYPE_CHECKING:
    from mile_edge.bundle import Bundle
    from mile_edge.data.folder import FolderDataset

_EXAMPLES = """examples:
  mile-edge calibrate gate bundles/reference --data out/world/held/*
  mile-edge calibrate gate out/camvid/bundle --data ../shared/data/camvid/day/val --domain day --dry-run --json
  mile-edge calibrate gate bundles/reference --data out/world/test/* harbour/frames --out roc.html"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``calibrate``."""
    parser = commands.add_parser(
        "calibrate",
        help="set a bundle's novelty limit and hysteresis, or write it in int8",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    forms = parser.add_subparsers(dest="form", required=True, metavar="gate|int8")
    int8.add_form(forms)
    gate = forms.add_parser(
        "gate",
        help="novelty limit and hysteresis",
        description="Frames of domains that an expert knows tell what is usual and set the limit of novelty; others "
        "tell how well novelty is seen, and so do each expert's own frames with the gate refitted as if it had "
        "never been there. Many places with a few frames each are worth more than many frames of few places.",
        epilog=_EXAMPLES,
        formatter_class=parser.formatter_class,
    )
    gate.add_argument("bundle", type=Path)
    gate.add_argument("--data", nargs="+", type=Path, required=True, help="folders of held-out frames")
    gate.add_argument("--domain", type=names, help="true domain of each folder, in order (default: what they say)")
    gate.add_argument("--out", type=Path, metavar="FILE", help="draw the ROC curves into this .svg or .html file")
    gate.add_argument(
        "--false-alarms",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="of known frames that may exceed the limit, on average over sets of places (default 0.01)",
    )
    gate.add_argument(
        "--alike",
        type=int,
        default=10,
        metavar="N",
        help="successive frames of a recording that show one place and are no independent samples (default 10)",
    )
    gate.add_argument(
        "--keep-hysteresis", action="store_true", help="set the novelty limit only and leave the margin between experts"
    )
    gate.add_argument("--threads", type=int, metavar="N", help="threads of the network; default: all cores")
    gate.add_argument("--dry-run", action="store_true", help="report, but leave the bundle as it is")
    gate.add_argument("--json", action="store_true", help="print JSON")
    gate.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Calibrate, write into the bundle, print."""
    from rich.console import Console
    from rich.progress import Progress

    from mile_edge.bundle import Bundle
    from mile_edge.calibration.gate import calibrate_gate
    from mile_edge.calibration.picture import check_suffix, write_picture
    from mile_edge.data.folder import FolderDataset

    if not 0 < args.false_alarms <= 0.5:
        raise RecipeError(f"--false-alarms is {args.false_alarms}; give a share above 0, at most 0.5")
    if args.alike < 1:
        raise RecipeError(f"--alike is {args.alike}; give 1 frame or more")
    if args.out:
        check_suffix(args.out)
    bundle = Bundle.open(args.bundle)
    folders = [FolderDataset(path) for path in args.data]
    name_domains(folders, args.domain or ())
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        line = bar.add_task("frames", total=sum(map(len, folders)))
        found = calibrate_gate(
            bundle,
            folders,
            args.false_alarms,
            args.alike,
            args.threads,
            lambda done: bar.update(line, completed=done),
        )
    if args.keep_hysteresis:
        found = replace(found, hysteresis=bundle.manifest.gate.hysteresis)
    if not args.dry_run:
        bundle.set_gate(found.applied_to(bundle.manifest.gate))
    if args.out:
        write_picture(args.out, found.roc, f"Novelty seen by the gate of {bundle.manifest.name}")
    notes = _notes(found.novelty.groups, bundle, folders)
    if args.json:
        print(json.dumps({**found.account(), "notes": notes}))
    else:
        _show(found.account())
        for note in notes:
            print(f"note: {note}")
    return 0


def _notes(groups: int, bundle: Bundle, folders: Sequence[FolderDataset]) -> list[str]:
    """Sentences on what the figures do not tell."""
    from mile_edge.replay.gate import right_expert

    notes = []
    if groups == 1:
        notes.append(
            "all known frames are of one place (groups: 1), and a limit set there may not hold elsewhere; give "
            "held-out frames of many places"
        )
    experts = bundle.choices()
    unknown = {each.domain for each in folders if right_expert(experts, each.sensor, each.domain) is None}
    if unknown:
        notes.append(
            f"frames of {', '.join(sorted(unknown))} count as unknown, for no expert lists that domain; where one "
            "knows them, name their true domain with --domain"
        )
    return notes


def _show(account: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    curves, novelty = account.pop("roc"), account.pop("novelty")
    account = {"limit": novelty["limit"], "groups": novelty["groups"], **account}
    for key, value in account.items():
        print(f"{key:>19}: {value}")
    table = Table("unknown", "frames", "AUC", "noticed at 1 % false alarms", "at 5 %", "at the limit")
    for curve in curves:
        name = f"{curve['unknown']} (left out)" if curve["left_out"] else curve["unknown"]
        rates = [f"{100 * curve[key]:.1f} %" for key in ("at_1", "at_5", "at_limit")]
        table.add_row(name, str(curve["frames"][1]), f"{curve['auc']:.3f}", *rates)
    Console().print(table)
