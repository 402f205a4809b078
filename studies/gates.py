#!/usr/bin/env python3
"""How often each kind of gate is right, on the features of one base alone: no adapter is trained.

    python studies/gates.py bundles/reference --train out/reference/train/* --test out/reference/test/*

Folders are matched by name: a test folder's right domain is the train folder of the same name. Needs torch; prints a
table, and writes JSON with --json. About a second for a hundred frames at 240x320.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from mile_edge.bundle import Bundle, Expert, Gate
from mile_edge.data.folder import FolderDataset, LabelledFrame
from mile_edge.export.bundle import base_of
from mile_edge.network.base import Base, load_base
from mile_edge.network.gates import make_gate
from mile_edge.runtime import gate_inputs
from mile_edge.training.expert import ExpertTask, Head, assemble
from mile_edge.training.statistics import KEPT_FEATURES, gate_features, summarise

# Kinds that choose; a mixture chooses as the Mahalanobis gate does.
KINDS = ("mahalanobis", "l2", "cosine", "kmeans", "gaussian", "ridge", "probe", "attribute")
CENTRES = 4


def main() -> None:
    """Compute the features once, then every gate on them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="whose base is asked")
    parser.add_argument("--train", nargs="+", type=Path, required=True)
    parser.add_argument("--test", nargs="+", type=Path, required=True)
    parser.add_argument("--base", help="of a bundle whose graph does not hold its exact weights: what it was made from")
    parser.add_argument("--frames", type=int, default=64, help="of each folder, evenly spread (default 64)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    bundle = Bundle.open(args.bundle)
    base = load_base(args.base) if args.base else base_of(bundle)
    experts = [expert_of(bundle, base, path, args.frames) for path in args.train]
    tests = {path.name: features_of(bundle, base, path, args.frames) for path in args.test}
    account = {kind: accuracies(kind, bundle.manifest.gate, experts, tests) for kind in KINDS}
    for kind, shares in account.items():
        each = "  ".join(f"{name} {share:.3f}" for name, share in shares.items())
        print(f"{kind:>12} {np.mean(list(shares.values())):.4f}  {each}")
    if args.json:
        args.json.write_text(json.dumps(account, indent=1) + "\n")


def features_of(bundle: Bundle, base: Base, path: Path, count: int) -> np.ndarray:
    """(N, D) float32 of evenly spread frames of a folder."""
    folder, network = FolderDataset(path), bundle.manifest.network
    places = np.linspace(0, len(folder) - 1, min(count, len(folder))).round().astype(int)
    frames: list[LabelledFrame] = [folder[int(place)] for place in places]
    return gate_features(base, frames, (network.height, network.width), bundle.manifest.gate.tap)


def expert_of(bundle: Bundle, base: Base, path: Path, count: int) -> Expert:
    """An expert without an adapter that knows a folder's domain."""
    own, folder = bundle.experts()[0], FolderDataset(path)
    statistics = summarise(features_of(bundle, base, path, count), CENTRES, 0, KEPT_FEATURES)
    task = ExpertTask(path.name, (folder.sensor,), (folder.domain,), bundle.manifest.gate.tap)
    head = Head(np.asarray(own.classifier_weight), np.asarray(own.classifier_bias), own.classes)
    return assemble(task, statistics, head, {}, own.base_sha256, own.rank, {})


def accuracies(kind: str, like: Gate, experts: list[Expert], tests: dict[str, np.ndarray]) -> dict[str, float]:
    """Share of each test folder's frames that go to the expert of its name."""
    prototypes = gate_inputs.prototypes_of(kind, CENTRES if kind == "kmeans" else 1)
    gate = Gate(kind, like.tap, like.dim, prototypes, like.shrink)
    table = torch.from_numpy(gate_inputs.prototype_table(experts, gate))
    whitening = torch.from_numpy(gate_inputs.whitening(experts, gate))
    names = [expert.name for expert in experts]
    shares = {}
    for name, features in tests.items():
        bias = torch.zeros(len(features), len(experts))
        chosen, _ = make_gate(kind)(torch.from_numpy(features), table, whitening, bias)
        shares[name] = float((chosen.numpy() == names.index(name)).mean())
    return shares


if __name__ == "__main__":
    main()
