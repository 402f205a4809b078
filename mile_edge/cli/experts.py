"""`mile-edge experts`: what is in a bundle, and the only way to change it from a shell."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mile_edge.bundle import Bundle, Expert, remove_expert, verify_bundle
from mile_edge.bundle.files import named

EPILOG = """examples:
  mile-edge experts list bundles/reference
  mile-edge experts add bundles/reference runs/fog/fog.safetensors
  mile-edge experts add bundles/reference fog.safetensors --name fog-2
  mile-edge experts remove bundles/reference fog
  mile-edge experts verify bundles/reference --json

A change is atomic: killed at any moment it leaves the bundle as it was or as it should be."""


def add_parser(subparsers: Any) -> None:
    """Add `experts list|add|remove|verify`."""
    parser = subparsers.add_parser(
        "experts",
        help="list, add, remove and verify the experts of a bundle",
        description="List, add, remove and verify the experts of a bundle.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, run_action, text in (
        ("list", _list, "show every expert with its sensors, domains, classes, bytes and scores"),
        ("add", _add, "add an expert file in the next free row"),
        ("remove", _remove, "remove an expert; works also when its file is damaged"),
        ("verify", _verify, "check every file against its hash and every expert against the base; exit 1 on problems"),
    ):
        command = actions.add_parser(
            action,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=EPILOG,
            formatter_class=parser.formatter_class,
        )
        command.add_argument("bundle", metavar="BUNDLE", help="a bundle folder")
        if action == "add":
            command.add_argument("file", metavar="FILE", help="an expert file (.safetensors)")
            command.add_argument("--name", help="add it under another name than its own")
        if action == "remove":
            command.add_argument("name", metavar="NAME", help="an expert of the bundle")
        command.add_argument("--json", action="store_true", help="write JSON to standard output")
        command.set_defaults(run=run, run_action=run_action)


def run(args: argparse.Namespace) -> int:
    """Run the chosen action; exit status 0, or 1 when verify found problems."""
    status: int = args.run_action(args)
    return status


def describe_experts(bundle: Bundle) -> list[dict[str, Any]]:
    """Each expert as JSON values in row order; `share_of_base`: adapter and gate over the base in bytes, no head."""
    return [
        {"row": row, "file": entry.file, "sha256": entry.sha256, **describe_expert(expert, bundle.manifest.base.bytes)}
        for row, (entry, expert) in enumerate(zip(bundle.manifest.experts, bundle.experts(), strict=True))
    ]


def describe_expert(expert: Expert, base_bytes: int | None) -> dict[str, Any]:
    """What a person or a script wants to know of one expert, as JSON values."""
    sizes = expert.sizes()
    described: dict[str, Any] = {
        "name": expert.name,
        "adapter": expert.adapter,
        "sensors": list(expert.sensors),
        "domains": list(expert.domains),
        "classes": [label.name for label in expert.classes],
        "frames": expert.count,
        "adapter_bytes": sizes["adapter"],
        "head_bytes": sizes["head"],
        "gate_bytes": sizes["gate"],
        "scores": expert.scores,
    }
    if base_bytes is not None:
        described["share_of_base"] = (sizes["adapter"] + sizes["gate"]) / base_bytes
        described["share_of_base_with_head"] = sum(sizes.values()) / base_bytes
    return described


def size_text(size: float) -> str:
    """Bytes for people, in powers of 1000."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def scores_text(scores: dict[str, Any]) -> str:
    """The plain numbers among the scores, on one line."""
    numbers = [(key, value) for key, value in scores.items() if type(value) in (int, float)]
    return ", ".join(f"{one_line(key)} {value:.4g}" for key, value in numbers) or "-"


def one_line(text: str) -> str:
    """Text from a file, made safe for a terminal."""
    return text if text.isprintable() else ascii(text)


def experts_table(bundle: Bundle) -> Table:
    """The table of `experts list`."""
    table = Table(title=Text(f"{named(bundle.path)}: {len(bundle.manifest.experts)} experts"), title_justify="left")
    for heading in ("row", "name", "sensors", "domains", "classes", "adapter", "of base", "scores"):
        numeric = heading in ("row", "classes", "adapter", "of base")
        table.add_column(heading, justify="right" if numeric else "left", no_wrap=numeric or heading == "name")
    for each in describe_experts(bundle):
        cells = (
            str(each["row"]),
            each["name"],
            ", ".join(each["sensors"]) or "any",
            ", ".join(each["domains"]) or "-",
            str(len(each["classes"])),
            size_text(each["adapter_bytes"]),
            f"{each['share_of_base']:.2%}",
            scores_text(each["scores"]),
        )
        table.add_row(*(Text(cell) for cell in cells))
    table.caption = Text("of base = adapter and gate over the base's bytes, head apart; all the rest with --json")
    table.caption_justify = "left"
    return table


def names_text(names: list[str]) -> str:
    """Class names, or how many where the line would be long."""
    text = ", ".join(names)
    return text if len(text) <= 60 else f"{len(names)}: {', '.join(names[:3])}, ..."


def write_json(value: Any) -> None:
    """One JSON document on standard output."""
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")


def _list(args: argparse.Namespace) -> int:
    bundle = Bundle.open(args.bundle)
    if args.json:
        manifest = bundle.manifest
        base = {"model": manifest.base.model, "sha256": manifest.base.sha256, "bytes": manifest.base.bytes}
        write_json(
            {"bundle": manifest.name, "base": base, "capacity": manifest.capacity, "experts": describe_experts(bundle)}
        )
    else:
        Console().print(experts_table(bundle))
    return 0


def _add(args: argparse.Namespace) -> int:
    before = Bundle.open(args.bundle)
    bundle = before.add(args.file, args.name)
    row = len(bundle.manifest.experts) - 1
    entry = bundle.manifest.experts[row]
    new = [label.name for label in bundle.manifest.classes if label not in before.manifest.classes]
    if args.json:
        write_json({"added": entry.name, "row": row, "file": entry.file, "sha256": entry.sha256, "new_classes": new})
    else:
        classes = f", with new classes {names_text(new)}" if new else ""
        print(f"added {entry.name} as row {row} of {bundle.manifest.capacity}{classes}")
    return 0


def _remove(args: argparse.Namespace) -> int:
    manifest = remove_expert(args.bundle, args.name)
    if args.json:
        write_json({"removed": args.name, "experts": [entry.name for entry in manifest.experts]})
    else:
        print(f"removed {args.name}; {len(manifest.experts)} experts are left")
    return 0


def _verify(args: argparse.Namespace) -> int:
    problems = verify_bundle(args.bundle)
    if args.json:
        write_json({"bundle": str(args.bundle), "problems": problems})
    else:
        print("\n".join(problems) if problems else f"{named(args.bundle)} is whole")
    return 1 if problems else 0
