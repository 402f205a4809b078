"""How well a bundle tells domains that no expert knows, on streams of streets it never saw: tables for docs/results.md.

    python studies/novelty.py bundles/reference --held out/reference/held/* --cache out/novelty

Known domains: by the bundle as it is calibrated. Unknown ones: each expert in turn is left out, the gate refitted
without it (prototypes, pooled covariance, expectations, limit) from the frames that it was calibrated with, and its
frames shown as streams. Every domain has streets of its own, since one odd street would else count eight times.
Features are read through the bundle's own graph once and kept; all else is quick.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mile_edge.bundle import Bundle
from mile_edge.calibration.frames import look
from mile_edge.calibration.novelty import fit_novelty
from mile_edge.calibration.reader import GateReader, GateView
from mile_edge.calibration.roc import auroc
from mile_edge.calibration.tail import share_interval
from mile_edge.data.folder import FolderDataset
from mile_edge.data.sensors import DEFAULT_PROFILES
from mile_edge.data.world import DOMAINS, World
from mile_edge.runtime.novelty import WINDOW, NoveltyMonitor
from mile_edge.runtime.novelty_model import NoveltyModel

NAMES = (*DOMAINS, "depth", "thermal")
STREAM_TIMES = tuple(4 + 0.1 * step for step in range(12))
# Between the first streets of two domains.
APART = 10_000


def features(reader: GateReader, cache: Path, seeds: Sequence[int]) -> np.ndarray:
    """(streets, domains, frames, D), rendered where they are not cached; depth and thermal under weathers in turn."""
    cache.mkdir(parents=True, exist_ok=True)
    found = []
    for seed in seeds:
        file = cache / f"{seed}.npz"
        if not file.exists():
            rows = []
            for place, name in enumerate(NAMES):
                world = World(seed + APART * place)
                weather, sensor = (name, "camera") if name in DOMAINS else (DOMAINS[seed % len(DOMAINS)], name)
                images = (world.view(time, weather, sensor)[0] for time in STREAM_TIMES)
                rows.append([reader.see(_frame(image, sensor)) for image in images])
            np.savez(file, f=np.array(rows))
            print(f"street {seed}", file=sys.stderr, flush=True)
        found.append(np.load(file)["f"].astype(np.float64))
    return np.stack(found)


def _frame(image: np.ndarray, sensor: str) -> np.ndarray:
    if sensor == "camera":
        return image
    return DEFAULT_PROFILES[sensor].to_frame(image, "16UC1" if sensor == "depth" else "mono16")


def said(view: GateView, model: NoveltyModel, streams: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores of frames alone, and whether the stream is novel, both (streams, frames)."""
    monitor, parts = NoveltyMonitor(), []
    for number, stream in enumerate(streams):
        verdict = monitor.judge(model, view.distances(stream), [number] * len(stream))
        parts.append((verdict.frame, verdict.novel))
    frame, novel = zip(*parts, strict=True)
    return np.stack(frame), np.stack(novel)


def known_row(name: str, frame: np.ndarray, novel: np.ndarray) -> dict[str, Any]:
    """False alarms of a domain (streets, frames), with an interval over streets."""
    streets = np.repeat(np.arange(len(frame)), frame.shape[1])
    low, high = share_interval(novel.ravel(), streets)
    return {"domain": name, "frame": float((frame > 1).mean()), "stream": float(novel.mean()), "interval": [low, high]}


def main() -> None:
    """Print one line per domain, known and unknown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("out/novelty"))
    parser.add_argument("--held", nargs="+", type=Path, required=True, help="what the bundle was calibrated with")
    parser.add_argument("--streets", type=int, default=50, help="streets of each domain")
    parser.add_argument("--first", type=int, default=200_000, help="seed of the first street of the first domain")
    parser.add_argument("--false-alarms", type=float, default=0.01, help="as of calibrate gate")
    parser.add_argument("--alike", type=int, default=10, help="as of calibrate gate")
    args = parser.parse_args()
    bundle = Bundle.open(args.bundle)
    reader = GateReader(bundle, threads=1)
    streams = features(reader, args.cache, range(args.first, args.first + args.streets))
    gate, experts = bundle.manifest.gate, bundle.choices()
    view = GateView(reader, experts, gate)
    usual, _ = look(reader, [FolderDataset(folder) for folder in args.held], args.alike, lambda _: None)
    rows = []
    parts = [said(view, view.model, streams[:, place]) for place in range(len(NAMES))]
    for name, (frame, novel) in zip(NAMES, parts, strict=True):
        rows.append(known_row(name, frame, novel))
    rows.append(known_row("all", *(np.concatenate(each) for each in zip(*parts, strict=True))))
    for row in rows:
        print("known", json.dumps(row))
    for place, name in enumerate(NAMES):
        others = [other for other in range(len(NAMES)) if other != place]
        kept = GateView(reader, [expert for expert in experts if expert.name != name], gate)
        known = {other: seen for other, seen in usual.items() if other != name}
        model = kept.calibrated(replace(gate, novelty=fit_novelty(kept, gate, known, args.false_alarms)))
        around = [said(kept, model, streams[:, other]) for other in others]
        frame, novel = said(kept, model, streams[:, place])
        # A second under a known weather, then the unknown one on another street.
        before = streams[:, 1 if place == 0 else 0, :WINDOW]
        alarm = said(kept, model, np.concatenate([before, streams[:, place]], axis=1))[1][:, before.shape[1] :]
        latency = np.where(alarm.any(axis=1), alarm.argmax(axis=1) + 1, np.inf)
        row = {
            "domain": name,
            "auc": round(auroc(np.concatenate([part[0].ravel() for part in around]), frame.ravel()), 4),
            "frame": float((frame > 1).mean()),
            "second": float(novel[:, WINDOW - 1 :].mean()),
            "interval": share_interval(novel[:, -1], np.arange(len(novel))),
            "latency": [float(np.quantile(latency, q, method="higher")) for q in (0.5, 0.9)],
            "false_alarms": float(np.concatenate([part[1] for part in around]).mean()),
        }
        print("unknown", json.dumps(row))


if __name__ == "__main__":
    main()
