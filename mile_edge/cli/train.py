"""``mile-edge train base`` and ``mile-edge train expert``; ``train fusion`` has a module of its own."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mile_edge.cli import limits, train_fusion
from mile_edge.cli.options import image_size, names
from mile_edge.cli.rank_pool import add_options, put_in_place, rank_pool_of
from mile_edge.errors import DataError

if TYPE_CHECKING:
    from mile_edge.bundle import Bundle, Expert
    from mile_edge.data.folder import FolderDataset
    from mile_edge.data.labelled_bag import LabelledBag
    from mile_edge.training.fit import FitResult, Progress, Schedule
    from mile_edge.training.rank_pool import RankPool

_EXAMPLES = """examples:
  mile-edge train base ../shared/data/camvid/day/train --val ../shared/data/camvid/day/val --out out/camvid-base
  mile-edge train expert bundles/camvid ../shared/data/camvid/dusk/train --name dusk --add
  mile-edge train expert bundles/reference drive.mcap --name harbour --bag-domain harbour --sensors camera
  mile-edge train expert out/mora data/fog --name after-fog --add        (a bundle of gate mora or dac: task by task)
  mile-edge train expert BUNDLE ring --name harbour --gate-only --add      # what replay --record-novel kept
  mile-edge train expert BUNDLE thermal_frames/ --name thermal --sensors thermal --domains '*' --gate-only --add

  mile-edge train expert BUNDLE drive.mcap --name yard --cores 3 --nice 19 --memory 4000   # beside other work

A killed run resumes when the same command is given again; at most a minute of its steps is lost."""


# Seconds after which a log gets a line also where fifty steps take longer.
_QUIET_S = 10.0
_START_MAP = "class map from the base's classes to the data's: whose rows its classifier starts from (calib/class-maps)"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``train`` and its two forms."""
    parser = commands.add_parser(
        "train",
        help="train a base, or an expert or a fusion head for a bundle",
        description="Train on labelled folders (images/, labels/, classes.yaml).",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    forms = parser.add_subparsers(dest="form", required=True, metavar="base|expert|fusion")
    base = forms.add_parser(
        "base", help="every weight of a network, once", epilog=_EXAMPLES, formatter_class=parser.formatter_class
    )
    base.add_argument("data", nargs="+", type=Path, help="folders to train on")
    base.add_argument(
        "--base", default="random:segformer-b0", help="folder, hub name or random:segformer-b0..b5 to start from"
    )
    base.add_argument("--out", type=Path, required=True, help="folder for the trained base")
    base.add_argument(
        "--size", type=image_size, default=(240, 320), metavar="HxW", help="network size (default 240x320)"
    )
    base.add_argument("--start-map", type=Path, metavar="FILE", help=_START_MAP)
    base.set_defaults(run=limits.kept(_train_base))
    expert = forms.add_parser(
        "expert",
        help="a low-rank expert beside a bundle's frozen base",
        epilog=_EXAMPLES,
        formatter_class=parser.formatter_class,
    )
    expert.add_argument("bundle", type=Path, help="the bundle it is for")
    expert.add_argument("data", nargs="+", type=Path, help="labelled folders, or bags with a label topic")
    expert.add_argument("--name", required=True, help="the expert's name: lower-case letters, digits, - and _")
    expert.add_argument("--out", type=Path, help="expert file to write (default NAME.safetensors)")
    expert.add_argument("--add", action="store_true", help="add the expert to the bundle when it is trained")
    expert.add_argument("--base", help="folder of the base, for bundles whose graph does not hold its exact weights")
    expert.add_argument("--sensors", type=names, help="sensor kinds it serves (default: the data's)")
    expert.add_argument("--domains", type=names, help="domains it is right for, * for all (default: the data's)")
    expert.add_argument(
        "--attributes", type=names, help="what its frames show, for an attribute gate (default: sensors and domains)"
    )
    expert.add_argument("--bag-domain", metavar="NAME", help="of a bag, only frames whose /truth/domain is this")
    expert.add_argument("--class-map", type=Path, help="YAML file from a bag's label ids to the bundle's classes")
    expert.add_argument("--start-map", type=Path, metavar="FILE", help=_START_MAP)
    expert.add_argument(
        "--gate-only", action="store_true", help="no adapter: only teach the gate this domain (no labels needed)"
    )
    add_options(expert)
    expert.set_defaults(run=limits.kept(_train_expert))
    train_fusion.add_form(forms)
    for form, steps, rate, optimiser in ((base, 2400, 2e-3, "muon"), (expert, 400, 8e-3, "muon")):
        _add_schedule(form, steps, rate, optimiser)
        limits.add_options(form)


def _add_schedule(form: argparse.ArgumentParser, steps: int, rate: float, optimiser: str) -> None:
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
    form.add_argument("--seed", type=int, default=0, help="of views, order and initial weights (default 0)")
    form.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="cuda: at the lowest stream priority (default cpu)"
    )
    form.add_argument("--json", action="store_true", help="print the result as JSON")


