"""A contact sheet of the world: one row per domain and street, one column per sensor and the label."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mile_edge.errors import DataError

from .classes import DOMAINS, WORLD_CLASSES
from .world import World, WorldFrame
from .writer import Progress

_MARGIN = 14
_HEAT = np.array(
    [(0, 0, 4), (40, 11, 84), (101, 21, 110), (159, 42, 99), (212, 72, 66), (245, 125, 21), (250, 193, 39),
     (252, 255, 164)], np.float32,
)  # fmt: skip


def write_preview(
    path: Path | str,
    seeds: Sequence[int],
    domains: Sequence[str] = DOMAINS,
    size: tuple[int, int] = (240, 320),
    *,
    time: float = 4.0,
    progress: Progress | None = None,
) -> Path:
    """Save a picture with rgb, depth, thermal and label of every domain, the seeds side by side.

    Raises DataError for an unknown domain or a file that cannot be written as a picture.
    """
    target = Path(path)
    if target.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise DataError(f"{target} is no picture's name; let it end in .png or .jpg.")
    columns = []
    for number, seed in enumerate(seeds):
        frames = World(seed, size).views(time, domains)
        rows = [_captioned(frames[domain], seed) for domain in domains]
        columns.append(np.vstack(rows))
        if progress is not None:
            progress(number + 1, len(seeds))
    if not columns or not len(domains):
        raise DataError("A preview needs at least one seed and one domain; give some.")
    sheet = Image.fromarray(np.hstack(columns))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(prefix=f".{target.stem}.", suffix=target.suffix, dir=target.parent)
        os.close(handle)
        try:
            sheet.save(aside)
            Path(aside).chmod(0o644)
            Path(aside).replace(target)
        finally:
            Path(aside).unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{target} cannot be written ({error.strerror or error}); choose another path.") from error
    return target


def false_colour(value: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Values (H, W) in 0..1 as dark violet to pale yellow, (H, W, 3) uint8."""
    at = np.clip(value, 0.0, 1.0) * (len(_HEAT) - 1)
    low = np.minimum(at.astype(np.int64), len(_HEAT) - 2)
    share = (at - low)[..., None]
    return (_HEAT[low] * (1 - share) + _HEAT[low + 1] * share).astype(np.uint8)


def _captioned(frame: WorldFrame, seed: int) -> NDArray[np.uint8]:
    metres = np.maximum(frame.depth, 1).astype(np.float32) / 1000.0
    depth = false_colour(1.0 - np.log(metres / 0.8) / np.log(75.0))
    depth[frame.depth == 0] = 0
    thermal = false_colour((frame.thermal.astype(np.float32) / 100.0 - 258.0) / 55.0)
    palette = np.array([colour for _, colour in WORLD_CLASSES], np.uint8)
    strip = np.hstack([frame.rgb, depth, thermal, palette[frame.label]])
    framed = np.zeros((strip.shape[0] + _MARGIN, strip.shape[1], 3), np.uint8)
    framed[_MARGIN:] = strip
    picture = Image.fromarray(framed)
    text = f"{frame.domain}, street {seed}, {frame.time:g} s: camera | depth | thermal | label"
    ImageDraw.Draw(picture).text((4, 1), text, fill=(230, 230, 230))
    return np.asarray(picture)
