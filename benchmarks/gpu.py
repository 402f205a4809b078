#!/usr/bin/env python3
"""Measures the low-rank path on a CUDA device, prints a table and writes JSON.

    python benchmarks/gpu.py --json gpu.json

Needs torch with CUDA and the workshop's packages (`pip install -e '.[train]'`). nvcc builds the fused kernel from
plugin/, or NVRTC where cuda-bindings is installed; without either the report says so and measures the rest.
Exit code 0: measured; 1: a bound does not hold or a part failed; 2: nothing could be measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from on_gpu.kernel import FusedLowRank

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parents[1]))


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(
        description="Measure the low-rank path on a CUDA device.",
        epilog="example: python benchmarks/gpu.py --json gpu.json   (about five minutes on an H100)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--rounds", type=int, default=30, help="interleaved rounds per figure (default 30)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4], help="frames at once (default 1 4)")
    parser.add_argument("--bundle", type=Path, default=Path("bundles/reference"), help="bundle for TensorRT's figures")
    parser.add_argument("--only", choices=("layers", "networks", "experts", "engine"), nargs="+", help="a part of it")
    options = parser.parse_args(arguments)
    reason = _no_device()
    if reason:
        print(f"gpu.py: {reason}", file=sys.stderr)
        return 2
    found = _measure(options)
    from on_gpu.report import render

    print(render(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return int(found["failed"] or any(entry["holds"] is False for entry in found["verdicts"]))


def _no_device() -> str | None:
    try:
        import torch
    except ImportError:
        return "torch is not installed; install it with CUDA, see benchmarks/jetson.md for a Jetson"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no CUDA device; run this where an NVIDIA GPU and its driver are"
    return None


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    from on_gpu.clock import copy_bandwidth
    from on_gpu.kernel import FusedLowRank, MissingError
    from on_gpu.report import verdicts

    missing: list[str] = []
    fused: FusedLowRank | None = None
    try:
        fused = FusedLowRank()
    except MissingError as reason:
        missing.append(str(reason))
    bandwidth = copy_bandwidth()
    found: dict[str, Any] = {"machine": _machine(bandwidth, fused.how if fused else "nothing"), "missing": missing}
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "layers": lambda: _layers(fused, bandwidth, options),
        "networks": lambda: _networks(fused, options),
        "experts": lambda: _experts(fused),
        "engine": lambda: _engine(options),
    }
    failed = False
    for name in options.only or parts:
        # One part that fails must not cost the figures of the others: the machine may be a borrowed one.
        try:
            found |= parts[name]()
        except (MissingError, ImportError) as reason:
            missing.append(f"{name}: {reason}")
        except (RuntimeError, AssertionError) as error:
            failed = True
            traceback.print_exc()
            missing.append(f"{name} failed: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    return found | {"verdicts": verdicts(found), "failed": failed}


def _layers(fused: FusedLowRank | None, bandwidth: float, options: argparse.Namespace) -> dict[str, Any]:
    import torch
    from on_gpu import layers

    rows = [
        layers.measure(fused, layer, batch, 8, torch.float16, bandwidth, options.rounds)
        for batch in options.batches
        for layer in layers.LAYERS
    ]
    return {"correctness": layers.check(fused) if fused else [], "layers": rows}


def _networks(fused: FusedLowRank | None, options: argparse.Namespace) -> dict[str, Any]:
    from on_gpu import network

    # The base's own choice of layers, and that of the recipe for TensorRT.
    every = r"segformer\.stages\.[123]\..*(q_proj|k_proj|v_proj|o_proj|fc1|fc2)"
    rows = [
        network.measure(name, (480, 640), fused, options.rounds, layers=pattern, batch=batch)
        for name, pattern in (("segformer-b0", None), ("segformer-b0", every), ("segformer-b5", None))
        for batch in options.batches
    ]
    return {"networks": rows}


def _experts(fused: FusedLowRank | None) -> dict[str, Any]:
    from on_gpu import experts

    flow = experts.make_flow(fused)
    return {"switching": experts.measure_switching(flow), "adding": experts.measure_adding(flow)}


def _engine(options: argparse.Namespace) -> dict[str, Any]:
    from on_gpu import engine

    return {"engine": engine.measure(options.bundle, options.rounds)}


def _machine(bandwidth: float, kernel: str) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size,
        "driver": _driver(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "kernel": kernel,
        "copy_gb_per_s": bandwidth / 1e9,
    }


def _driver() -> str:
    """The driver's version from nvidia-smi, or on a Jetson, whose nvidia-smi knows little, the release of L4T."""
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout.splitlines()[0].strip()
    except (OSError, subprocess.SubprocessError, IndexError):
        release = Path("/etc/nv_tegra_release")
        return release.read_text().splitlines()[0].lstrip("# ") if release.is_file() else "unknown"


if __name__ == "__main__":
    sys.exit(main())
