"""``mile-edge train``, and its form ``base``; the forms ``expert`` and ``fusion`` have modules of their own."""

from __future__ import annotations

import argparse
from pathlib import Path

from mile_edge.cli import limits, train_expert, train_fusion, train_schedule
from mile_edge.cli.options import image_size
from mile_edge.cli.train_shown import say, shown_progress, tell_account, with_result

_RESUMES = "A killed run resumes when the same command is given again; at most a minute of its steps is lost."
_EXAMPLES = """examples:
  mile-edge train base ../shared/data/camvid/day/train --val ../shared/data/camvid/day/val --out out/camvid-base
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``train`` and its forms."""
    parser = commands.add_parser(
        "train",
        help="train a base, or an expert or a fusion head for a bundle",
        description="Train on labelled folders (images/, labels/, classes.yaml).",
        epilog=f"{_EXAMPLES}{train_expert.EXAMPLES}\n{_RESUMES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    forms = parser.add_subparsers(dest="form", required=True, metavar="base|expert|fusion")
    base = forms.add_parser(
        "base",
        help="every weight of a network, once",
        epilog=f"{_EXAMPLES}\n{_RESUMES}",
        formatter_class=parser.formatter_class,
    )
    base.add_argument("data", nargs="+", type=Path, help="folders to train on")
    base.add_argument(
        "--base", default="random:segformer-b0", help="folder, hub name or random:segformer-b0..b5 to start from"
    )
    base.add_argument("--out", type=Path, required=True, help="folder for the trained base")
    base.add_argument(
        "--size", type=image_size, default=(240, 320), metavar="HxW", help="network size (default 240x320)"
    )
    base.set_defaults(run=limits.kept(_train_base))
    train_schedule.add_options(base, steps=2400, rate=2e-3, optimiser="muon")
    limits.add_options(base)
    train_expert.add_form(forms, _RESUMES)
    train_fusion.add_form(forms)


def _train_base(args: argparse.Namespace) -> int:
    from mile_edge.data.class_map import starting_rows
    from mile_edge.data.folder import FolderDataset
    from mile_edge.training.base import shared_classes, train_base

    data, held_out = [FolderDataset(path) for path in args.data], [FolderDataset(path) for path in args.val]
    classes = [label.name for label in shared_classes(data)]
    rows = starting_rows(args.start_map, classes) if args.start_map else None
    with shown_progress("base") as report:
        result = train_base(
            args.base,
            data,
            held_out,
            args.out,
            size=args.size,
            schedule=train_schedule.schedule_of(args),
            augmentation=train_schedule.augmentation_of(args),
            rows=rows,
            report=report,
            tell=say,
            device=args.device,
        )
    tell_account(with_result({"base": str(args.out)}, result), args.json)
    return 0
