"""`mile-edge experts`: what is in a bundle, and the only way to change it from a shell."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from mile_edge.bundle import Bundle, Expert, read_expert, remove_expert, verify_bundle
from mile_edge.bundle.commit import MANIFEST
from mile_edge.bundle.files import named
from mile_edge.bundle.strict_json import SHA256
from mile_edge.cli import expert_history, expert_packages, expert_registry
from mile_edge.cli.output import console, examples_of, write_json
from mile_edge.errors import BundleError, RecipeError

EPILOG = """examples:
  mile-edge experts list bundles/reference
  mile-edge experts add bundles/reference runs/fog/fog.safetensors
  mile-edge experts add bundles/reference fog.safetensors --name fog-2
  mile-edge experts remove bundles/reference fog
  mile-edge experts verify bundles/reference --json

  mile-edge experts keygen workshop --out keys    # workshop.key stays here, workshop.pub goes to robots
  mile-edge experts sign fog.safetensors --version 3 --key keys/workshop.key --out fog-3.safetensors
  mile-edge experts pack fog.safetensors --version 3 --out fog-3.safetensors    # sign it later, elsewhere
  mile-edge experts verify fog-3.safetensors --keys /etc/mile_edge/keys
  mile-edge experts add bundles/reference fog-3.safetensors --keys /etc/mile_edge/keys --replace --shadow 300
  mile-edge experts promote bundles/reference     # the expert in shadow goes live at once
  mile-edge experts withdraw bundles/reference    # or is dropped
  mile-edge experts history bundles/reference
  mile-edge experts rollback bundles/reference
  mile-edge experts rollback bundles/reference --to 3f2a91c0

  mile-edge experts push s3://fleet/experts fog-3.safetensors
  mile-edge experts pull s3://fleet/experts fog --to experts

