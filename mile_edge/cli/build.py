"""``mile-edge build``: a bundle's TensorRT engine."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from mile_edge.cli.options import names

_EXAMPLES = """examples:
  mile-edge build bundles/reference                           the TensorRT that imports, this machine's device
  mile-edge build bundles/reference --backend tensorrt-rtx --compute-capability 8.9,12.0
  mile-edge build bundles/reference --backend tensorrt --timing-cache ~/.cache/mile-edge/timings

TensorRT 10 and 11 build on the device itself; TensorRT-RTX (pip install 'mile-edge[rtx]') builds
anywhere, without a GPU.
The engine stays valid while experts come and go. It is built again for another TensorRT, device, graph or capacity."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``build``."""
    parser = commands.add_parser(
        "build",
        help="build a bundle's TensorRT engine",
        description="Build a TensorRT engine from a bundle's graph, with a manifest beside it that loading checks.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--backend", choices=("tensorrt", "tensorrt-rtx"), help="default: the first that imports")
    parser.add_argument("--out", type=Path, help="engine file (default: BUNDLE/engines/BACKEND.engine)")
    parser.add_argument("--max-batch", type=int, default=4, help="largest batch (default 4)")
    parser.add_argument("--workspace", type=int, metavar="MIB", help="scratch memory limit in MiB")
    parser.add_argument("--optimization-level", type=int, metavar="0..5", help="quick build to quick engine")
    parser.add_argument(
        "--compute-capability",
        type=names,
        default=(),
        metavar="X.Y,...",
        help="devices to build for, TensorRT-RTX only (default: the one at hand, else all it serves)",
    )
    parser.add_argument("--timing-cache", type=Path, metavar="FILE", help="keep kernel timings here (not RTX)")
    parser.add_argument(
        "--plugin", type=Path, metavar="LIB", help="library with the fused low-rank kernel, or its source"
    )
    parser.add_argument("--json", action="store_true", help="print the engine's manifest as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Build and print."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from mile_edge.bundle import Bundle
    from mile_edge.runtime.tensorrt.api import find_api
    from mile_edge.runtime.tensorrt.build import BuildOptions, build_engine
    from mile_edge.runtime.tensorrt.progress import BuildProgress

    options = BuildOptions(
        max_batch=args.max_batch,
        workspace_mib=args.workspace,
        optimization_level=args.optimization_level,
        capabilities=tuple(args.compute_capability),
        timing_cache=args.timing_cache and args.timing_cache.expanduser(),
        plugin=args.plugin,
    )
    bundle, api = Bundle.open(args.bundle), find_api(args.backend)
    columns = (TextColumn("[bold]{task.description:<40.40}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        line = bar.add_task(f"{api.name} {api.version}", total=1.0)

        def report(progress: BuildProgress) -> None:
            bar.update(line, description=progress.phase, completed=progress.done)

        path, manifest = build_engine(bundle, api, options, args.out, report)
        bar.update(line, description="built", completed=1.0)
    if args.json:
        print(json.dumps({"engine": str(path), **asdict(manifest)}))
        return 0
    for key, value in {"engine": path, **vars(manifest)}.items():
        print(f"{key:>16}: {', '.join(map(str, value)) if isinstance(value, tuple) else value}")
    return 0
