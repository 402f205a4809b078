"""``mile-edge calibrate int8``: a bundle whose frozen base computes in int8."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from mile_edge.errors import DataError

_EXAMPLES = """examples:
  mile-edge calibrate int8 bundles/reference --data out/reference/train/* --out out/reference-int8
  mile-edge calibrate int8 out/camvid/bundle --out out/camvid/int8 --ranges entropy --max-drop 0.5 --limit 128 \\
      --data ../shared/data/camvid/day/train ../shared/data/camvid/dusk/train out/camvid/thermal/train
  mile-edge calibrate int8 BUNDLE --data FOLDER ... --out NEW --recipe calib/recipes/int8.yaml --json > account.json

Give frames of all the bundle's domains, and none that a test will use. The source bundle is never changed; its experts
fit the new one, and the new one's experts the source. Afterwards: mile-edge evaluate NEW TEST_FOLDER ..."""


def add_form(forms: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the form ``int8`` to ``calibrate``."""
    parser = forms.add_parser(
        "int8",
        help="write a bundle whose frozen base computes in int8 (needs onnx)",
        description="Write a new bundle with explicit Q/DQ nodes in its graph. One half of the frames sets the ranges; "
        "the other says what each layer costs, and the costliest go back to the source's precision until no "
        "folder loses more than --max-drop. LayerNorm, softmax, gate and the low-rank path are never quantised.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", type=Path, help="an fp32 or fp16 bundle; the rest of the new one stays like it")
    parser.add_argument(
        "--data", nargs="+", type=Path, required=True, help="folders of frames, labelled where possible"
    )
    parser.add_argument("--out", type=Path, required=True, help="bundle folder to create")
    parser.add_argument("--recipe", type=Path, help="YAML file with settings; the options below overrule it")
    parser.add_argument("--ranges", help="percentile (default), entropy or minmax")
    parser.add_argument("--percentile", type=float, help="of an activation's magnitudes (default 99.99)")
    parser.add_argument(
        "--max-drop", type=float, metavar="POINTS", help="of mIoU that a folder may lose at most (default 1.0)"
    )
    parser.add_argument(
        "--exclude", action="append", metavar="REGEX", help="layers to leave as they are; may be given again"
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="frames for the ranges, and as many to judge by (default 64)"
    )
    parser.add_argument("--json", action="store_true", help="print the account as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Calibrate, write, print."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from mile_edge.bundle import Bundle
    from mile_edge.data.folder import FolderDataset
    from mile_edge.quantization.bundle import Progress as Steps
    from mile_edge.quantization.bundle import calibrate_int8
    from mile_edge.quantization.recipe import Int8Recipe, load_int8_recipe

    settings: dict[str, Any] = load_int8_recipe(args.recipe) if args.recipe else {}
    given = {each.name: getattr(args, each.name, None) for each in fields(Int8Recipe)}
    settings |= {key: value for key, value in given.items() if value is not None}
    settings["exclude"] = tuple(settings.get("exclude", ()))
    recipe = Int8Recipe(**settings)
    bundle = Bundle.open(args.bundle)
    folders = [FolderDataset(path) for path in args.data]
    if len({folder.path.resolve() for folder in folders}) < len(folders):
        raise DataError("--data names a folder twice; give each once")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        line = bar.add_task("starting", total=None)
        steps = Steps(lambda name, passes: bar.reset(line, description=name, total=passes), lambda: bar.advance(line))
        _, account = calibrate_int8(bundle, folders, args.out, recipe, steps)
    if args.json:
        print(json.dumps(account))
    else:
        _show(account, args.out)
    return 0


def _show(account: dict[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    # Names of layers are long, and a log is no terminal that would wrap them.
    console = Console(width=None if sys.stdout.isatty() else 150)
    rest, verdicts = account["rest"], (account["all_int8"], account["result"])
    table = Table("layer", "kind", "weights", "pixels %", "mIoU lost", "shift %", "now")
    for layer in account["layers"]:
        cost = layer["cost"]
        figures = ["-"] * 3 if cost is None else [f"{cost[key]:.2f}" for key in ("changed", "drop", "shift")]
        table.add_row(layer["name"], layer["kind"], str(layer["numbers"]), *figures, "int8" if layer["int8"] else rest)
    console.print(
        "What each layer costs when it alone is int8: pixels of another class, points of mIoU, change of the distances"
    )
    console.print(table)
    total = Table(f"on {account['frames']['judged']} other frames", rest, "all int8", "as written")
    for folder, before in account["source_miou"].items():
        total.add_row(f"mIoU {folder}", f"{before:.2f}", *(f"{each['miou'][folder]:.2f}" for each in verdicts))
    for title, key in (
        ("points of mIoU lost, the worst folder", "drop"),
        ("% of pixels changed", "changed"),
        ("% of frames rerouted", "rerouted"),
        ("% change of the distances", "shift"),
    ):
        total.add_row(title, "", *(f"{each[key]:.2f}" for each in verdicts))
    console.print(total)
    console.print(
        f"{out}: {account['int8_layers']} of {account['candidates']} layers in int8, with "
        f"{account['int8_weights_percent']} % of their weights; the rest is {rest}. "
        f"The truth was {account['truth']}; int8.json there holds this account."
    )
