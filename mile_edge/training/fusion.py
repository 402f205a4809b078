"""Training a fusion head: base and experts stay as they are, features are at hand, only the small head learns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from mile_edge.bundle import Bundle
from mile_edge.bundle.fusion import FusionLayout, per_class
from mile_edge.bundle.fusion_head import FusionHead
from mile_edge.data.folder import VOID
from mile_edge.network.fusion import Fusion
from mile_edge.replay.scores import confusion, mean_iou
from mile_edge.training.balance import class_weights
from mile_edge.training.fit import Progress
from mile_edge.training.fusion_features import FeatureCache


@dataclass(frozen=True)
class FusionSchedule:
    """How long and how.

    Attributes:
        steps: optimiser steps.
        batch: moments per step; each is seen with a random subset of its sensors.
        lr: peak learning rate of AdamW, reached after a twentieth of the steps, then down a half cosine to zero.
        weight_decay: of AdamW.
        all_sensors: share of moments that keep all their sensors.
        class_balance: exponent of the inverse class frequency in the loss.
        average: decay of the running average of the weights, which is what is kept.
        seed: of order, subsets and initial weights.
    """

    steps: int = 1000
    batch: int = 4
    lr: float = 2e-3
    weight_decay: float = 0.01
    all_sensors: float = 0.4
    class_balance: float = 0.4
    average: float = 0.98
    seed: int = 0


def train_head(
    bundle: Bundle,
    layout: FusionLayout,
    data: FeatureCache,
    schedule: FusionSchedule,
    report: Callable[[Progress], None] = lambda _: None,
) -> FusionHead:
    """Train a head on cached features.

    Args:
        bundle: whose head it will be.
        layout: of the bundle's graph.
        data: see :func:`mile_edge.training.fusion_features.cache_features`.
        schedule: steps, rates, dropout.
        report: called after every step.
    """
    torch.manual_seed(schedule.seed)
    rng = np.random.default_rng(schedule.seed)
    weights = _initial(layout)
    network = Fusion(layout)
    average = {name: parameter.detach().clone() for name, parameter in weights.items()}
    optimiser = torch.optim.AdamW(weights.values(), lr=schedule.lr, weight_decay=schedule.weight_decay)
    counts = np.bincount(data.labels.reshape(-1), minlength=256)
    cost = class_weights(counts, layout.max_classes, schedule.class_balance)
    started = time.perf_counter()
    order: list[int] = []
    for step in range(schedule.steps):
        if len(order) < schedule.batch:
            order = rng.permutation(len(data.labels)).tolist()
        chosen, order = sorted(order[: schedule.batch]), order[schedule.batch :]
        for group in optimiser.param_groups:
            group["lr"] = schedule.lr * _rate(step, schedule.steps)
        present = _subsets(rng, len(chosen), len(data.sensors), schedule.all_sensors)
        windows = _windows(rng, len(chosen), data.hidden.shape[3:])
        vector = torch.cat([weights[name].reshape(-1) for name in layout.shapes])
        scores, labels = _fuse(network, vector, data, chosen, present, windows)
        loss = functional.cross_entropy(scores, labels, weight=cost, ignore_index=VOID)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        decay = min(schedule.average, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, parameter in weights.items():
                average[name].lerp_(parameter, 1 - decay)
        seconds = time.perf_counter() - started
        left = seconds / (step + 1) * (schedule.steps - step - 1)
        report(Progress(step + 1, schedule.steps, float(loss.detach()), None, left))
    return _head(bundle, layout, average, schedule, data, time.perf_counter() - started)


@torch.inference_mode()
def score_head(
    layout: FusionLayout, vector: np.ndarray, data: FeatureCache, sensors: Sequence[str], domain: str | None = None
) -> float | None:
    """Mean IoU of fused masks at the network's size, with these sensors present and in this domain or in all."""
    weights = torch.from_numpy(vector)
    network = Fusion(layout)
    present = torch.tensor([[float(name in sensors) for name in data.sensors]])
    counts = np.zeros((layout.max_classes, layout.max_classes + 1), np.int64)
    whole = (slice(0, data.hidden.shape[3]), slice(0, data.hidden.shape[4]))
    for place, its_domain in enumerate(data.domains):
        if domain in (None, its_domain):
            scores, _ = _fuse(network, weights, data, [place], present, [whole])
            counts += confusion(data.labels[place], scores[0].argmax(dim=0).byte().numpy(), layout.max_classes)
    return mean_iou(counts)


