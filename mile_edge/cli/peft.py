"""``mile-edge peft import`` and ``mile-edge peft export``: experts from and for the PEFT library."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mile_edge.cli.options import check_expert_name, names
from mile_edge.errors import ExpertError

_EXAMPLES = """examples:
  mile-edge peft export bundles/reference fog out/fog-peft
  mile-edge peft import bundles/reference out/fog-peft --name fog2 --data FOLDER --domains fog --out fog2.safetensors"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``peft``."""
    parser = commands.add_parser(
        "peft", help="experts from and for PEFT", epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    forms = parser.add_subparsers(dest="form", required=True, metavar="import|export")
    out = forms.add_parser(
        "export",
        help="write an expert as a PEFT LoRA folder",
        epilog=_EXAMPLES,
        formatter_class=parser.formatter_class,
    )
    out.add_argument("bundle", type=Path)
    out.add_argument("expert", help="name of the expert")
    out.add_argument("folder", type=Path, help="folder to write")
    out.set_defaults(run=_export)
    into = forms.add_parser(
        "import",
        help="make an expert file of a PEFT LoRA folder",
        epilog=_EXAMPLES,
        formatter_class=parser.formatter_class,
    )
    into.add_argument("bundle", type=Path)
    into.add_argument("folder", type=Path, help="folder with adapter_config.json")
    into.add_argument("--name", required=True, help="the expert's name")
    into.add_argument("--data", nargs="+", type=Path, required=True, help="frames it was trained on, for the gate")
    into.add_argument("--sensors", type=names, help="sensor kinds it serves (default: the data's)")
    into.add_argument("--domains", type=names, help="domains it is right for (default: the data's)")
    into.add_argument("--out", type=Path, required=True, help="expert file to write")
    into.set_defaults(run=_import)
    for form in (out, into):
        form.add_argument("--base", help="folder of the base, for bundles whose graph does not hold its exact weights")
        form.add_argument("--json", action="store_true", help="print JSON")


def _export(args: argparse.Namespace) -> int:
    from mile_edge.bundle import Bundle
    from mile_edge.export.bundle import base_of
    from mile_edge.network.base import load_base
    from mile_edge.training.peft_folder import write_peft

    if args.folder.exists() and (not args.folder.is_dir() or any(args.folder.iterdir())):
        raise ExpertError(f"{args.folder} already exists and is not empty; choose another path or remove it")
    bundle = Bundle.open(args.bundle)
    experts = {expert.name: expert for expert in bundle.experts()}
    if args.expert not in experts:
        raise ExpertError(f"expert {args.expert!r} is not in {args.bundle}; it holds {', '.join(experts)}")
    base = load_base(args.base) if args.base else base_of(bundle)
    write_peft(experts[args.expert], args.folder, base, bundle.manifest.base.model)
    _tell(args, {"expert": args.expert, "folder": str(args.folder)})
    return 0


def _import(args: argparse.Namespace) -> int:
    from mile_edge.bundle import Bundle, check_expert, write_expert
    from mile_edge.data.folder import FolderDataset
    from mile_edge.export.bundle import base_of
    from mile_edge.network.base import describe, load_base
    from mile_edge.training.base import shared_classes
    from mile_edge.training.expert import ExpertTask
    from mile_edge.training.peft_folder import read_peft
    from mile_edge.training.statistics import centres_of, gate_features, kept_of, summarise

    bundle = Bundle.open(args.bundle)
    check_expert_name(args.name, bundle)
    manifest = bundle.manifest
    data = [FolderDataset(path) for path in args.data]
    base = load_base(args.base) if args.base else base_of(bundle)
    size = (manifest.network.height, manifest.network.width)
    features = gate_features(base, [frame for folder in data for frame in folder], size, manifest.gate.tap)
    task = ExpertTask(
        args.name,
        args.sensors or tuple(sorted({folder.sensor for folder in data})),
        args.domains or tuple(sorted({folder.domain for folder in data})),
        manifest.gate.tap,
    )
    expert = read_peft(
        args.folder,
        task,
        manifest.low_rank,
        manifest.base.sha256,
        shared_classes(data),
        describe(base).classifier,
        summarise(features, centres_of(manifest.gate), kept=kept_of(manifest.gate)),
        bundle.experts()[0],
    )
    check_expert(expert, manifest)
    write_expert(args.out, expert)
    _tell(args, {"expert": args.name, "file": str(args.out)})
    return 0


def _tell(args: argparse.Namespace, account: dict[str, str]) -> None:
    if args.json:
        print(json.dumps(account))
    else:
        for key, value in account.items():
            print(f"{key:>8}: {value}")
