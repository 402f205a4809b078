"""The steps that touch the disk, in the only order in which a kill between any two of them does no harm."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from mile_edge.bundle.files import PARTIAL, named, reason, sync_folder, write_synced
from mile_edge.bundle.manifest import Manifest
from mile_edge.errors import BundleError

MANIFEST = "manifest.json"
EXPERTS = "experts"
MAX_MANIFEST = 8 << 20
# Only names that the store itself gives: whatever else somebody keeps in the folder is not ours to delete.
_OURS = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}-[0-9a-f]{8}\.safetensors|\..+\.partial")


def change(folder: Path, old: Manifest, new: Manifest, files: Mapping[str, bytes]) -> None:
    """Go from one manifest to the next; `files` are the new ones it names. The caller holds the lock.

    Raises:
        BundleError: the disk refused; the old state is in place and the new files are gone.
    """
    text = new.to_json().encode()
    aside = {_aside(folder / name): (folder / name, data) for name, data in files.items()}
    manifest_aside = _aside(folder / MANIFEST)
    placed: list[Path] = []
    try:
        # All bytes are on the disk before the first rename, so a full one is found while nothing has happened.
        for path, (_, data) in aside.items():
            write_synced(path, data)
        write_synced(manifest_aside, text)
        for path, (final, _) in aside.items():
            os.replace(path, final)
            placed.append(final)
        if placed:
            sync_folder(folder / EXPERTS)
        os.replace(manifest_aside, folder / MANIFEST)
    except BaseException as failure:
        for path in (*aside, manifest_aside, *placed):
            with contextlib.suppress(OSError):
                path.unlink()
        if isinstance(failure, OSError):
            raise BundleError(
                f"bundle {named(folder)} cannot be changed: {reason(failure)}; check its permissions and the disk"
            ) from None
        raise
    with contextlib.suppress(OSError):
        sync_folder(folder)
        sweep(folder, new)


def sweep(folder: Path, manifest: Manifest) -> None:
    """Delete what killed runs left: the store's own files that the manifest does not name."""
    for path in strays(folder, manifest):
        with contextlib.suppress(OSError):
            path.unlink()


def strays(folder: Path, manifest: Manifest) -> list[Path]:
    """Files with a name the store gives that the manifest does not mention."""
    named_files = {folder / entry.file for entry in manifest.experts}
    found: list[Path] = []
    for place in (folder, folder / EXPERTS):
        with contextlib.suppress(OSError), os.scandir(place) as entries:
            for entry in entries:
                path = place / entry.name
                ours = _OURS.fullmatch(entry.name) and (place != folder or entry.name.endswith(PARTIAL))
                if ours and path not in named_files and not entry.is_dir(follow_symlinks=False):
                    found.append(path)
    return sorted(found)


def create_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a whole bundle aside and rename it into place."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}{PARTIAL}")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        (aside / EXPERTS).mkdir(parents=True)
        for name, data in files.items():
            write_synced(aside / name, data)
        sync_folder(aside / EXPERTS)
        sync_folder(aside)
        os.rename(aside, folder)
        sync_folder(folder.parent)
    except BaseException as failure:
        shutil.rmtree(aside, ignore_errors=True)
        if isinstance(failure, OSError):
            raise BundleError(
                f"bundle {named(folder)} cannot be created: {reason(failure)}; give a folder that does not exist yet"
            ) from None
        raise


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}{PARTIAL}")
