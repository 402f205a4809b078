"""How long, how hard and on which views ``mile-edge train base`` and ``mile-edge train expert`` train."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mile_edge.cli.options import check_range, image_size
from mile_edge.errors import DataError

if TYPE_CHECKING:
    from mile_edge.training.augment import Augmentation
    from mile_edge.training.fit import Schedule

_BOUNDS = {
    "steps": (1, 10**7),
    "batch": (1, 4096),
    "patience": (0, 10**7),
    "seed": (0, 2**31 - 1),
    "lr": (1e-9, 10.0),
    "balance": (0.0, 1.0),
    "foreign": (0.0, 1.0),
    "photometric": (0.0, 2.0),
}


def add_options(form: argparse.ArgumentParser, steps: int, rate: float, optimiser: str) -> None:
    """Add the options of a schedule and of its views, with the defaults that suit the form."""
    form.add_argument("--val", nargs="*", type=Path, default=[], help="folders that decide which weights are kept")
    form.add_argument("--steps", type=int, default=steps, help=f"optimiser steps (default {steps})")
    form.add_argument("--batch", type=int, default=8, help="frames per step (default 8)")
    form.add_argument("--lr", type=float, default=rate, help=f"peak learning rate (default {rate})")
    form.add_argument(
        "--optimiser", choices=("adamw", "muon"), default=optimiser, help=f"muon: for matrices (default {optimiser})"
    )
    form.add_argument("--patience", type=int, default=0, help="validations without progress before stopping; 0 never")
    form.add_argument(
        "--balance", type=float, default=0.4, help="exponent of inverse class frequency in the loss (default 0.4)"
    )
    form.add_argument(
        "--photometric", type=float, default=0.5, help="strength of random light and colour, 0 for none (default 0.5)"
    )
    form.add_argument("--foreign", type=float, default=0.1, help="share of views without their colours (default 0.1)")
    form.add_argument(
        "--crop", type=image_size, metavar="HxW", help="train on cut-outs of this size (default: whole frames)"
    )
    form.add_argument(
        "--zoom", type=float, nargs=2, default=(0.6, 2.0), metavar=("MIN", "MAX"), help="range of random zoom"
    )
    form.add_argument(
        "--start-map",
        type=Path,
        metavar="FILE",
        help="class map from the base's classes to the data's, to start its classifier from (calib/class-maps)",
    )
    form.add_argument("--seed", type=int, default=0, help="of views, order and initial weights (default 0)")
    form.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="cuda: at the lowest stream priority (default cpu)"
    )
    form.add_argument("--json", action="store_true", help="print the result as JSON")


def schedule_of(args: argparse.Namespace) -> Schedule:
    """The schedule that the options ask for.

    Raises:
        DataError: one of them is out of range.
    """
    from mile_edge.training.fit import Schedule

    check_range(args, _BOUNDS)
    return Schedule(
        steps=args.steps,
        batch=args.batch,
        lr=args.lr,
        patience=args.patience,
        average=0.995,
        steps_per_epoch=max(10, args.steps // 12),
        class_balance=args.balance,
        optimiser=args.optimiser,
        seed=args.seed,
    )


def augmentation_of(args: argparse.Namespace) -> Augmentation:
    """The random views that the options ask for.

    Raises:
        DataError: the range of zoom is none.
    """
    from mile_edge.training.augment import Augmentation

    low, high = args.zoom
    if not 0.01 <= low <= high <= 100:
        raise DataError(f"--zoom is {low:g} {high:g}; give a smallest and a largest of 0.01 to 100, such as 0.6 2")
    return Augmentation(scale=(low, high), photometric=args.photometric, foreign=args.foreign, crop=args.crop)
