#!/usr/bin/env python3
"""What a frame costs under MILE, DAC and MoRA after some tasks: processor time, one thread, passes in turns.

    python studies/ranks.py bundles/reference --tasks 10 --json ranks.json

Every method gets random ranks for each task, as many as it would have: an expert each (MILE, the bundle's rank), the
merged ranks in one row (DAC), all ranks in one row (MoRA). The graphs are exported from the bundle's base with
export/segformer-b0-240x320*.yaml. Needs torch; a minute or two on an idle core.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from mile_edge.bundle import Bundle, Expert, write_expert
from mile_edge.export.bundle import base_of, export_bundle
from mile_edge.export.recipe import ExportRecipe, load_recipe
from mile_edge.runtime import Segmenter
from mile_edge.training.rank_pool import Dac, Mora

RECIPES = Path(__file__).parents[1] / "export"
WARM_UP = 2


def main() -> None:
    """Export, fill, time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="whose base is run")
    parser.add_argument("--tasks", type=int, default=10, help="tasks that each method has learned (default 10)")
    parser.add_argument("--rounds", type=int, default=12, help="each pass once in a round (default 12)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    source = Bundle.open(args.bundle)
    with tempfile.TemporaryDirectory(prefix="mile-edge-ranks-") as folder:
        bundles = made(source, args.tasks, Path(folder))
        account = timed(bundles, args.rounds)
    for name, row in account.items():
        print(f"{name:>16}  {row['ms']:8.1f} ms  {row['over_mile']:.3f} of MILE  {row['bytes']:>9} bytes of adapters")
    if args.json:
        args.json.write_text(json.dumps(account, indent=1) + "\n")


def made(source: Bundle, tasks: int, folder: Path) -> dict[str, Bundle]:
    """A bundle for each method, and one of MoRA as it is after a single task."""
    plain = replace(load_recipe(RECIPES / "segformer-b0-240x320.yaml"), capacity=max(16, tasks))
    dac = load_recipe(RECIPES / "segformer-b0-240x320-dac.yaml")
    mora = replace(load_recipe(RECIPES / "segformer-b0-240x320-mora.yaml"), rank=tasks * Mora.rank)
    equal = replace(mora, rank=tasks * plain.rank, top_k=plain.rank)
    return {
        "mile": _filled(source, plain, folder / "mile", [plain.rank] * tasks),
        "dac": _filled(source, dac, folder / "dac", [min(dac.rank, tasks * Dac.merged)]),
        "mora": _filled(source, mora, folder / "mora", [mora.rank]),
        "mora-equal-bytes": _filled(source, equal, folder / "equal", [equal.rank]),
    }


def _filled(source: Bundle, recipe: ExportRecipe, path: Path, ranks: list[int]) -> Bundle:
    bundle = export_bundle(base_of(source), source.experts()[0], recipe, path)
    for number, rank in enumerate(ranks):
        file = path.with_suffix(f".{number}.safetensors")
        write_expert(file, _random(bundle, f"made-up-{number}", rank, number))
        bundle = bundle.add(file)
    return bundle


def _random(bundle: Bundle, name: str, rank: int, seed: int) -> Expert:
    own, rng = bundle.experts()[0], np.random.default_rng(seed)
    pairs = {
        layer.name: (
            rng.normal(0, 0.02, (rank, layer.in_features)).astype(np.float32),
            rng.normal(0, 0.02, (layer.out_features, rank)).astype(np.float32),
        )
        for layer in bundle.manifest.low_rank.layers
    }
    kind = "self_activated" if bundle.manifest.gate.kind == "mora" else "low_rank"
    mean = np.asarray(own.mean) + rng.normal(0, 0.3, own.mean.shape).astype(np.float32)
    return replace(own, name=name, adapter=kind, low_rank=pairs, rank=rank, mean=mean)


def timed(bundles: dict[str, Bundle], rounds: int) -> dict[str, dict[str, float]]:
    """Median processor milliseconds of a frame, and the median of ratios of passes of the same round."""
    segmenters = {name: Segmenter(bundle, threads=1) for name, bundle in bundles.items()}
    for segmenter in segmenters.values():
        # What is timed is a frame under an expert, never one under the base's empty row.
        segmenter.pin(segmenter.experts[-1])
    network = next(iter(bundles.values())).manifest.network
    frames = np.random.default_rng(0).integers(0, 256, (4, network.height, network.width, 3), np.uint8)
    taken: dict[str, list[float]] = {name: [] for name in segmenters}
    for turn in range(rounds + WARM_UP):
        for name, segmenter in segmenters.items():
            milliseconds = _processor_time(segmenter, frames[turn % len(frames)])
            if turn >= WARM_UP:
                taken[name].append(milliseconds)
    mile = np.array(taken["mile"])
    return {
        name: {
            "ms": round(float(np.median(times)), 2),
            "over_mile": round(float(np.median(np.array(times) / mile)), 4),
            "bytes": sum(expert.sizes()["adapter"] for expert in bundles[name].experts()),
        }
        for name, times in taken.items()
    }


def _processor_time(work: Callable[[np.ndarray], object], frame: np.ndarray) -> float:
    began = time.process_time()
    work(frame)
    return (time.process_time() - began) * 1e3


if __name__ == "__main__":
    main()
