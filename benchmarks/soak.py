"""A soak: frames at full rate while experts come and go, and three figures at the end.

    python benchmarks/soak.py bundles/reference --minutes 60 --threads 1 --json soak.json

Every few seconds an expert is added or removed in turn, from a thread of its own, as a service of the node would do it.
Known frames go through the gate, or are pinned to an expert in turn. Every mask is compared bit by bit with the mask
that the expert it names gave that frame before the soak began: one pixel that differs is a frame under a wrong expert.
Memory is the process's resident set after a warm-up of five minutes (a tenth of a shorter run) against that at the end,
each the median of a minute. Latency near an add is that of the frames within 100 ms of its beginning or its end. It is
held against all frames between the changes, and against a control: the frames near a moment midway to the next change,
as long as the add was, where nothing happens. The gaps of the p99 are taken over the whole run and as a median over
stretches of ten adds. What is left of the gap to the control on a busy machine is still not the add's alone: an add
also takes its process's share of the processors.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mile_edge.bundle import Bundle
from mile_edge.data.sensors import DEFAULT_PROFILES
from mile_edge.data.world import World
from mile_edge.runtime import Segmenter

NEAR_S = 0.1
MOST_PER_S = 500
STRETCH = 10


@dataclass
class Changes:
    """When experts were added and removed: (beginning, end) on the monotonic clock, seconds."""

    added: list[tuple[float, float]] = field(default_factory=list)
    removed: list[tuple[float, float]] = field(default_factory=list)


class Log:
    """Rows of numbers in memory that is all taken at the start, so that keeping them is no growth."""

    def __init__(self, most: int, columns: int) -> None:
        self._rows = np.zeros((most, columns))
        self._rows.fill(np.nan)
        self.count = 0

    def add(self, *values: float) -> None:
        """One row; the last place is written again where there is no room."""
        self._rows[min(self.count, len(self._rows) - 1)] = values
        self.count += 1

    def columns(self) -> np.ndarray:
        """(columns, N) float64."""
        return self._rows[: self.count].T


@dataclass
class Seen:
    """What was seen of each frame, (end, latency) in seconds, and each second, (moment, MiB); and what was wrong."""

    frames: Log
    memory: Log
    wrong: int = 0
    by_gate: int = 0


def known_frames(size: tuple[int, int]) -> list[np.ndarray]:
    """A dozen frames of an unseen street, (H, W, 3) uint8 at the network's size and at another."""
    frames = []
    for index, domain in enumerate(("clear", "fog", "night", "rain")):
        view = World(777).views(1.0 + 4 * index, (domain,))[domain]
        depth = DEFAULT_PROFILES["depth"].to_frame(view.depth, "16UC1")
        frames += [view.rgb, np.ascontiguousarray(depth), np.ascontiguousarray(view.rgb[: size[0] // 2, :, ::-1])]
    return frames


def resident_mib() -> float:
    """The process's resident set, MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def soak(bundle: Path, minutes: float, every: float, threads: int) -> dict[str, Any]:
    """Soak a copy of a bundle.

    Args:
        bundle: with at least three experts beside its base; the last is the one that comes and goes.
        minutes: how long.
        every: seconds from one change to the next.
        threads: of one pass.
    """
    with tempfile.TemporaryDirectory(prefix="mile-edge-soak-") as folder:
        mine = Path(folder) / "bundle"
        shutil.copytree(bundle, mine)
        guest = Bundle.open(mine).manifest.experts[-1]
        file = Path(folder) / "guest.safetensors"
        file.write_bytes((mine / guest.file).read_bytes())
        with Segmenter.open(mine, threads=threads) as segmenter:
            return _soak(segmenter, file, guest.name, minutes, every)


def _soak(segmenter: Segmenter, file: Path, guest: str, minutes: float, every: float) -> dict[str, Any]:
    frames = known_frames((segmenter.manifest.network.height, segmenter.manifest.network.width))
    truth = [{name: segmenter(f, stream=_pinned(segmenter, name)).mask for name in segmenter.experts} for f in frames]
    # None is the gate's own choice; the guest is never pinned, since half of the time it is not there.
    streams = [None, *(name for name in segmenter.experts if name != guest)]
    seconds = minutes * 60
    changes, problems = Changes(), []
    seen = Seen(Log(int(seconds * MOST_PER_S) + 1000, 2), Log(int(seconds) + 100, 2))
    over = threading.Event()

    def change() -> None:
        present = True
        try:
            while not over.wait(every):
                began = time.monotonic()
                if present:
                    segmenter.remove_expert(guest)
                else:
                    segmenter.add_expert(file)
                (changes.removed if present else changes.added).append((began, time.monotonic()))
                present = not present
        except BaseException as problem:  # a soak that stopped changing anything must not pass
            problems.append(repr(problem))

    changer = threading.Thread(target=change)
    started = time.monotonic()
    changer.start()
    number, measured = 0, 0.0
    try:
        while time.monotonic() - started < seconds and not problems:
            which, stream = number % len(frames), streams[number // len(frames) % len(streams)]
            began = time.monotonic()
            result = segmenter(frames[which], stream=stream)
            ended = time.monotonic()
            seen.frames.add(ended, ended - began)
            (name,) = result.expert
            as_asked = stream in (None, name)
            seen.wrong += not (as_asked and np.array_equal(result.mask, truth[which][name]))
            seen.by_gate += stream is None
            number += 1
            if ended - measured > 1:
                measured = ended
                seen.memory.add(ended, resident_mib())
    finally:
        over.set()
        changer.join()
    if problems:
        raise SystemExit(f"the soak ended early: {problems[0]}")
    return _account(seen, changes, started, every)


def _pinned(segmenter: Segmenter, name: str) -> str:
    """A stream whose frames all go through one expert; the stream is called like it."""
    segmenter.pin(name, stream=name)
    return name


def _account(seen: Seen, changes: Changes, started: float, every: float) -> dict[str, Any]:
    ended, took = seen.frames.columns()
    took = took * 1e3
    moments, mib = seen.memory.columns()
    total = float(ended[-1] - started)
    warm = started + min(300.0, total / 10)
    # Shorter runs take their medians over shorter ends.
    end = min(60.0, total / 10)
    before = float(np.median(mib[(moments >= warm) & (moments < warm + end)]))
    after = float(np.median(mib[moments > ended[-1] - end]))
    near = _is_near(ended, took, changes.added)
    control = _is_near(ended, took, [(began + every / 2, done + every / 2) for began, done in changes.added])
    quiet = ~(near | _is_near(ended, took, changes.removed))
    control &= quiet
    return {
        "minutes": round(total / 60, 2),
        "frames": len(took),
        "by_gate": seen.by_gate,
        "wrong_expert": seen.wrong,
        "added": len(changes.added),
        "removed": len(changes.removed),
        "add_ms": _percentiles([(end - began) * 1e3 for began, end in changes.added]),
        "memory_mib": {"after_warm_up": round(before, 2), "end": round(after, 2)},
        "memory_growth_percent": round((after / before - 1) * 100, 3),
        "latency_ms": {
            "near_an_add": _percentiles(took[near]),
            "control": _percentiles(took[control]),
            "quiet": _percentiles(took[quiet]),
        },
        "p99_extra_ms": {
            against: {
                "whole_run": _p99_gap(took[near], took[others]),
                "median_of_stretches": _extra(ended, took, changes, near, others),
            }
            for against, others in (("over_quiet", quiet), ("over_control", control))
        },
        "stretches": len(changes.added) // STRETCH,
    }


def _is_near(ended: np.ndarray, took: np.ndarray, spans: list[tuple[float, float]]) -> np.ndarray:
    """Which frames were under way within `NEAR_S` of a span, (N,) bool."""
    found = np.zeros(len(ended), bool)
    for began, end in spans:
        found |= (ended >= began - NEAR_S) & (ended - took / 1e3 <= end + NEAR_S)
    return found


def _extra(ended: np.ndarray, took: np.ndarray, changes: Changes, near: np.ndarray, others: np.ndarray) -> float | None:
    """The median, over stretches of ten adds, of p99 near an add less p99 of the other frames of the same stretch."""
    gaps = []
    for first in range(0, len(changes.added) - STRETCH + 1, STRETCH):
        spans = changes.added[first : first + STRETCH]
        inside = (ended >= spans[0][0] - 5) & (ended <= spans[-1][1] + 5)
        if (near & inside).any() and (others & inside).any():
            gaps.append(_p99_gap(took[near & inside], took[others & inside]))
    return round(statistics.median(gaps), 3) if gaps else None


def _p99_gap(near: np.ndarray, quiet: np.ndarray) -> float:
    return round(float(np.percentile(near, 99) - np.percentile(quiet, 99)), 3) if len(near) and len(quiet) else 0.0


def _percentiles(values: Any) -> dict[str, float]:
    return {f"p{rank}": round(float(np.percentile(values, rank)), 3) for rank in (50, 95, 99)} if len(values) else {}


def main() -> int:
    """Soak, print and write; 1 where a frame came from a wrong expert."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=5.0, metavar="S", help="seconds from one change to the next")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    account = soak(args.bundle, args.minutes, args.every, args.threads)
    account["load"] = os.getloadavg()
    text = json.dumps(account, indent=1)
    print(text)
    if args.json is not None:
        args.json.write_text(text + "\n")
    return 1 if account["wrong_expert"] else 0


if __name__ == "__main__":
    sys.exit(main())
