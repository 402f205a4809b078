"""A short drive in a bag, and its replay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from recording import START, Recording

from mile_edge.replay import ReplayOptions, ReplayResult, replay

STEP = 100_000_000
SIZE = (48, 64)


def pixels(index: int, shape: tuple[int, ...] = (*SIZE, 3)) -> np.ndarray:
    coarse = np.random.default_rng(index).integers(0, 255, (shape[0] // 8, shape[1] // 8, *shape[2:]))
    return coarse.repeat(8, axis=0).repeat(8, axis=1).astype(np.uint8)


def drive(path: Path, domain: str, frames: int = 4, kind: str = "mcap-zstd") -> Path:
    """Three sensors in an odd set of encodings, labels for the camera, the domain named after the first frame."""
    label = np.zeros(SIZE, np.uint8)
    label[:8] = 255
    label[24:] = 1
    with Recording(path, kind) as recording:
        for index in range(frames):
            stamp = START + index * STEP
            recording.image("/camera/image_raw", stamp, "bgr8", pixels(index), padding=5, frame_id="front")
            recording.image("/camera/label", stamp, "mono8", label)
            if index == 0:
                recording.text("/truth/domain", stamp, domain)
            counts = pixels(index, SIZE).astype(np.uint16) * 100 + 400
            recording.image("/depth/image", stamp + 1, "16UC1", counts, big=True)
            recording.image("/ir/image", stamp + 2, "mono16", counts + 20000)
    return path


def run(bundle: Path, bag: Path, out: Path, **options: Any) -> ReplayResult:
    result = replay(bundle, bag, ReplayOptions(out=out, threads=1, **options))
    assert json.loads((out / "report.json").read_text()) == result.report
    assert not [left for left in out.iterdir() if left.name.startswith(".")]
    return result
