"""Labelled frames of the world as a folder data set."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
    domains = _domains(domain)
    if sensor not in SENSORS:
        raise DataError(f"The world has no sensor {sensor!r}; choose from {', '.join(SENSORS)}.")
    moments = _moments(seeds, frames_per_seed, domains, size, limit)
    with _filled_aside(Path(path)) as folder:
        _open_folder(folder, sensor, domains)
        for number, (world, time, now) in enumerate(moments):
            image, label = world.view(time, now, sensor)
            _save(folder, number, image, label)
            if progress is not None:
                progress(number + 1, len(moments))
    return Path(path)


def write_drives(
    path: Path | str,
    seeds: Sequence[int],
    frames_per_seed: int,
    domain: str | Sequence[str],
    size: tuple[int, int] = (240, 320),
    *,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Render the same moments with every sensor: a folder that holds one folder data set per sensor.

    Frames of one moment and viewpoint have the same file name in camera/, depth/ and thermal/, each of which is what
    :func:`write_folder` would write for its sensor. The folder is filled aside and renamed when complete.

    Args:
        path: the folder to make; it may exist only if it is empty.
        seeds: one street each.
        frames_per_seed: moments of each street, `FRAME_GAP` seconds apart.
        domain: one of `DOMAINS`, or several, taken in turn moment by moment.
        size: (height, width) in pixels.
        limit: stop after so many moments in all.
        progress: called with (moments done, moments in all) after every moment.

    Returns:
        The folder.

    Raises:
        DataError: an unknown domain, nothing to render, or a path that cannot be written or is in use.
    """
    domains = _domains(domain)
    moments = _moments(seeds, frames_per_seed, domains, size, limit)
    with _filled_aside(Path(path)) as folder:
        for sensor in SENSORS:
            _open_folder(folder / sensor, sensor, domains)
        for number, (world, time, now) in enumerate(moments):
            moment = world.frame(time, now)
            images: tuple[NDArray[np.uint8] | NDArray[np.uint16], ...] = (moment.rgb, moment.depth, moment.thermal)
            for sensor, image in zip(SENSORS, images, strict=True):
                _save(folder / sensor, number, image, moment.label)
            if progress is not None:
                progress(number + 1, len(moments))
    return Path(path)


def _domains(domain: str | Sequence[str]) -> tuple[str, ...]:
    return (domain,) if isinstance(domain, str) else tuple(domain)


def _moments(
    seeds: Sequence[int],
    frames_per_seed: int,
    domains: Sequence[str],
    size: tuple[int, int],
    limit: int | None,
) -> list[tuple[World, float, str]]:
    """(street, seconds, domain) of every moment: street after street, the domains in turn."""
    worlds = [World(seed, size) for seed in seeds]
    if not worlds or frames_per_seed < 1 or not domains:
        raise DataError(
            f"{len(worlds)} seeds, {frames_per_seed} frames each and {len(domains)} domains make no data set; give at "
            "least one of each."
        )
    total = min(len(worlds) * frames_per_seed, limit or sys.maxsize)
    return [
        (worlds[number // frames_per_seed], number % frames_per_seed * FRAME_GAP, domains[number % len(domains)])
        for number in range(total)
    ]


@contextmanager
def _filled_aside(target: Path) -> Iterator[Path]:
    """A folder that becomes `target` when all went well, and is gone when not."""
    aside = open_aside(target)
    try:
        yield aside
        aside.replace(target)
    except OSError as error:
        raise DataError(f"{target} cannot be written ({error.strerror or error}); choose another folder.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


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


def _open_folder(folder: Path, sensor: str, domains: Sequence[str]) -> None:
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    (folder / "classes.yaml").write_text(_classes_yaml(sensor, domains), encoding="utf-8")


def _save(folder: Path, number: int, image: NDArray[np.uint8] | NDArray[np.uint16], label: NDArray[np.uint8]) -> None:
    name, picture = f"{number:06d}", Image.fromarray(image)
    if image.ndim == 3:
        picture.save(folder / "images" / f"{name}.jpg", quality=JPEG_QUALITY)
    else:
        picture.save(folder / "images" / f"{name}.png")
    Image.fromarray(label).save(folder / "labels" / f"{name}.png")


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
