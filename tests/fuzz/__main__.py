"""`python tests/fuzz`: broken inputs for every parser that meets bytes from outside, counted.

Nothing but a result or a `MileError` of one sentence may come out, within 10 s of processor time and 1 GiB of memory.
An input that breaks this is saved with its traceback, and `python tests/fuzz --again FILE` feeds it once more.
With `--record FILE` a run that was stopped goes on where it was: batches that the record holds are counted, not run;
those of them that broke something run again.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

_HERE = Path(__file__).resolve().parent
sys.path[1:1] = [str(_HERE.parent), str(_HERE.parents[1]), str(_HERE.parents[1] / "ros2_ws" / "src" / "mile_edge")]

from fuzzing import Fuzzer, Record, batches, fuzz, targets


def main() -> int:
    """Fuzz; 0 where nothing broke, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python tests/fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=20_000, help="over all targets (default %(default)s)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="default: the time")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", nargs="+", metavar="TARGET", help="some targets")
    parser.add_argument("--failures", type=Path, default=Path("out/fuzz"), help="where inputs that break go")
    parser.add_argument("--again", type=Path, metavar="FILE", help="feed one saved input to its target")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts")
    parser.add_argument("--record", type=Path, metavar="FILE", help="go on from what this file says was done")
    args = parser.parse_args()
    known = targets()
    if args.again is not None:
        return _again(args.again, known)
    names = args.only or list(known)
    args.failures.mkdir(parents=True, exist_ok=True)
    interrupted: list[int] = []
    signal.signal(signal.SIGINT, lambda *_: interrupted.append(1))
    print(f"seed {args.seed}, {args.inputs} inputs over {len(names)} targets", flush=True)
    counts = {name: Counter[str]() for name in names}
    broken: list[str] = []
    started = time.monotonic()
    jobs = batches(names, args.inputs, args.seed)
    record = Record(args.record)
    for batch in jobs:
        if batch in record.done:
            accepted, refused = record.done[batch]
            counts[batch.target].update(accepted=accepted, refused=refused)
    left = [batch for batch in jobs if batch not in record.done]
    for batch, findings in fuzz(Fuzzer(args.failures), left, args.workers, lambda: bool(interrupted)):
        counts[batch.target].update(accepted=findings.accepted, refused=findings.refused, broken=len(findings.broken))
        record.add(batch, findings)
        broken += findings.broken
        for line in findings.broken:
            print("BROKEN", line, flush=True)
        account = {"seed": args.seed, "seconds": round(time.monotonic() - started), "targets": counts}
        if args.json is not None:
            args.json.write_text(json.dumps(account, indent=1))
    for name, found in counts.items():
        print(f"{name:20} {found['accepted']:7} accepted {found['refused']:7} refused {found['broken']:4} broken")
    total = sum(sum(found.values()) for found in counts.values())
    print(f"{len(broken)} of {total} inputs broke something, in {time.monotonic() - started:.0f} s, seed {args.seed}")
    return 1 if broken else 0


def _again(file: Path, known: dict) -> int:
    name = next(name for name in sorted(known, key=len, reverse=True) if name in file.name)
    with tempfile.TemporaryDirectory() as folder:
        print(name, known[name].parse(file.read_bytes(), Path(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