def _fuse(
    network: Fusion,
    vector: torch.Tensor,
    data: FeatureCache,
    chosen: Sequence[int],
    present: torch.Tensor,
    windows: Sequence[tuple[slice, slice]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and labels (G, height, width) of some moments' cut-outs, each with its own sensors present."""
    scale = data.labels.shape[1] // data.hidden.shape[3]
    fused, labels = [], []
    for place, sensors, (rows, columns) in zip(chosen, present, windows, strict=True):
        # Sensors that are left out need not be computed: they cannot change anything.
        there = torch.nonzero(sensors).flatten().numpy()
        hidden = torch.from_numpy(np.asarray(data.hidden[place, there, :, rows, columns], np.float32))
        scores = torch.from_numpy(np.asarray(data.scores[place, there, :, rows, columns], np.float32))
        known, pooled = torch.from_numpy(data.known[place, there]), torch.from_numpy(data.pooled[place, there])
        said, _ = network(hidden, scores, known, torch.ones(1, len(there)), vector, pooled)
        label = data.labels[place, _times(rows, scale), _times(columns, scale)]
        size = label.shape
        fused.append(functional.interpolate(said, size=size, mode="bilinear", align_corners=False))
        labels.append(torch.from_numpy(label.astype(np.int64)))
    return torch.cat(fused), torch.stack(labels)


def _times(part: slice, scale: int) -> slice:
    return slice(part.start * scale, part.stop * scale)


def _windows(rng: np.random.Generator, count: int, size: tuple[int, int]) -> list[tuple[slice, slice]]:
    """Cut-outs of half the height and width, a quarter of the work, each somewhere else."""

    def part(side: int) -> slice:
        start = int(rng.integers(0, side - side // 2 + 1))
        return slice(start, start + side // 2)

    return [(part(size[0]), part(size[1])) for _ in range(count)]


def _subsets(rng: np.random.Generator, count: int, sensors: int, complete: float) -> torch.Tensor:
    """(count, sensors) of 0 and 1; at least two sensors in each row where there are two: one alone teaches nothing."""
    present = rng.random((count, sensors)) < 0.5
    present |= (rng.random(count) < complete)[:, None]
    for row in present:
        while row.sum() < min(2, sensors):
            row[rng.integers(0, sensors)] = True
    return torch.from_numpy(present.astype(np.float32))


def _initial(layout: FusionLayout) -> dict[str, nn.Parameter]:
    """Random embedding; the decoders and the router start at zero, so that the first result is the experts' mean."""
    weights = {}
    for name, shape in layout.shapes.items():
        tensor = torch.zeros(shape)
        if name in ("embed.weight", "uniform.weight", "routed.weight"):
            nn.init.kaiming_uniform_(tensor, nonlinearity="relu")
        weights[name] = nn.Parameter(tensor)
    return weights


def _rate(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return float(0.5 * (1 + np.cos(np.pi * (step - warm) / max(1, steps - warm))))


def _head(
    bundle: Bundle,
    layout: FusionLayout,
    weights: dict[str, torch.Tensor],
    schedule: FusionSchedule,
    data: FeatureCache,
    seconds: float,
) -> FusionHead:
    classes = bundle.manifest.classes
    arrays = {name: weights[name].numpy() for name in layout.shapes}
    return FusionHead(
        base_sha256=bundle.manifest.base.sha256,
        kind=layout.kind,
        width=layout.width,
        hidden=layout.hidden,
        classes=classes,
        weights={name: each[: len(classes)] if per_class(name) else each for name, each in arrays.items()},
        training={
            "sensors": list(data.sensors),
            "moments": len(data.labels),
            "seconds": round(seconds, 1),
            "schedule": asdict(schedule),
        },
    )
