"""``mile-edge train expert``: low-rank pairs and a classifier for a bundle, or only what its gate must know."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mile_edge.cli import limits, train_schedule
from mile_edge.cli.options import check_expert_name, names
from mile_edge.cli.rank_pool import add_options, put_in_place, rank_pool_of
from mile_edge.cli.train_shown import say, shown_progress, tell_account, with_result
from mile_edge.errors import DataError

if TYPE_CHECKING:
    from mile_edge.bundle import Bundle, Expert
    from mile_edge.data.folder import FolderDataset
    from mile_edge.data.labelled_bag import LabelledBag
    from mile_edge.training.fit import FitResult
    from mile_edge.training.rank_pool import RankPool


EXAMPLES = """  mile-edge train expert bundles/camvid ../shared/data/camvid/dusk/train --name dusk --add
  mile-edge train expert bundles/reference drive.mcap --name harbour --bag-domain harbour --sensors camera
  mile-edge train expert out/mora data/fog --name after-fog --add        (a bundle of gate mora or dac: task by task)
  mile-edge train expert BUNDLE ring --name harbour --gate-only --add      # what replay --record-novel kept
  mile-edge train expert BUNDLE thermal_frames/ --name thermal --sensors thermal --domains '*' --gate-only --add
  mile-edge train expert BUNDLE drive.mcap --name yard --cores 3 --nice 19 --memory 4000   # beside other work
