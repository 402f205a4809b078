"""What a fusion head is trained on: decoder features of aligned frames, computed once under the gate's own experts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mile_edge.bundle import Bundle
from mile_edge.data.aligned import AlignedFolders
from mile_edge.errors import DataError
from mile_edge.network.fused_pass import FusedPass
from mile_edge.network.fusion import pool
from mile_edge.runtime.bank import Bank
from mile_edge.runtime.resize import resize_frames, restore


@dataclass(frozen=True)
class FeatureCache:
    """N moments of S sensors.

    Attributes:
        hidden: (N, S, H, h, w) float16, memory-mapped.
        scores: (N, S, C, h, w) float16, memory-mapped.
        pooled: (N, S, H) float32, mean of ``hidden`` over the map.
        known: (N, S, C) float32, 1 where the sample's expert knows the class.
        labels: (N, height, width) uint8 at the network's size, 255 = void.
        sensors: names of the S places.
        domains: (N,) domain of each moment.
    """

    hidden: np.ndarray
    scores: np.ndarray
    pooled: np.ndarray
    known: np.ndarray
    labels: np.ndarray
    sensors: tuple[str, ...]
    domains: tuple[str, ...]


@torch.inference_mode()
def cache_features(
    bundle: Bundle,
    network: FusedPass,
    drives: Sequence[AlignedFolders],
    translate: Sequence[np.ndarray],
    folder: Path,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> FeatureCache:
    """Run every frame of the drives through the network, each under the expert that the gate chooses for it.

    Args:
        bundle: whose experts.
        network: its network in torch.
        drives: aligned frames; all with the same sensors.
        translate: (256,) uint8 per drive, from its class ids to the bundle's.
        folder: where the features are kept, gigabytes of them.
        report: called with (moments done, moments in all).

    Raises:
        DataError: a drive has other sensors than the first, or a moment has no label.
    """
    sensors = tuple(drives[0].folders)
    for drive in drives:
        if tuple(drive.folders) != sensors:
            raise DataError(
                f"{drive.path} has the sensors {', '.join(drive.folders)}, {drives[0].path} has {', '.join(sensors)}; "
                "train on drives with the same sensors"
            )
    size, layout = network.network.size, network.layout
    bank = Bank(bundle)
    state = bank.state
    rows, prototypes, whitening = (
        torch.from_numpy(np.array(each, np.float32)) for each in (bank.rows, state.prototypes, state.whitening)
    )
    bias = torch.from_numpy(np.repeat(state.bias[None], len(sensors), axis=0))
    total, done = sum(map(len, drives)), 0
    hidden: np.memmap | None = None
    scores = pooled = known = np.empty(0)
    labels = np.empty((total, *size), np.uint8)
    domains: list[str] = []
    for drive, table in zip(drives, translate, strict=True):
        for moment in drive:
            if moment.label is None:
                raise DataError(f"{moment.name} of {drive.path} has no label; label it or take it out")
            frames = np.concatenate([resize_frames(frame[None], size) for frame in moment.frames.values()])
            features, said, knows, _, _ = network.features(torch.from_numpy(frames), rows, prototypes, whitening, bias)
            if hidden is None:
                shape = (total, *features.shape)
                hidden = np.memmap(folder / "hidden.f16", np.float16, "w+", shape=shape)
                scores = np.memmap(folder / "scores.f16", np.float16, "w+", shape=(total, *said.shape))
                pooled = np.empty((total, *features.shape[:2]), np.float32)
                known = np.empty((total, len(sensors), layout.max_classes), np.float32)
            # Beyond fp16 lie only the scores of classes that an expert does not know, and these are masked.
            hidden[done], scores[done] = features.numpy(), said.clamp(-6e4, 6e4).numpy()
            pooled[done], known[done] = pool(features).numpy(), knows.numpy()
            labels[done] = restore(table[moment.label][None], size)[0]
            domains.append(drive.domain)
            done += 1
            report(done, total)
    assert hidden is not None
    return FeatureCache(hidden, scores, pooled, known, labels, sensors, tuple(domains))
