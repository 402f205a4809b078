"""What training beside it costs a robot's frames: a camera at a steady rate, with and without a training, in turn.

    python benchmarks/training.py bundles/reference data/fog --rate 4 --seconds 20 --rounds 6 --json training.json

Three kinds of rounds follow one another again and again: no training; one with the limits that the node sets (its own
cores, niceness 19, a memory limit, within the session); one as a shell starts it (a session of its own, no limits). The
trainings run for the whole time and are stopped (SIGSTOP) while it is not their turn, so that every kind meets the same
machine. Latency counts from when a frame is due, so that a frame that waits for the one before it counts its waiting.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mile_edge.data.folder import FolderDataset
from mile_edge.runtime import Segmenter
from mile_edge.workers.limits import Limits, cores_for_training, cores_text, lower_threads

KINDS = ("none", "limited", "unlimited")


@contextlib.contextmanager
def training(bundle: Path, data: Path, folder: Path, kind: str) -> Iterator[subprocess.Popen[str]]:
    """A training without end that has taken its first steps and is stopped."""
    line = [sys.executable, "-m", "mile_edge", "train", "expert", str(bundle), str(data), "--name", kind]
    line += ["--out", str(folder / f"{kind}.safetensors"), "--steps", "1000000"]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    apart: dict[str, Any] = {"start_new_session": True}
    line += ["--batch", "2"]
    if kind == "limited":
        line += ["--cores", cores_text(cores_for_training()), "--memory", "4000"]
        apart = {"process_group": 0} if sys.version_info >= (3, 11) else apart
    child = subprocess.Popen(
        line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **apart
    )
    try:
        assert child.stderr is not None
        # Its first line comes with its first step.
        told = child.stderr.readline()
        if "step" not in told:
            raise SystemExit(f"the training does not run: {told.strip()}")
        threading.Thread(target=child.stderr.read, daemon=True).start()
        if kind == "limited":
            # Only now: on a busy machine it would begin late, for it takes only time that nobody wants.
            lower_threads(child.pid, Limits(cores_for_training(), 19))
        os.killpg(child.pid, signal.SIGSTOP)
        yield child
    finally:
        for sign in (signal.SIGKILL, signal.SIGCONT):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, sign)
        child.wait()


def spent(child: subprocess.Popen[str]) -> float:
    """Processor seconds of a child so far."""
    fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def camera(segmenter: Segmenter, frames: list[np.ndarray], rate: float, seconds: float) -> list[float]:
    """Milliseconds from when each frame was due until its mask was there; a frame older than two periods is dropped."""
    found, began = [], time.monotonic()
    number = 0
    while (due := began + number / rate) < began + seconds:
        time.sleep(max(0.0, due - time.monotonic()))
        segmenter(frames[number % len(frames)], sensor="camera")
        found.append((time.monotonic() - due) * 1e3)
        number = max(number + 1, int((time.monotonic() - began) * rate))
    return found


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Latencies of every kind, round by round."""
    frames = [each.frame for each, _ in zip(FolderDataset(args.data), range(8), strict=False)]
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    shares: dict[str, list[float]] = {kind: [] for kind in KINDS[1:]}
    with contextlib.ExitStack() as stack:
        children = {kind: stack.enter_context(training(args.bundle, args.data, folder, kind)) for kind in KINDS[1:]}
        segmenter = stack.enter_context(Segmenter.open(args.bundle, threads=args.threads))
        for _ in range(10):
            segmenter(frames[0], sensor="camera")
        for turn in range(args.rounds):
            for kind in KINDS[turn % 3 :] + KINDS[: turn % 3]:
                child = children.get(kind)
                before = spent(child) if child else 0.0
                if child:
                    os.killpg(child.pid, signal.SIGCONT)
                found[kind] += camera(segmenter, frames, args.rate, args.seconds)
                if child:
                    os.killpg(child.pid, signal.SIGSTOP)
                    shares[kind].append((spent(child) - before) / args.seconds)
    return {
        kind: {
            "frames": len(times),
            **{f"p{rank}_ms": round(float(np.percentile(times, rank)), 1) for rank in (50, 90, 99)},
            "training_cores": round(float(np.mean(shares[kind])), 2) if kind in shares else 0.0,
        }
        for kind, times in found.items()
    }


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path, help="labelled folder, for the training and for the camera")
    parser.add_argument("--rate", type=float, default=4.0, help="frames per second (default 4)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of one round of one kind (default 20)")
    parser.add_argument("--rounds", type=int, default=6, help="rounds of each kind (default 6)")
    parser.add_argument("--threads", type=int, default=1, help="of one pass (default 1)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args, Path(folder))
    about = {"rate": args.rate, "threads": args.threads, "cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()}
    print(f"{'training':>10} {'frames':>7} {'p50 ms':>8} {'p90 ms':>8} {'p99 ms':>8} {'cores it took':>14}")
    for kind, row in found.items():
        print(f"{kind:>10} {row['frames']:7} {row['p50_ms']:8} {row['p90_ms']:8} {row['p99_ms']:8} "
              f"{row['training_cores']:14}")  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps({**about, "kinds": found}, indent=2))


if __name__ == "__main__":
    main()