A change is atomic: killed at any moment it leaves the bundle as it was or as it should be."""


def add_parser(subparsers: Any) -> None:
    """Add `experts` with its actions."""
    parser = subparsers.add_parser(
        "experts",
        help="list, add, remove, sign, verify and roll back the experts of a bundle",
        description="List, add, remove, sign, verify and roll back the experts of a bundle.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, run_action, text in (
        ("list", _list, "show every expert with its sensors, domains, classes, bytes and scores"),
        ("add", _add, "add an expert file in the next free row"),
        ("remove", _remove, "remove an expert; works also when its file is damaged"),
        ("verify", _verify, "check every file against its hash and every expert against the base; exit 1 on problems"),
        ("history", expert_history.history, "show who changed the bundle, when and how, and the states kept"),
        ("rollback", expert_history.rollback, "go back to the state before the last change, or to another one kept"),
        ("promote", expert_history.promote, "put the expert in shadow live at once"),
        ("withdraw", expert_history.withdraw, "drop the expert in shadow"),
        ("keygen", expert_packages.keygen, "make a publisher's key pair"),
        ("pack", expert_packages.pack, "make a package of an expert file: the same file with a version"),
        ("sign", expert_packages.sign, "sign a package with a publisher's key"),
    ):
        command = actions.add_parser(
            action,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=examples_of(EPILOG, f"experts {action}"),
            formatter_class=parser.formatter_class,
        )
        if action in _OF_FILES:
            _OF_FILES[action](command)
        elif action == "verify":
            command.add_argument("bundle", metavar="PATH", help="a bundle folder, or an expert file")
            expert_packages.add_trust(command)
        else:
            command.add_argument("bundle", metavar="BUNDLE", help="a bundle folder")
        if action == "rollback":
            expert_history.add_rollback(command)
        if action == "add":
            command.add_argument("file", metavar="FILE", help="an expert file (.safetensors)")
            command.add_argument("--name", help="add it under another name than its own")
            command.add_argument(
                "--sha256", type=_sha256, default="", metavar="HEX", help="refuse another file than this one"
            )
            command.add_argument("--replace", action="store_true", help="take the row of the expert of its name")
            command.add_argument("--downgrade", action="store_true", help="take it though a newer version was here")
            expert_packages.add_trust(command)
            expert_history.add_shadow(command)
        if action == "remove":
            command.add_argument("name", metavar="NAME", help="an expert of the bundle")
        command.add_argument("--json", action="store_true", help="write JSON to standard output")
        command.set_defaults(run=run, run_action=run_action)
    expert_registry.add_actions(actions, parser.formatter_class)


_OF_FILES = {
    "keygen": expert_packages.add_keygen,
    "pack": expert_packages.add_pack,
    "sign": expert_packages.add_sign,
}


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


def _sha256(text: str) -> str:
    # argparse hands the default through here, too.
    if text and not SHA256.fullmatch(text.strip().lower()):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is no SHA-256; give all of its 64 hexadecimal digits")
    return text.strip().lower()


def _list(args: argparse.Namespace) -> int:
    bundle = Bundle.open(args.bundle)
    if args.json:
        manifest = bundle.manifest
        base = {"model": manifest.base.model, "sha256": manifest.base.sha256, "bytes": manifest.base.bytes}
        facts = {"bundle": manifest.name, "base": base, "capacity": manifest.capacity}
        shadow = None if manifest.candidate is None else asdict(manifest.candidate)
        write_json({**facts, "experts": describe_experts(bundle), "candidate": shadow})
    else:
        console().print(experts_table(bundle))
        candidate = bundle.manifest.candidate
        if candidate is not None:
            print(f"in shadow: {candidate.name}, for {candidate.plan.frames} frames, one in {candidate.plan.every}")
    return 0


def _add(args: argparse.Namespace) -> int:
    from mile_edge.runtime.bank import servable

    plan, trust = expert_history.plan_of(args), expert_packages.trust_of(args)
    if args.keys and trust.policy != "signed":
        raise RecipeError(f"--keys does nothing under --policy {trust.policy}; leave one of the two out")
    before = Bundle.open(args.bundle)
    bundle = before.add(
        args.file,
        args.name,
        trust=trust,
        sha256=args.sha256,
        replaces=args.replace,
        downgrade=args.downgrade,
        shadow=plan,
        around=servable,
    )
    candidate = bundle.manifest.candidate
    if args.shadow is not None and candidate is not None:
        if args.json:
            write_json({"shadow": candidate.name, "file": candidate.file, "sha256": candidate.sha256})
        else:
            print(
                f"added {candidate.name} in shadow for {args.shadow} frames; a running node begins when it is restarted"
            )
        return 0
    entry = bundle.manifest.entry(args.name or read_expert(args.file).name)
    row = bundle.manifest.experts.index(entry)
    new = [label.name for label in bundle.manifest.classes if label not in before.manifest.classes]
    if args.json:
        write_json({"added": entry.name, "row": row, "file": entry.file, "sha256": entry.sha256, "new_classes": new})
    else:
        classes = f", with new classes {names_text(new)}" if new else ""
        print(f"added {entry.name} as row {row} of {bundle.manifest.capacity}{classes}")
    return 0


def _remove(args: argparse.Namespace) -> int:
    from mile_edge.runtime.bank import servable

    try:
        bundle = Bundle.open(args.bundle)
    except BundleError:
        # What does not open is mended, whatever the gate would say of it.
        manifest = remove_expert(args.bundle, args.name)
    else:
        manifest = bundle.remove(args.name, servable).manifest
    if args.json:
        write_json({"removed": args.name, "experts": [entry.name for entry in manifest.experts]})
    else:
        print(f"removed {args.name}; {len(manifest.experts)} experts are left")
    return 0


def _verify(args: argparse.Namespace) -> int:
    folder = Path(args.bundle)
    if not folder.is_dir():
        return expert_packages.verify_file(args)
    if not os.path.lexists(folder / MANIFEST):
        raise BundleError(
            f"{named(folder)} is no bundle, it holds no {MANIFEST}; give a bundle folder or an expert file"
        )
    problems = verify_bundle(args.bundle)
    trust = expert_packages.trust_of(args)
    if not problems and trust.policy == "signed":
        problems = expert_packages.bundle_signatures(args.bundle, trust)
    if args.json:
        write_json({"bundle": str(args.bundle), "problems": problems})
    else:
        print("\n".join(problems) if problems else f"{named(args.bundle)} is whole")
    return 1 if problems else 0
