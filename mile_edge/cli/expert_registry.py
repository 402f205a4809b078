"""`mile-edge experts push` and `pull`: expert files to and from a registry, a folder or any URL."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from mile_edge.bundle import Bundle
from mile_edge.cli.output import examples_of, write_json
from mile_edge.fleet.registry import RegistryEntry, as_json, list_entries, pull, push

EPILOG = """examples:
  mile-edge experts push /mnt/experts out/harbour.safetensors
  mile-edge experts push s3://fleet/experts out/*.safetensors
  mile-edge experts pull s3://fleet/experts --list
  mile-edge experts pull s3://fleet/experts harbour fog@3f2a --to experts --bundle bundles/reference
  mile-edge experts add bundles/reference experts/harbour-91c0aa17.safetensors

A registry is a folder, here or wherever fsspec reaches (pip install 'mile-edge[fleet]', and s3fs for s3://). Files lie
there under their SHA-256: nothing is ever overwritten, every copy is verified, a copy that was cut off goes on where it
was. A registry only moves files; `experts add` decides whose and which may enter a bundle."""


def add_actions(actions: Any, formatter: Any) -> None:
    """Add the two actions to those of `mile-edge experts`."""
    command = actions.add_parser(
        "push",
        help="put expert files into a registry",
        description="Put expert files into a registry.",
        epilog=examples_of(EPILOG, "experts push"),
        formatter_class=formatter,
    )
    command.add_argument("registry", metavar="REGISTRY", help="a folder or a URL; made where it does not exist")
    command.add_argument("files", type=Path, nargs="+", metavar="FILE", help="expert files (.safetensors)")
    _add_common(command, _push)
    command = actions.add_parser(
        "pull",
        help="copy experts from a registry",
        description="Copy experts from a registry.",
        epilog=examples_of(EPILOG, "experts pull"),
        formatter_class=formatter,
    )
    command.add_argument("registry", metavar="REGISTRY", help="a folder or a URL")
    command.add_argument(
        "names",
        nargs="*",
        metavar="NAME[@HASH]",
        help="the latest, or the one whose hash begins so; all without it",
    )
    command.add_argument(
        "--to", type=Path, default=Path("experts"), metavar="DIR", help="where they go (default %(default)s)"
    )
    command.add_argument("--bundle", metavar="BUNDLE", help="only experts that fit this bundle's base")
    command.add_argument("--list", action="store_true", help="show what the registry has, and copy nothing")
    _add_common(command, _pull)


def _add_common(command: argparse.ArgumentParser, run_action: Any) -> None:
    command.add_argument("--json", action="store_true", help="write JSON to standard output")
    command.set_defaults(run=_run, run_action=run_action)


def _run(args: argparse.Namespace) -> int:
    status: int = args.run_action(args)
    return status


def _push(args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="mile-edge-push-") as folder:
        pushed = push(args.registry, args.files, Path(folder))
    _show(args, pushed, [f"pushed {entry.name} {entry.sha256[:8]}, {entry.bytes} bytes" for entry in pushed])
    return 0


def _pull(args: argparse.Namespace) -> int:
    base = Bundle.open(args.bundle).manifest.base.sha256 if args.bundle else None
    if args.list:
        entries = [entry for entry in list_entries(args.registry) if base in (None, entry.base_sha256)]
        lines = [
            f"{each.name}@{each.sha256[:8]}  {f'version {each.version}, ' if each.version else ''}{each.bytes} bytes, "
            f"{', '.join(each.sensors) or 'any sensor'}"
            for each in entries
        ]
        _show(args, entries, lines)
        return 0
    pulled = pull(args.registry, args.names, args.to, base_sha256=base)
    _show(args, [entry for entry, _ in pulled], [str(path) for _, path in pulled], [path for _, path in pulled])
    return 0


def _show(
    args: argparse.Namespace, entries: list[RegistryEntry], lines: list[str], paths: list[Path] | None = None
) -> None:
    if args.json:
        values = [as_json(entry) for entry in entries]
        for value, path in zip(values, paths or (), strict=False):
            value["path"] = str(path)
        write_json({"registry": args.registry, "experts": values})
    else:
        print("\n".join(lines) if lines else "the registry has none")