"""


def add_form(forms: argparse._SubParsersAction[argparse.ArgumentParser], note: str) -> None:
    """Add ``train expert``.

    Args:
        forms: of ``train``.
        note: below its examples.
    """
    form = forms.add_parser(
        "expert",
        help="a low-rank expert beside a bundle's frozen base",
        epilog=f"examples:\n{EXAMPLES}\n{note}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    form.add_argument("bundle", type=Path, help="the bundle it is for")
    form.add_argument("data", nargs="+", type=Path, help="labelled folders, or bags with a label topic")
    form.add_argument("--name", required=True, help="the expert's name: lower-case letters, digits, - and _")
    form.add_argument("--out", type=Path, help="expert file to write (default NAME.safetensors)")
    form.add_argument("--add", action="store_true", help="add the expert to the bundle when it is trained")
    form.add_argument("--base", help="folder of the base, for bundles whose graph does not hold its exact weights")
    form.add_argument("--sensors", type=names, help="sensor kinds it serves (default: the data's)")
    form.add_argument("--domains", type=names, help="domains it is right for, * for all (default: the data's)")
    form.add_argument(
        "--attributes", type=names, help="what its frames show, for an attribute gate (default: sensors and domains)"
    )
    form.add_argument(
        "--store",
        choices=("fp16", "int8"),
        help="what its file holds A and B in: int8 is half the bytes and rounds each rank to 255 steps (default: what "
        "the bundle's last adapter is stored in, fp16 for the first)",
    )
    form.add_argument(
        "--own-statistics",
        action="store_true",
        help="let the decoder's batch norm learn this task's statistics and keep them in the expert; for a SegFormer "
        "whose recipe adapts the decoder's projections",
    )
    form.add_argument("--bag-domain", metavar="NAME", help="of a bag, only frames whose /truth/domain is this")
    form.add_argument("--class-map", type=Path, help="YAML file from a bag's label ids to the bundle's classes")
    form.add_argument(
        "--gate-only", action="store_true", help="no adapter: only teach the gate this domain (no labels needed)"
    )
    add_options(form)
    form.set_defaults(run=limits.kept(_train_expert))
    train_schedule.add_options(form, steps=400, rate=8e-3, optimiser="muon")
    limits.add_options(form)


def _train_expert(args: argparse.Namespace) -> int:
    from mile_edge.bundle import Bundle, write_expert
    from mile_edge.bundle.labels import in_colours_of
    from mile_edge.export.bundle import base_of, pool_of
    from mile_edge.network.base import load_base
    from mile_edge.runtime.bank import servable
    from mile_edge.training.expert import ExpertTask
    from mile_edge.training.statistics import centres_of, kept_of

    bundle = Bundle.open(args.bundle)
    _check_name(args, bundle)
    if args.gate_only and args.own_statistics:
        raise DataError("--own-statistics are learned in training and --gate-only trains nothing; leave one out")
    ranks = rank_pool_of(args, bundle)
    data, held_out = ([_labelled(path, bundle, args) for path in paths] for paths in (args.data, args.val))
    task = ExpertTask(
        args.name,
        args.sensors or tuple(sorted({folder.sensor for folder in data})),
        args.domains or tuple(sorted({folder.domain for folder in data})),
        bundle.manifest.gate.tap,
        centres_of(bundle.manifest.gate),
        kept_of(bundle.manifest.gate),
        args.attributes or (),
        stored=args.store or _last_stored(bundle),
    )
    out = args.out or Path(f"{args.name}.safetensors")
    checkpoint = out.with_name(out.name + ".checkpoint")
    base = load_base(args.base) if args.base else base_of(bundle)
    pool = pool_of(bundle, base, None if ranks is None else ranks.rank)
    expert, result = _make_expert(args, pool, bundle, task, data, held_out, checkpoint, ranks)
    expert = replace(expert, classes=in_colours_of(bundle.manifest.classes, expert.classes))
    write_expert(out, expert)
    checkpoint.unlink(missing_ok=True)
    if args.add:
        bundle.add(out, around=servable) if ranks is None else put_in_place(bundle, out)
    where = {
        "expert": args.name,
        "file": str(out),
        "added_to": str(args.bundle) if args.add else None,
        "bytes": expert.sizes(),
    }
    tell_account(with_result(where, result), args.json)
    return 0


def _check_name(args: argparse.Namespace, bundle: Bundle) -> None:
    """Refuse now what the bundle would refuse after all the training."""
    from mile_edge.bundle.admission import check_room

    check_expert_name(args.name, bundle)
    if args.add:
        check_room(bundle.manifest, args.name, f"--name {args.name}")


def _last_stored(bundle: Bundle) -> str:
    adapted = [expert.stored for expert in bundle.experts() if expert.low_rank]
    return adapted[-1] if adapted else "fp16"


def _labelled(path: Path, bundle: Bundle, args: argparse.Namespace) -> FolderDataset | LabelledBag:
    from mile_edge.data.folder import FolderDataset
    from mile_edge.data.labelled_bag import LabelledBag, is_bag

    if not path.exists():
        raise DataError(f"{path} does not exist; give a folder with images/ or a bag with a label topic")
    if not is_bag(path):
        return FolderDataset(path)
    sensor = args.sensors[0] if args.sensors else "camera"
    return LabelledBag(
        path,
        bundle.manifest.classes,
        sensor=sensor,
        domain=args.bag_domain,
        class_map=args.class_map,
        labelled=not args.gate_only,
    )


def _make_expert(
    args: argparse.Namespace,
    pool: Any,
    bundle: Bundle,
    task: Any,
    data: list[Any],
    held_out: list[Any],
    checkpoint: Path,
    ranks: RankPool | None,
) -> tuple[Expert, FitResult | None]:
    from mile_edge.data.class_map import starting_rows
    from mile_edge.training.expert import statistics_only, train_expert

    network, own = bundle.manifest.network, bundle.experts()[0]
    size = (network.height, network.width)
    if args.gate_only:
        frames = [frame for each in data for frame in each]
        return statistics_only(pool, task, frames, size, own), None
    unlabelled = [str(each.path) for each in data if not each.classes]
    if unlabelled:
        raise DataError(f"{unlabelled[0]} has no labels; label it, or give --gate-only to teach only the gate")
    start = own if ranks is None else bundle.experts()[-1]
    names = [label.name for label in start.classes]
    rows = starting_rows(args.start_map, [c.name for c in data[0].classes], names) if args.start_map else None
    with shown_progress(args.name) as report:
        return train_expert(
            pool,
            task,
            data,
            held_out,
            size=size,
            schedule=replace(train_schedule.schedule_of(args), average=0.98, own_statistics=args.own_statistics),
            augmentation=train_schedule.augmentation_of(args),
            checkpoint=checkpoint,
            start=start,
            ranks=ranks,
            rows=rows,
            report=report,
            tell=say,
            device=args.device,
        )