def _train_base(args: argparse.Namespace) -> int:
    from mile_edge.data.class_map import starting_rows
    from mile_edge.data.folder import FolderDataset
    from mile_edge.training.base import shared_classes, train_base

    data, held_out = [FolderDataset(path) for path in args.data], [FolderDataset(path) for path in args.val]
    classes = [label.name for label in shared_classes(data)]
    rows = starting_rows(args.start_map, classes) if args.start_map else None
    with _progress("base") as report:
        result = train_base(
            args.base,
            data,
            held_out,
            args.out,
            size=args.size,
            schedule=_schedule(args),
            augmentation=_augmentation(args),
            rows=rows,
            report=report,
            tell=_say,
            device=args.device,
        )
    _tell(args, {"base": str(args.out)}, result)
    return 0


def _train_expert(args: argparse.Namespace) -> int:
    from mile_edge.bundle import Bundle, write_expert
    from mile_edge.bundle.labels import in_colours_of
    from mile_edge.export.bundle import base_of, pool_of
    from mile_edge.network.base import load_base
    from mile_edge.training.expert import ExpertTask
    from mile_edge.training.statistics import centres_of, kept_of

    bundle = Bundle.open(args.bundle)
    _check_name(args, bundle)
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
        bundle.add(out) if ranks is None else put_in_place(bundle, out)
    where = {
        "expert": args.name,
        "file": str(out),
        "added_to": str(args.bundle) if args.add else None,
        "bytes": expert.sizes(),
    }
    _tell(args, where, result)
    return 0


def _check_name(args: argparse.Namespace, bundle: Bundle) -> None:
    """Refuse now what the bundle would refuse after all the training."""
    from mile_edge.bundle.strict_json import NAME

    if not NAME.fullmatch(args.name):
        raise DataError(f"--name is {args.name!r}; use lower-case letters, digits, - and _ (at most 64)")
    taken = [entry.name for entry in bundle.manifest.experts]
    if args.add and args.name in taken:
        raise DataError(f"{args.bundle} has an expert {args.name!r} already; remove it first or give another --name")
    if args.add and len(taken) > bundle.manifest.capacity:
        raise DataError(f"{args.bundle} is full with {bundle.manifest.capacity} experts; remove one before --add")


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
    with _progress(args.name) as report:
        return train_expert(
            pool,
            task,
            data,
            held_out,
            size=size,
            schedule=replace(_schedule(args), average=0.98),
            augmentation=_augmentation(args),
            checkpoint=checkpoint,
            start=start,
            ranks=ranks,
            rows=rows,
            report=report,
            tell=_say,
            device=args.device,
        )


def _schedule(args: argparse.Namespace) -> Schedule:
    from mile_edge.training.fit import Schedule

    for option, low, high in (
        ("steps", 1, 10**7),
        ("batch", 1, 4096),
        ("patience", 0, 10**7),
        ("seed", 0, 2**31 - 1),
        ("lr", 1e-9, 10.0),
        ("balance", 0.0, 1.0),
        ("foreign", 0.0, 1.0),
        ("photometric", 0.0, 2.0),
    ):
        # NaN is within no bounds.
        if not low <= getattr(args, option) <= high:
            raise DataError(f"--{option} is {getattr(args, option)}; give {low} to {high}")
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


def _augmentation(args: argparse.Namespace) -> Any:
    from mile_edge.training.augment import Augmentation

    low, high = args.zoom
    if not 0.01 <= low <= high <= 100:
        raise DataError(f"--zoom is {low:g} {high:g}; give a smallest and a largest of 0.01 to 100, such as 0.6 2")
    return Augmentation(scale=(low, high), photometric=args.photometric, foreign=args.foreign, crop=args.crop)


def _say(sentence: str) -> None:
    print(f"mile-edge: {sentence}", file=sys.stderr, flush=True)


@contextmanager
def _progress(name: str) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  mIoU {task.fields[miou]}  {task.fields[left]} left"),
    )
    console = Console(stderr=True)
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        line = bar.add_task(name, total=None, loss=float("nan"), miou="-", left="?")
        told = -_QUIET_S

        def report(progress: Progress) -> None:
            minutes, seconds = divmod(int(progress.seconds_left), 60)
            miou = "-" if progress.miou is None or progress.miou != progress.miou else f"{progress.miou:.3f}"
            bar.update(
                line,
                total=progress.steps,
                completed=progress.step,
                loss=progress.loss,
                miou=miou,
                left=f"{minutes}:{seconds:02d}",
            )
            nonlocal told
            if not console.is_terminal and (progress.step % 50 == 0 or time.monotonic() - told > _QUIET_S):
                told = time.monotonic()
                line_of_log = f"{name}: step {progress.step}/{progress.steps} loss {progress.loss:.3f} mIoU {miou}"
                print(f"{line_of_log}, {minutes}:{seconds:02d} left", file=sys.stderr, flush=True)

        yield report


def _tell(args: argparse.Namespace, where: dict[str, Any], result: FitResult | None) -> None:
    account = dict(where)
    if result is not None:
        miou = None if result.miou != result.miou else round(result.miou, 4)
        account |= {"validation_miou": miou, "steps": result.steps, "seconds": round(result.seconds, 1)}
    if args.json:
        print(json.dumps(account))
        return
    for key, value in account.items():
        print(f"{key:>16}: {value}")
