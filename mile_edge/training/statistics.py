"""What the gate remembers of a domain: mean, scatter and centres of the frozen base's pooled features."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from mile_edge.bundle import Gate
from mile_edge.data.folder import LabelledFrame
from mile_edge.errors import DataError
from mile_edge.network.base import Base, describe
from mile_edge.network.pixels import to_pixels
from mile_edge.network.tap import Tap

# Of real domains, 32 gave the same accuracy within a frame (docs/methods.md); in fp16 they take half a scatter matrix.
KEPT_FEATURES = 64


@dataclass(frozen=True)
class GateStatistics:
    """Of (count, D) features: mean (D,), scatter (D, D), centres (K, D) or ``None``, N of them (N, D) or ``None``."""

    mean: np.ndarray
    scatter: np.ndarray
    count: int
    prototypes: np.ndarray | None = None
    features: np.ndarray | None = None


def centres_of(gate: Gate) -> int:
    """How many k-means centres an expert file needs for this gate; 0 for gates that do not read any."""
    return gate.prototypes if gate.kind == "kmeans" else 0


def kept_of(gate: Gate) -> int:
    """How many frames' features an expert file must keep for this gate; 0 for gates that only read statistics."""
    return KEPT_FEATURES if gate.kind == "probe" else 0


class _TappedError(Exception):
    """Ends a forward pass at the tap; what comes after it is of no interest here."""


@torch.inference_mode()
def gate_features(base: Base, frames: Iterable[LabelledFrame], size: tuple[int, int], tap: str) -> np.ndarray:
    """The gate's feature of every frame, (N, D) float32.

    Args:
        base: the frozen network, before or after a pool was made of it; at the first two taps no adapter has run yet.
        size: (height, width) of the network.
        tap: ``entry``, ``early`` or ``full``; at ``full`` the adapters must be untrained.
    """
    found: list[np.ndarray] = []

    def keep(feature: torch.Tensor) -> None:
        found.append(feature[0].numpy())
        raise _TappedError

    hook = Tap(base, describe(base), tap).on_feature(keep)
    try:
        for sample in frames:
            try:
                base(pixel_values=to_pixels(sample.frame[None], size))
            except _TappedError:
                continue
    finally:
        hook.remove()
    return np.stack(found) if found else np.zeros((0, 0), np.float32)


def summarise(features: np.ndarray, centres: int = 0, seed: int = 0, kept: int = 0) -> GateStatistics:
    """Mean and scatter of (N, D) features, and where asked for k-means centres and some of the features themselves.

    Args:
        features: (N, D).
        centres: of k-means.
        seed: of its start.
        kept: how many features to keep, spread evenly over the frames.

    Raises:
        DataError: fewer than two frames.
    """
    if len(features) < 2:
        raise DataError(f"{len(features)} frames are too few to describe a domain to the gate; give at least 2")
    values = features.astype(np.float64)
    mean = values.mean(axis=0)
    scatter = (values - mean).T @ (values - mean)
    prototypes = _kmeans(values, min(centres, len(values)), seed).astype(np.float32) if centres > 1 else None
    chosen = np.linspace(0, len(values) - 1, min(kept, len(values))).round().astype(int)
    some = values[chosen].astype(np.float16).astype(np.float32) if kept else None
    return GateStatistics(mean.astype(np.float32), scatter.astype(np.float32), len(values), prototypes, some)


def _kmeans(values: np.ndarray, centres: int, seed: int, rounds: int = 50) -> np.ndarray:
    """Lloyd's algorithm on standardised dimensions, from centres chosen far apart."""
    scale = values.std(axis=0) + 1e-9
    points = values / scale
    rng = np.random.default_rng(seed)
    chosen = [points[rng.integers(len(points))]]
    while len(chosen) < centres:
        distance = np.min([((points - centre) ** 2).sum(axis=1) for centre in chosen], axis=0)
        chosen.append(points[rng.choice(len(points), p=distance / distance.sum())] if distance.any() else points[0])
    centroids = np.stack(chosen)
    for _ in range(rounds):
        nearest = ((points[:, None] - centroids[None]) ** 2).sum(axis=2).argmin(axis=1)
        moved = np.stack(
            [points[nearest == k].mean(axis=0) if (nearest == k).any() else centroids[k] for k in range(centres)]
        )
        if np.allclose(moved, centroids):
            break
        centroids = moved
    return centroids * scale
