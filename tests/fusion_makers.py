"""Fusion heads of random weights, and moments of three sensors; no torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from mile_edge.bundle import Bundle, FusionHead
from mile_edge.runtime import SensorFrame


def random_head(bundle: Bundle, seed: int = 0, scale: float = 0.2, **changes: Any) -> FusionHead:
    """A head that fits the bundle's graph."""
    info, manifest = bundle.manifest.fusion, bundle.manifest
    assert info is not None
    fields: dict[str, Any] = {
        "base_sha256": manifest.base.sha256,
        "kind": info.kind,
        "width": info.width,
        "hidden": manifest.low_rank.hidden,
        "classes": manifest.classes,
        "training": {"seed": seed},
        **changes,
    }
    rng = np.random.default_rng(seed)
    shapes = FusionHead(**fields, weights={}).layout.shapes
    weights = {name: rng.normal(0, scale, shape).astype(np.float32) for name, shape in shapes.items()}
    return FusionHead(**fields, weights=weights)


def moment(seed: int = 0, stamp: int = 1_000_000_000, size: tuple[int, int] = (64, 96)) -> dict[str, SensorFrame]:
    """Camera, depth and thermal of one moment, with coarse structure."""
    rng = np.random.default_rng(seed)
    frames = {}
    for kind in ("camera", "depth", "thermal"):
        coarse = rng.integers(0, 256, (size[0] // 8, size[1] // 8, 3), np.uint8)
        frames[kind] = SensorFrame(coarse.repeat(8, axis=0).repeat(8, axis=1), stamp, kind)
    return frames
