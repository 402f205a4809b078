"""Batches of inputs over worker processes; a worker that a parser brings down is a finding like any other."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bag_targets import bag_targets
from bundle_targets import bundle_targets
from other_targets import image_targets, request_targets, text_targets
from trust_targets import trust_targets
from watch import Batch, Findings, Target, watch

from mile_edge.workers import Context, Outcome, run_jobs


def targets() -> dict[str, Target]:
    """Every parser by name."""
    found = [*bundle_targets(), *bag_targets(), *image_targets(), *text_targets(), *request_targets(), *trust_targets()]
    return {target.name: target for target in found}


@dataclass(frozen=True)
class Fuzzer:
    """What a worker does: batch after batch, each in a fresh folder in memory."""

    failures: Path
    make: Callable[[], dict[str, Target]] = targets

    def __call__(self) -> Callable[[Batch, Context], Findings]:
        """Make every target once."""
        known = self.make()

        def work(batch: Batch, context: Context) -> Findings:
            context.check()
            with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="mile-edge-fuzz-") as folder:
                return watch(known[batch.target], batch, Path(folder), self.failures)

        return work


def batches(names: Sequence[str], inputs: int, seed: int, size: int = 200) -> list[Batch]:
    """`inputs` split evenly over the targets, in batches, the targets taking turns."""
    share = -(-inputs // len(names))
    starts = range(0, share, size)
    return [Batch(name, seed, start, min(size, share - start)) for start in starts for name in names]


class Record:
    """A file of JSON lines that outlives a run: the batches that broke nothing, and what they came to.

    Args:
        file: read where it is there, and written to; ``None`` keeps nothing.

    Attributes:
        done: batch to inputs accepted and refused.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self.done: dict[Batch, tuple[int, int]] = {}
        for line in file.read_text().splitlines() if file is not None and file.exists() else []:
            found = json.loads(line)
            self.done[Batch(**found["batch"])] = (found["accepted"], found["refused"])

    def add(self, batch: Batch, findings: Findings) -> None:
        """Keep a batch; one that broke something is left out, so that it runs again once the fault is mended."""
        if self._file is None or findings.broken:
            return
        counts = {"accepted": findings.accepted, "refused": findings.refused}
        with self._file.open("a") as lines:
            lines.write(json.dumps({"batch": asdict(batch), **counts}) + "\n")


def fuzz(
    fuzzer: Fuzzer, jobs: Sequence[Batch], workers: int, stop: Callable[[], bool] = lambda: False
) -> Iterator[tuple[Batch, Findings]]:
    """Every batch with what it came to."""
    outcome: Outcome[Any]
    for outcome in run_jobs(fuzzer, jobs, workers=workers, apart=True, stop=stop):
        if outcome.stopped:
            continue
        findings = outcome.result
        if outcome.error is not None:
            batch = outcome.job
            current = fuzzer.failures / f"current-{batch.target}-{batch.seed}-{batch.first}"
            kept = current.with_name(current.name.replace("current", "crash"))
            if current.exists():
                current.rename(kept)
            findings = Findings(broken=[f"{kept.name}: {outcome.error}"])
        yield outcome.job, findings
