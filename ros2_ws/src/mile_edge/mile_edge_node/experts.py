"""Experts coming and going in a running segmenter, from files or from bytes, with no ROS."""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from pathlib import Path

from mile_edge.errors import ExpertError
from mile_edge.runtime import Segmenter


def add_from(
    segmenter: Segmenter,
    path: str,
    data: bytes | array[int],
    sha256: str,
    name: str,
    max_bytes: int,
    shadow_frames: int = 0,
) -> str:
    """Add an expert file that lies on the robot or was sent whole; frames keep flowing.

    Args:
        segmenter: open.
        path: the file; empty where `data` is given.
        data: an expert file's bytes; the array is how a message holds them.
        sha256: of `data`, in hexadecimal digits; of the file, where one is given with it.
        name: another name than the file's own, or empty.
        max_bytes: larger files are refused before they are read.
        shadow_frames: compare it with the live choice on so many frames before it goes live; 0 for at once.

    Returns:
        the expert's name.

    Raises:
        ExpertError, BundleError: it is refused, and nothing has changed.
    """
    if bool(path) == bool(len(data)):
        raise ExpertError("give either the path of an expert file or its data with sha256, not both and not neither")
    plan = shadow_frames or None
    if path:
        _check_size(_size(path), max_bytes, path)
        return segmenter.add_expert(path, name or None, sha256=sha256, shadow=plan)
    view = memoryview(data).cast("B")
    _check_size(len(view), max_bytes, "the data sent")
    found = hashlib.sha256(view).hexdigest()
    if found != sha256.strip().lower():
        raise ExpertError(f"the data sent has SHA-256 {found} and not {sha256[:80]!r}; send it again")
    with tempfile.TemporaryDirectory(prefix="mile_edge_") as folder:
        file = Path(folder) / "sent.safetensors"
        file.write_bytes(view)
        return segmenter.add_expert(file, name or None, sha256=sha256, shadow=plan)


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or "no usable path"
        raise ExpertError(
            f"the expert file {path[:200]!r} cannot be read: {reason}; give a file on the robot"
        ) from None


def _check_size(size: int, most: int, what: str) -> None:
    if size > most:
        raise ExpertError(f"{what[:200]} has {size} bytes and max_expert_bytes is {most}; send an expert file")
