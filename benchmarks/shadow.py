"""What an expert in shadow costs the live frames: blocks of frames with and without one, in turn.

    python benchmarks/shadow.py bundles/reference --period 0.2 --frames 200 --json shadow.json

Each block of frames is taken once without and once with a candidate that is compared on one frame in ten. With a period
the frames come as from a camera; with 0 back to back, so that every shadow pass competes with live ones.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mile_edge.bundle import Bundle, ShadowPlan, write_expert
from mile_edge.runtime import Segmenter

BLOCKS = 10


def measure(bundle: Path, threads: int, period: float, frames: int, every: int) -> dict[str, Any]:
    """Milliseconds of live frames without and with a candidate, of the shadow passes, and how many there were."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(bundle, Path(folder) / "bundle"))
        last = Bundle.open(copy).experts()[-1]
        write_expert(Path(folder) / "candidate.safetensors", replace(last, name="candidate"))
        network = Bundle.open(copy).manifest.network
        frame = np.random.default_rng(0).integers(0, 255, (network.height, network.width, 3), dtype=np.uint8)
        times: dict[str, list[float]] = {"without": [], "with": []}
        passes: list[float] = []
        compared = skipped = 0
        with Segmenter.open(copy, threads=threads) as segmenter:
            for _ in range(5):
                segmenter(frame)
            # Every block compares at least twice; a run of blocks evens out what else the machine does.
            size = max(2 * every, frames // BLOCKS)
            for _ in range(max(1, frames // size)):
                for kind, kept in times.items():
                    if kind == "with":
                        segmenter.add_expert(Path(folder) / "candidate.safetensors", shadow=ShadowPlan(10**6, every))
                    for _ in range(size):
                        began = time.perf_counter()
                        segmenter(frame)
                        spent = time.perf_counter() - began
                        kept.append(spent * 1e3)
                        time.sleep(max(0.0, period - spent))
                    if kind == "with":
                        segmenter.wait_for_shadow()
                        report = segmenter.shadow
                        assert report is not None
                        segmenter.withdraw()
                        compared, skipped = compared + report.compared, skipped + report.skipped
                        passes += [report.milliseconds["p50"]] if report.milliseconds else []
    return {
        "threads": threads,
        "period_s": period,
        "every": every,
        **{f"{kind}_ms": _percentiles(kept) for kind, kept in times.items()},
        "shadow_pass_ms": round(float(np.median(passes)), 2),
        "compared": compared,
        "skipped": skipped,
    }


def _percentiles(times: list[float]) -> dict[str, float]:
    return {f"p{rank}": round(float(np.percentile(times, rank)), 2) for rank in (50, 95, 99)}


def main() -> None:
    """Print the table; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, default=1, help="of one pass (default 1)")
    parser.add_argument("--period", type=float, default=0.2, help="seconds between frames; 0 for back to back")
    parser.add_argument("--frames", type=int, default=200, help="of either kind")
    parser.add_argument("--every", type=int, default=10, help="compare one frame in so many")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = measure(args.bundle, args.threads, args.period, args.frames, args.every)
    for name, value in found.items():
        print(f"{name:>16}  {value}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
