"""``mile-edge train expert`` for bundles with one adapter that goes on from task to task: gates dac and mora."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mile_edge.bundle.gate import SUCCESSIVE_KINDS
from mile_edge.errors import DataError

if TYPE_CHECKING:
    from mile_edge.bundle import Bundle
    from mile_edge.training.rank_pool import RankPool


def add_options(form: argparse.ArgumentParser) -> None:
    """Add what only these bundles have."""
    group = form.add_argument_group(
        "bundles of gate dac or mora",
        "One adapter goes on from task to task: training starts from the newest expert, and --add puts the result in "
        "its place.",
    )
    group.add_argument("--ranks", type=int, help="ranks that this task trains (default 12 for dac, 16 for mora)")
    group.add_argument(
        "--router", choices=("random", "trained"), help="of dac: which ranks are active (default random, as released)"
    )
    group.add_argument(
        "--train-head", action="store_true", help="let the classifier's rows of known classes learn on (default: kept)"
    )


def rank_pool_of(args: argparse.Namespace, bundle: Bundle) -> RankPool | None:
    """The method that a bundle's gate stands for, nothing for a bundle with an expert for each task.

    Raises:
        DataError: an option of the other kind of bundle was given, or another task does not fit in.
    """
    gate, layout, newest = bundle.manifest.gate, bundle.manifest.low_rank, bundle.experts()[-1]
    own = {"--ranks": args.ranks, "--router": args.router, "--train-head": args.train_head or None}
    if gate.kind not in SUCCESSIVE_KINDS:
        for option, value in own.items():
            if value is not None:
                raise DataError(f"{option} is for a bundle of gate dac or mora, not of {gate.kind}; leave it out")
        return None
    from mile_edge.training.rank_pool import Dac, Mora

    if args.gate_only:
        raise DataError(f"--gate-only adds one of several experts and a {gate.kind} bundle has one; leave it out")
    if args.own_statistics:
        raise DataError(f"--own-statistics are one task's, and a {gate.kind} bundle's adapter serves all; leave it out")
    if gate.kind == "mora" and args.router is not None:
        raise DataError("--router is for bundles of gate dac, and mora has no router; leave it out")
    most = layout.rank if gate.kind == "mora" else 64
    if args.ranks is not None and not 1 <= args.ranks <= most:
        raise DataError(f"--ranks is {args.ranks}; give 1 to {most}")
    tasks = 1 if newest.prototypes is None else len(newest.prototypes)
    if tasks >= gate.prototypes:
        raise DataError(f"{bundle.path} knows {tasks} domains already; export one with more prototypes")
    keep = not args.train_head
    if gate.kind == "dac":
        rank = args.ranks or Dac.rank
        active, merged = max(1, round(rank * 2 / 3)), max(1, rank // 3)
        return Dac(rank, active, merged, args.router or "random", limit=layout.rank, keep_head=keep)
    assert gate.top_k is not None
    assert gate.tau is not None
    assert gate.delta is not None
    rank = args.ranks or min(Mora.rank, layout.rank)
    taken = newest.rank if newest.low_rank else 0
    if taken + rank > layout.rank:
        raise DataError(
            f"{bundle.path} has room for {layout.rank} ranks and {taken} are taken; give --ranks {layout.rank - taken} "
            "or export one with a larger rank"
            if taken < layout.rank
            else f"{bundle.path} has all its {taken} ranks taken; export one with a larger rank"
        )
    return Mora(rank, gate.top_k, gate.tau, gate.delta, keep_head=keep)


def put_in_place(bundle: Bundle, file: Path) -> None:
    """Add the newest adapter, then remove the one it goes on from; after a kill between the two the newest serves."""
    from mile_edge.runtime.bank import servable

    former = bundle.manifest.experts[-1]
    changed = bundle.add(file, around=servable)
    if former != bundle.manifest.experts[0]:
        changed.remove(former.name)
