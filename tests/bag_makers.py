"""Bags of noise, one of each storage with the same messages, and what comes out of one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from recording import START, Recording

from mile_edge.data.bags import Bag

FRAMES = 60
SIDE = 120


def picture(index: int) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8 noise of 4 bits: compressible, yet a bag of it has several chunks."""
    return np.random.default_rng(index).integers(0, 16, (SIDE, SIDE, 3)).astype(np.uint8)


def record(path: Path, kind: str, frames: int = FRAMES) -> Path:
    with Recording(path, kind) as recording:
        for index in range(frames):
            time = START + index * 100_000_000
            if index % 20 == 0:
                recording.text("/truth/domain", time, f"domain {index}")
            recording.image("/camera/image_raw", time, "bgr8", picture(index), padding=index % 3)
    return path


def read(path: Path) -> tuple[list[int], Counter[str], Bag]:
    """(indices of the pictures that came out intact, losses, the closed bag)."""
    with Bag.open(path) as bag:
        indices = []
        for message in bag.messages(["/camera/image_raw"]):
            index = round((message.time - START) / 100_000_000)
            assert message.value.header.stamp.nanosec == index * 100_000_000 % 1_000_000_000
            indices.append(index)
        return indices, bag.losses, bag
