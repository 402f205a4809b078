"""Does the exported graph say what torch says? Compared on real frames, never assumed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mile_edge.bundle import Bundle
from mile_edge.export.bundle import pool_of
from mile_edge.network.base import Base
from mile_edge.network.one_pass import OnePass
from mile_edge.runtime.bank import Bank
from mile_edge.runtime.onnx_backend import OnnxBackend
from mile_edge.runtime.resize import resize_frames


@torch.inference_mode()
def compare(bundle: Bundle, frames: Sequence[np.ndarray], base: Base) -> dict[str, Any]:
    """Run the bundle's graph in ONNX Runtime and the same network in fp32 torch over the same frames.

    Args:
        frames: each (H, W, 3) uint8.
        base: the bundle's base; taken apart by this call.

    Returns:
        ``frames``, ``experts_equal`` (share of frames), ``pixels_equal`` (share), ``pixels_equal_by_class`` (share of
        the pixels that torch gives the class), ``distance_error`` (largest relative difference of a distance).
    """
    manifest = bundle.manifest
    size = (manifest.network.height, manifest.network.width)
    bank = Bank(bundle)
    state = bank.state
    backend = OnnxBackend(bundle.network_path, bank.rows)
    gate = manifest.gate
    classes, pool = manifest.low_rank.max_classes, pool_of(bundle, base)
    network = OnePass(pool, size, classes, gate.kind, gate.tap, gate.top_k, gate.tau, gate.delta).eval()
    weights = [torch.from_numpy(np.array(a, np.float32)) for a in (bank.rows, state.prototypes, state.whitening)]
    same_expert, error = 0, 0.0
    pixels = np.zeros((manifest.low_rank.max_classes, 2), np.int64)
    for frame in frames:
        batch = resize_frames(frame[None], size)
        mask, _, expert, distance = backend.run(batch, state, state.bias[None])
        expected = network(torch.from_numpy(batch), *weights, torch.from_numpy(np.array(state.bias[None])))
        same_expert += int(expert[0] == int(expected[2][0]))
        used = [row for row, name in enumerate(state.names) if name is not None]
        reference = expected[3].numpy()[:, used]
        error = max(error, float(np.abs(distance[:, used] / reference - 1).max()))
        for label in np.unique(expected[0].numpy()):
            there = expected[0].numpy() == label
            pixels[label] += (int((mask[there] == label).sum()), int(there.sum()))
    by_class = {
        label.name: round(float(equal / total), 6)
        for label, (equal, total) in zip(manifest.classes, pixels, strict=False)
        if total
    }
    return {
        "frames": len(frames),
        "experts_equal": same_expert / len(frames),
        "pixels_equal": round(float(pixels[:, 0].sum() / pixels[:, 1].sum()), 6),
        "pixels_equal_by_class": by_class,
        "distance_error": error,
    }
