"""Labelled frames of the world as a folder data set."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mile_edge.errors import DataError

from .classes import SENSORS, WORLD_CLASSES
from .world import World

FRAME_GAP = 1.5
"""Seconds between two frames of one street: at 5 to 11 m/s they show different places."""

JPEG_QUALITY = 92

Progress = Callable[[int, int], None]


def write_folder(
    path: Path | str,
    seeds: Sequence[int],
    frames_per_seed: int,
    domain: str | Sequence[str],
    sensor: str = "camera",
    size: tuple[int, int] = (240, 320),
    *,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Render `frames_per_seed` frames of every seed into a new folder with images/, labels/ and classes.yaml.

    The folder is filled aside and renamed when complete, so an interrupted run leaves nothing behind.

    Args:
        path: the folder to make; it may exist only if it is empty.
        seeds: one street each.
        frames_per_seed: frames of each street, `FRAME_GAP` seconds apart.
        domain: one of `DOMAINS`, or several, taken in turn frame by frame.
        sensor: camera (JPEG), depth (16-bit PNG, millimetres) or thermal (16-bit PNG, 0.01 K).
        size: (height, width) in pixels.
        limit: stop after so many frames in all.
        progress: called with (frames done, frames in all) after every frame.

    Returns:
        The folder.

    Raises:
        DataError: an unknown domain or sensor, nothing to render, or a path that cannot be written or is in use.
    """
    target = Path(path)
    domains = (domain,) if isinstance(domain, str) else tuple(domain)
    worlds = [World(seed, size) for seed in seeds]
    if sensor not in SENSORS:
        raise DataError(f"The world has no sensor {sensor!r}; choose from {', '.join(SENSORS)}.")
    if not worlds or frames_per_seed < 1 or not domains:
        raise DataError(
            f"{len(worlds)} seeds, {frames_per_seed} frames each and {len(domains)} domains make no data set; give at "
            "least one of each."
        )
    aside = open_aside(target)
    try:
        (aside / "images").mkdir()
        (aside / "labels").mkdir()
        (aside / "classes.yaml").write_text(_classes_yaml(sensor, domains), encoding="utf-8")
        total = min(len(worlds) * frames_per_seed, limit or sys.maxsize)
        for number in range(total):
            world, step = worlds[number // frames_per_seed], number % frames_per_seed
            image, label = world.view(step * FRAME_GAP, domains[number % len(domains)], sensor)
            _save(aside / "images", f"{number:06d}", image)
            Image.fromarray(label).save(aside / "labels" / f"{number:06d}.png")
            if progress is not None:
                progress(number + 1, total)
        aside.replace(target)
    except OSError as error:
        raise DataError(f"{target} cannot be written ({error.strerror or error}); choose another folder.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def open_aside(target: Path) -> Path:
    """A new, hidden folder beside `target`, to be renamed to it. Raises DataError where that cannot work."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target} already exists and is not empty; choose another path or remove it.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        aside.chmod(0o755)
        return aside
    except OSError as error:
        raise DataError(f"{target} cannot be made ({error.strerror or error}); choose another path.") from error


def _save(folder: Path, name: str, image: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    picture = Image.fromarray(image)
    if image.ndim == 3:
        picture.save(folder / f"{name}.jpg", quality=JPEG_QUALITY)
    else:
        picture.save(folder / f"{name}.png")


def _classes_yaml(sensor: str, domains: Sequence[str]) -> str:
    lines = [
        "# made by mile-edge world; label values are class ids",
        "ignore: 255",
        f"sensor: {sensor}",
        f"domain: {domains[0] if len(domains) == 1 else 'mixed'}",
        "classes:",
    ]
    lines += [
        f"  - {{id: {index}, name: {name}, color: [{', '.join(map(str, color))}]}}"
        for index, (name, color) in enumerate(WORLD_CLASSES)
    ]
    return "\n".join(lines) + "\n"
