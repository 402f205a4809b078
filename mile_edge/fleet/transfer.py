"""Copies of files from other places: resumed where they broke off, checked, and in place only when they are whole."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from mile_edge.bundle.files import PARTIAL, named, reason, sync_folder
from mile_edge.errors import BagError, TransferError
from mile_edge.fleet.places import CHUNK, Place, open_place

_BAG_SUFFIXES = (".mcap", ".db3", ".bag", ".zstd", ".active")


def fetch(
    place: Place,
    name: str,
    target: Path,
    *,
    sha256: str | None = None,
    limit: int | None = None,
    check: Callable[[], object] = lambda: None,
) -> Path:
    """Copy one file here; where an earlier attempt broke off, only the rest is read.

    Args:
        place, name: where it lies.
        target: where it goes; an older file there is replaced.
        sha256: what it must be; the copy is as long as the file says where it is missing.
        limit: bytes that it may have at most.
        check: called between pieces; what it raises ends the copy, which can be resumed.

    Raises:
        TransferError: the file is missing, larger than allowed, changed meanwhile, or not what it must be.
    """
    size = place.size(name)
    if size is None:
        raise TransferError(f"{place.shown(name)} does not exist; check the name")
    if limit is not None and size > limit:
        raise TransferError(f"{place.shown(name)} has {size} bytes and at most {limit} are taken; check the file")
    # The version is part of the name, so that the halves of two versions are never put together.
    version = sha256 or hashlib.sha256(f"{place.url} {name} {place.token(name)}".encode()).hexdigest()
    partial = target.with_name(f".{target.name}.{version[:16]}{PARTIAL}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = _copy(place, name, partial, size, check)
        if partial.stat().st_size != size or (sha256 is not None and digest != sha256):
            partial.unlink()
            raise TransferError(
                f"{place.shown(name)} came as {digest[:16]} and {(sha256 or 'its whole size')[:16]} was announced; "
                "copy it again, or have it pushed again"
            )
        partial.replace(target)
        sync_folder(target.parent)
    except OSError as problem:
        raise TransferError(
            f"{named(target)} cannot be written: {reason(problem)}; make room or name another folder"
        ) from None
    return target


def _copy(place: Place, name: str, partial: Path, size: int, check: Callable[[], object]) -> str:
    """Append what is missing; the hash of all of it."""
    digest = hashlib.sha256()
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    with os.fdopen(descriptor, "r+b") as stream:
        have = 0
        while piece := stream.read(CHUNK):
            digest.update(piece)
            have += len(piece)
        if have > size:
            stream.truncate(0)
            stream.seek(0)
            digest, have = hashlib.sha256(), 0
        try:
            if have < size:
                with contextlib.closing(place.pieces(name, have)) as pieces:
                    for piece in pieces:
                        check()
                        kept = piece[: size - have]
                        stream.write(kept)
                        digest.update(kept)
                        have += len(kept)
                        if have == size:
                            break
        finally:
            # What came before the end, or before `check` ended it, is where the next call goes on.
            stream.flush()
            os.fsync(descriptor)
    return digest.hexdigest()


def bag_version(url: str) -> str:
    """A text that changes when a remote bag does.

    Raises:
        TransferError: the place cannot be asked.
    """
    place, files = _bag_files(url)
    return hashlib.sha256(" ".join(f"{name} {place.token(name)}" for name in files).encode()).hexdigest()


def fetch_bag(url: str, cache: Path, check: Callable[[], object] = lambda: None) -> Path:
    """A local copy of a bag, a file or a folder, in a folder of `cache` that belongs to this version of it.

    Raises:
        BagError: there is no bag at the URL.
        TransferError: it cannot be copied.
    """
    place, files = _bag_files(url)
    folder = cache / hashlib.sha256(f"{url} {bag_version(url)}".encode()).hexdigest()[:16]
    for name in files:
        target = folder / name
        if not target.is_file() or target.stat().st_size != place.size(name):
            fetch(place, name, target, check=check)
    return folder / PurePosixPath(files[0]).parts[0]


def _bag_files(url: str) -> tuple[Place, list[str]]:
    parent, _, last = url.rstrip("/").rpartition("/")
    place = open_place(parent + "/" if parent.endswith(("/", ":")) else parent)
    if place.is_folder(last):
        inside = open_place(url.rstrip("/"))
        wanted = [
            f"{last}/{name}"
            for name in inside.files()
            if "/" not in name and (name == "metadata.yaml" or name.endswith(_BAG_SUFFIXES))
        ]
    else:
        wanted = [last] if place.size(last) is not None else []
    if not wanted:
        raise BagError(f"The bag '{named(url)}' does not exist or holds no .mcap, .db3 or .bag file; check the URL.")
    return place, wanted


def forget_bag(local: Path) -> None:
    """Remove a copy that `fetch_bag` made, with its folder."""
    for path in sorted(local.parent.rglob("*"), reverse=True):
        with contextlib.suppress(OSError):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    with contextlib.suppress(OSError):
        local.parent.rmdir()
