"""Small real things of the workshop side, made for tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSemanticSegmentation, SegformerConfig

from mile_edge.bundle import Bundle, ClassLabel, Expert
from mile_edge.data.folder import LabelledFrame
from mile_edge.export.bundle import base_expert, export_bundle
from mile_edge.export.recipe import ExportRecipe
from mile_edge.network.base import Base, base_from_weights, config_of, load_base

CLASSES = (ClassLabel("sky", (70, 130, 180)), ClassLabel("road", (128, 64, 128)), ClassLabel("car", (0, 0, 142)))
SIZE = (64, 96)
RECIPE = ExportRecipe(name="test", size=SIZE, rank=4, capacity=3, max_classes=5)


def noisy_frames(count: int, seed: int, level: float = 120.0) -> list[LabelledFrame]:
    """Frames whose upper half is one class and whose lower half is another, with noise."""
    rng = np.random.default_rng(seed)
    frames = []
    for index in range(count):
        frame = np.clip(rng.normal(level, 25, (*SIZE, 3)), 0, 255).astype(np.uint8)
        frame[: SIZE[0] // 2] //= 2
        label = np.ones(SIZE, np.uint8)
        label[: SIZE[0] // 2] = 0
        frames.append(LabelledFrame(f"{index:03d}", frame, label))
    return frames


def coarse_frames(count: int) -> list[np.ndarray]:
    """Frames of squares, eight pixels wide, whose colours have nothing to do with each other."""
    coarse = np.random.default_rng(7).integers(0, 256, (count, SIZE[0] // 8, SIZE[1] // 8, 3), np.uint8)
    return [image.repeat(8, axis=0).repeat(8, axis=1) for image in coarse]


def shallow() -> Base:
    """SegFormer-B0 with one block in each stage: every kind of layer, for half the time of an export."""
    config = SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[32, 64, 160, 256], decoder_hidden_size=256, num_labels=len(CLASSES)
    )
    model = AutoModelForSemanticSegmentation.from_config(config)
    return base_from_weights(config_of(model), model.state_dict())


def untrained(source: str) -> Base:
    """A network of random weights, always the same; its batch norms know its activations, else deep ones vanish.

    Args:
        source: as of :func:`load_base`, or ``shallow``.
    """
    torch.manual_seed(0)
    base = shallow() if source == "shallow" else load_base(source, len(CLASSES))
    with torch.no_grad():
        base.train()
        for _ in range(30):
            base(pixel_values=torch.randn(4, 3, *SIZE))
    return base.eval()


def export_random(out: Path, source: str = "random:segformer-b0", *, alone: bool = False, **changes: object) -> Path:
    """A bundle of an untrained network, with its base alone where asked; ``changes`` replace fields of the recipe."""
    recipe = replace(RECIPE, **changes)
    base = untrained(source)
    own = base_expert(base, recipe, CLASSES, noisy_frames(12, 0), "base", ("camera",), ("day",))
    export_bundle(base, own, recipe, out, alone=alone)
    return out


def random_expert(bundle: Bundle, name: str, seed: int) -> Expert:
    """An expert with random weights that fits the bundle, near its base in the gate's eyes."""
    like, layout = bundle.experts()[0], bundle.manifest.low_rank
    rng = np.random.default_rng(seed)
    pairs = {
        layer.name: (
            rng.normal(0, 0.3, (layout.rank_of(layer), layer.in_features)).astype(np.float32),
            rng.normal(0, 0.3, (layer.out_features, layout.rank_of(layer))).astype(np.float32),
        )
        for layer in layout.layers
    }
    mean = np.asarray(like.mean) + rng.normal(0, 1, like.mean.shape).astype(np.float32)
    return replace(like, name=name, adapter="low_rank", low_rank=pairs, mean=mean, domains=(name,))
