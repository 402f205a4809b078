"""Throughput of many bags on several cores over one bag on one core, in rounds that take turns.

    python benchmarks/fleet.py bundles/reference --bags 64 --seconds 1 --rounds 3 --json fleet.json

Both sides are the command `mile-edge replay` as a process of its own with everything written: start, loading and report
are in the time. The single bag, four times as long, runs pinned to one core with one thread; the many run with one
worker per core and one thread each. Bags are copies of one rendered drive with three sensors at 10 Hz.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def render(path: Path, seconds: float) -> Path:
    """A bag of a foggy street."""
    command = [sys.executable, "-m", "mile_edge", "world", str(path), "--bag", "--domain", "fog"]
    subprocess.run([*command, "--seconds", str(seconds)], check=True, stdout=subprocess.DEVNULL)
    return path


def frames_per_second(bundle: Path, bags: list[Path], out: Path, cores: list[int]) -> float:
    """Frames over the wall time of one replay of all bags on these cores."""
    command = [sys.executable, "-m", "mile_edge", "replay", str(bundle), *map(str, bags), "--out", str(out)]
    command += ["--threads", "1", *(["--workers", str(len(cores))] if len(bags) > 1 else [])]
    pinned = ["taskset", "-c", ",".join(map(str, cores)), *command]
    started = time.perf_counter()
    subprocess.run(pinned, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    return float(json.loads((out / "report.json").read_text())["frames"]) / seconds


def measure(bundle: Path, bags: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Both sides in turn."""
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="mile-edge-fleet-") as name:
        folder = Path(name)
        short, long = render(folder / "drive", seconds), render(folder / "long", 4 * seconds)
        many = [Path(shutil.copytree(short, folder / "bags" / f"drive-{number}")) for number in range(bags)]
        found = []
        for number in range(rounds):
            one = frames_per_second(bundle, [long], folder / f"one-{number}", cores[:1])
            all_of_them = frames_per_second(bundle, many, folder / f"many-{number}", cores)
            found.append({"one": round(one, 3), "many": round(all_of_them, 3), "times": round(all_of_them / one, 3)})
            print(found[-1], f"load {os.getloadavg()[0]:.1f}", flush=True)
    return {
        "bags": bags,
        "workers": len(cores),
        "rounds": found,
        "times": statistics.median(each["times"] for each in found),
        "largest_process_mib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, 1),
        "load": os.getloadavg(),
    }


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--bags", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of each bag (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    account = measure(args.bundle, args.bags, args.seconds, args.rounds)
    text = json.dumps(account, indent=1)
    print(text)
    if args.json is not None:
        args.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
