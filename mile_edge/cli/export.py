"""``mile-edge export``: from a trained base to a bundle."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mile_edge.cli.options import names
from mile_edge.errors import DataError

if TYPE_CHECKING:
    from mile_edge.bundle import Bundle
    from mile_edge.export.recipe import ExportRecipe
    from mile_edge.network.base import Base

_EXAMPLES = """examples:
  mile-edge export out/camvid-base --recipe export/segformer-b0-240x320.yaml --data ../shared/data/camvid/day/train \\
      --name camvid --out bundles/camvid
  mile-edge export bundles/reference --recipe export/segformer-b0-240x320-semla.yaml --out out/reference-semla
  mile-edge export random:segformer-b0 --recipe export/segformer-b0-480x640.yaml --data FOLDER --out out/bench"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``export``."""
    parser = commands.add_parser(
        "export",
        help="make a bundle from a trained base and a recipe",
        description="Export a base to the ONNX graph that gates, applies an expert and segments in one pass.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "base",
        help="folder of the base, hub name, random:segformer-b0..b5, or a bundle: its base and its experts",
    )
    parser.add_argument(
        "--recipe",
        type=Path,
        required=True,
        help="YAML file: precision, size, rank, layers, tap, gate (top_k, tau, attributes), capacity",
    )
    parser.add_argument(
        "--data", nargs="+", type=Path, default=[], help="folders the base was trained on, for the gate"
    )
    parser.add_argument(
        "--class-map", type=Path, metavar="FILE", help="YAML from a base's classes to the data's (calib/class-maps)"
    )
    parser.add_argument("--out", type=Path, required=True, help="bundle folder to create")
    parser.add_argument("--name", help="the bundle's name (default: the recipe's)")
    parser.add_argument("--own", default="base", help="name of the base as an expert, row 0 (default base)")
    parser.add_argument("--domains", type=names, help="domains the base itself is right for (default: the data's)")
    parser.add_argument("--attributes", type=names, help="what the base's frames show, for an attribute gate")
    parser.add_argument(
        "--experts", nargs="*", type=Path, default=[], metavar="FILE", help="expert files of this base to add at once"
    )
    parser.add_argument(
        "--check", nargs="*", type=Path, default=[], help="folders whose frames compare ONNX with torch"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export, then compare with torch where frames were given."""
    from mile_edge.data.folder import FolderDataset
    from mile_edge.export.agreement import compare
    from mile_edge.export.fusion import give_fusion
    from mile_edge.export.recipe import load_recipe

    recipe = load_recipe(args.recipe)
    checks = [FolderDataset(path) for path in args.check]
    if args.out.exists():
        raise DataError(f"{args.out} exists already; remove it or choose another folder")
    is_bundle = (Path(args.base) / "manifest.json").is_file()
    bundle, base = _of_bundle(args, recipe) if is_bundle else _of_base(args, recipe)
    for file in args.experts:
        bundle = bundle.add(file)
    if recipe.fusion is not None:
        # An fp32 graph holds the exact weights, also of a random base, which would come out otherwise a second time.
        bundle = give_fusion(bundle, recipe.fusion, base=None if recipe.precision == "fp32" else base())
    account: dict[str, object] = {
        "bundle": str(args.out),
        "network": f"{recipe.base} {recipe.size[0]}x{recipe.size[1]} {recipe.precision}",
        "gate": recipe.gate,
        "experts": len(bundle.manifest.experts),
        "adapted_layers": len(bundle.manifest.low_rank.layers),
        "numbers_per_expert": bundle.manifest.low_rank.classifier_offset,
        "bytes": sum(file.stat().st_size for file in args.out.rglob("*") if file.is_file()),
    }
    frames = [sample.frame for folder in checks for sample in folder]
    if frames:
        account["agreement"] = compare(bundle, frames, base())
    if args.json:
        print(json.dumps(account))
    else:
        for key, value in account.items():
            print(f"{key:>20}: {value}")
    return 0


def _of_base(args: argparse.Namespace, recipe: ExportRecipe) -> tuple[Bundle, Callable[[], Base]]:
    """A bundle of a trained base, and where to get that base once more: an export takes it apart."""
    from mile_edge.data.class_map import starting_rows
    from mile_edge.data.folder import FolderDataset
    from mile_edge.export.bundle import base_expert, export_bundle
    from mile_edge.network.base import load_base
    from mile_edge.training.base import shared_classes

    if not args.data:
        raise DataError("--data is missing; name the folders the base was trained on, for row 0 of the gate")
    data = [FolderDataset(path) for path in args.data]
    classes = shared_classes(data)
    names = [label.name for label in classes]
    rows = starting_rows(args.class_map, names) if args.class_map else None
    base = load_base(args.base, len(classes), rows)
    sensors = tuple(sorted({folder.sensor for folder in data}))
    domains = args.domains or tuple(sorted({folder.domain for folder in data}))
    frames = [frame for folder in data for frame in folder]
    own = base_expert(base, recipe, classes, frames, args.own, sensors, domains, attributes=args.attributes or ())
    bundle = export_bundle(base, own, recipe, args.out, name=args.name)
    return bundle, lambda: load_base(args.base, len(classes), rows)


def _of_bundle(args: argparse.Namespace, recipe: ExportRecipe) -> tuple[Bundle, Callable[[], Base]]:
    """The base and the experts of a bundle under another gate, size or precision, nothing trained again.

    An adapter that went on from task to task is no expert among others, nor are these such an adapter: between the two
    kinds only the base goes over.
    """
    from mile_edge.bundle import Bundle
    from mile_edge.export.bundle import base_of, export_bundle

    source = Bundle.open(args.base)
    bundle = export_bundle(base_of(source), source.experts()[0], recipe, args.out, name=args.name)
    for entry in source.manifest.experts[1:] if _go_over(source, recipe) else ():
        bundle = bundle.add(source.path / entry.file)
    return bundle, lambda: base_of(source)


def _go_over(source: Bundle, recipe: ExportRecipe) -> bool:
    from mile_edge.bundle.gate import SUCCESSIVE_KINDS

    former = source.manifest.gate.kind
    return former == recipe.gate or not {former, recipe.gate} & set(SUCCESSIVE_KINDS)
