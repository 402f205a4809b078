"""A tiny bundle and its experts; the store never looks inside an ONNX file, so a few bytes do."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mile_edge.bundle import (
    BaseInfo,
    Bundle,
    ClassLabel,
    Expert,
    Gate,
    LowRankLayer,
    LowRankLayout,
    Manifest,
    Network,
    expert_bytes,
    write_expert,
)

BASE_SHA = "ab" * 32
DIM = 4
HIDDEN = 5
LAYERS = (LowRankLayer("block.0.query", 6, 4), LowRankLayer("block.0.value", 6, 3))
LAYOUT = LowRankLayout(rank=2, layers=LAYERS, hidden=HIDDEN, max_classes=6)
SKY, ROAD, CAR = ClassLabel("sky", (70, 130, 180)), ClassLabel("road", (128, 64, 128)), ClassLabel("car", (0, 0, 142))
ONNX = b"not really a network" * 20
BASE_ONNX = b"not really a base" * 5


def make_manifest(**changes: Any) -> Manifest:
    manifest = Manifest(
        name="tiny",
        base=BaseInfo("tiny-base", BASE_SHA, 100_000, 25_000, {"depths": [1, 1]}),
        classes=(SKY, ROAD),
        network=Network("segmenter.onnx", "0" * 64, 48, 64, "fp32"),
        low_rank=LAYOUT,
        gate=Gate("mahalanobis", "early", DIM, prototypes=2),
        capacity=4,
        sensors={"camera": {"kind": "camera"}, "depth": {"kind": "depth", "near": 0.3}},
        base_graph=Network("base.onnx", "0" * 64, 48, 64, "fp32"),
    )
    return replace(manifest, **changes)


def make_expert(name: str = "fog", seed: int = 0, **changes: Any) -> Expert:
    """An expert that fits `make_manifest`; its numbers are exact in the types they are stored in."""
    random = np.random.default_rng(seed)
    classes = changes.get("classes", (SKY, ROAD))
    frames = random.normal(size=(20, DIM))
    centred = frames - frames.mean(axis=0)

    def numbers(*shape: int, dtype: type = np.float32) -> np.ndarray:
        return random.normal(size=shape).astype(dtype).astype(np.float32)

    expert = Expert(
        name=name,
        base_sha256=BASE_SHA,
        rank=LAYOUT.rank,
        adapter="low_rank",
        low_rank={
            layer.name: (
                numbers(LAYOUT.rank, layer.in_features, dtype=np.float16),
                numbers(layer.out_features, LAYOUT.rank, dtype=np.float16),
            )
            for layer in LAYERS
        },
        classifier_weight=numbers(len(classes), HIDDEN),
        classifier_bias=numbers(len(classes)),
        classes=classes,
        mean=frames.mean(axis=0).astype(np.float32),
        scatter=(centred.T @ centred).astype(np.float32),
        count=20,
        sensors=("camera",),
        domains=(name,),
        training={"data": "world", "epochs": 3},
        scores={"miou": 0.5},
    )
    return replace(expert, **changes)


def make_base(**changes: Any) -> Expert:
    return make_expert("base", seed=99, adapter="none", low_rank={}, sensors=(), domains=("clear",), **changes)


def make_bundle(folder: Path, *experts: Expert, **changes: Any) -> Bundle:
    """A bundle at `folder`/bundle with its base and the experts given."""
    bundle = Bundle.create(folder / "bundle", make_manifest(**changes), ONNX, BASE_ONNX, make_base())
    for expert in experts:
        bundle = bundle.add(write_file(folder, expert))
    return bundle


def write_file(folder: Path, expert: Expert, name: str | None = None) -> Path:
    path = folder / (name or f"{expert.name}.safetensors")
    write_expert(path, expert)
    return path


def another(bundle: Path, name: str, seed: int = 0) -> Expert:
    """A new expert made of one of the bundle's: other weights, other place in feature space."""
    rng = np.random.default_rng(seed)
    like = next(expert for expert in Bundle.open(bundle).experts() if expert.adapter == "low_rank")
    pairs = {layer: (a, b * rng.uniform(-2, 2)) for layer, (a, b) in like.low_rank.items()}
    mean = np.asarray(like.mean) + rng.normal(0, 2, like.mean.shape).astype(np.float32)
    return replace(like, name=name, low_rank=pairs, mean=mean, domains=(name,))


def raw_file(header: Any, body: bytes = b"") -> bytes:
    """A safetensors file with any header, lies included."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def taken_apart(expert: Expert) -> tuple[dict[str, Any], bytes]:
    """The header (without digest, so that a test can change the rest) and the body of an expert's file."""
    data = expert_bytes(expert)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    del header["__metadata__"]["digest"]
    return header, data[8 + length :]


def tree(folder: Path) -> dict[str, str]:
    """Every path below a folder with its mode and what it holds."""
    found: dict[str, str] = {}
    for root, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(root) / name
            status = path.lstat()
            content = "-"
            if path.is_symlink():
                content = str(path.readlink())
            elif path.is_file():
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(folder))] = f"{status.st_mode:o} {content}"
    return found


def expected_tree(folder: Path) -> set[str]:
    """The paths below a bundle that nobody has left anything in: what its manifest and the states it keeps name."""
    found = {"manifest.json", "segmenter.onnx", "base.onnx", "experts"}
    kept = sorted((folder / "history").glob("*.json"))
    for path in (folder / "manifest.json", *kept):
        values = json.loads(path.read_bytes())
        found |= {entry["file"] for entry in [*values["experts"], values.get("candidate")] if entry}
    if (folder / "journal.jsonl").exists():
        found |= {"journal.jsonl", "history", *(f"history/{path.name}" for path in kept)}
    return found


def entries(folder: Path) -> list[str]:
    """The names in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())


def is_one_sentence(error: BaseException) -> bool:
    """One line of printable text with what is wrong and, behind the semicolon, what to do."""
    text = str(error)
    return text.isprintable() and ";" in text and len(text) < 700 and not text.endswith(".")
