#!/usr/bin/env python3
"""Measures the low-rank path on a CUDA device, prints a table and writes JSON.

    python benchmarks/gpu.py --json gpu.json

Needs torch with CUDA and the workshop's packages (`pip install -e '.[train]'`). nvcc builds the fused kernel from
plugin/, or NVRTC where cuda-bindings is installed; without either the report says so and measures the rest. Each part
runs in a process of its own, since an error on a device ends all that its process could still do there.
Exit code 0: measured; 1: a bound does not hold or a part failed; 2: nothing could be measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parents[1]))


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    from on_gpu.apart import PARTS, Order, run_apart, run_here
    from on_gpu.report import exit_code, render, verdicts

    parser = argparse.ArgumentParser(
        description="Measure the low-rank path on a CUDA device.",
        epilog="example: python benchmarks/gpu.py --json gpu.json   (about five minutes on an H100)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there, after each part")
    parser.add_argument("--rounds", type=_count, default=30, help="interleaved rounds per figure (default 30)")
    parser.add_argument("--batches", type=_batch, nargs="+", default=[1, 4], help="frames at once (default 1 4)")
    parser.add_argument("--bundle", type=Path, default=Path("bundles/reference"), help="bundle for TensorRT's figures")
    parser.add_argument("--only", choices=PARTS, nargs="+", help="a part of it")
    parser.add_argument(
        "--limit", type=_count, default=600, metavar="S", help="seconds that a part may take (default 600)"
    )
    parser.add_argument("--part", choices=("machine", *PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--built", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    reason = _no_device()
    if reason:
        print(f"gpu.py: {reason}", file=sys.stderr)
        return 2
    order = Order(options.rounds, tuple(options.batches), options.bundle)
    if options.part:
        run_here(options.part, order, options.built, options.json)
        return 0
    found: dict[str, Any] = {"missing": [], "failed": False}
    with tempfile.TemporaryDirectory(prefix="mile-edge-kernel-") as built:
        for part in ("machine", *(options.only or PARTS)):
            answer = run_apart(part, order, Path(built), options.limit)
            found |= answer.figures
            found["missing"] += answer.missing
            found["failed"] |= answer.failed
            found["verdicts"] = verdicts(found)
            if options.json:
                options.json.write_text(json.dumps(found, indent=1) + "\n")
    print(render(found))
    return exit_code(found)


def _no_device() -> str | None:
    try:
        import torch
    except ImportError:
        return "torch is not installed; install it with CUDA, see benchmarks/jetson.md for a Jetson"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no CUDA device; run this where an NVIDIA GPU and its driver are"
    return None


def _count(text: str) -> int:
    return _whole(text, 1, 1 << 20)


def _batch(text: str) -> int:
    # Every sample goes under an expert of its own, and there are so many.
    return _whole(text, 1, 16)


def _whole(text: str, low: int, high: int) -> int:
    if not text.isdecimal() or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low} to {high}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
