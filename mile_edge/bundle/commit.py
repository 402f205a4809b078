"""The steps that touch the disk, in the only order in which a kill between any two of them does no harm."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from mile_edge.bundle import history, journal
from mile_edge.bundle.files import PARTIAL, named, read_regular, reason, sync_folder, write_synced
from mile_edge.bundle.journal import Change
from mile_edge.bundle.manifest import Manifest
from mile_edge.errors import BundleError

MANIFEST = "manifest.json"
EXPERTS = "experts"
MAX_MANIFEST = 4 << 20
# Only names that the store itself gives: whatever else somebody keeps in the folder is not ours to delete.
_STORED = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}-[0-9a-f]{8}\.safetensors")
_STORED_ABOVE = re.compile(r"fusion-[0-9a-f]{8}\.safetensors|fused-[0-9a-f]{8}\.onnx")
_ASIDE = re.compile(
    r"\.(manifest\.json|[a-z0-9][a-z0-9_-]{0,63}-[0-9a-f]{8}\.safetensors|fused-[0-9a-f]{8}\.onnx)\.partial"
)


def change(folder: Path, manifest: Manifest, files: Mapping[str, bytes], what: Change) -> None:
    """Make `manifest` the bundle's; `files` are the new ones it names. The caller holds the lock.

    The state before is kept, and the journal has `what` before it is done.

    Raises:
        BundleError: the disk refused; the old state is in place and the new files are gone.
    """
    text = manifest.to_json().encode()
    if (folder / EXPERTS).is_symlink():
        raise BundleError(f"bundle {named(folder)} has a symbolic link as {EXPERTS}; copy the folder itself")
    try:
        _replace_files(folder, text, files, what)
    except OSError as failure:
        raise BundleError(
            f"bundle {named(folder)} cannot be changed: {reason(failure)}; check its permissions and the disk"
        ) from None
    # From here on the change is made: a failure to tidy up must not read as a refusal.
    with contextlib.suppress(OSError):
        sync_folder(folder)
        history.prune(folder)
        sweep(folder, manifest)


def _replace_files(folder: Path, text: bytes, files: Mapping[str, bytes], what: Change) -> None:
    finals = [folder / name for name in files]
    # A state that is kept may need a file of the very same content.
    fresh = [final for final in finals if not final.exists()]
    manifest_aside = _aside(folder / MANIFEST)
    try:
        # All bytes are on the disk before the first rename, so a full one is found while nothing has happened.
        for final, data in zip(finals, files.values(), strict=True):
            write_synced(_aside(final), data)
        write_synced(manifest_aside, text)
        for final in finals:
            _aside(final).replace(final)
        for place in {final.parent for final in finals}:
            sync_folder(place)
        present = read_regular(folder / MANIFEST, MAX_MANIFEST, "manifest.json", BundleError)
        history.keep(folder, folder / MANIFEST, present)
        journal.append(folder, what, *(hashlib.sha256(each).hexdigest() for each in (present, text)))
        manifest_aside.replace(folder / MANIFEST)
    except BaseException:
        # An interrupt may arrive just after the last rename: then the manifest names the new files and they stay.
        if not _holds(folder / MANIFEST, text):
            for path in (*map(_aside, finals), manifest_aside, *fresh):
                with contextlib.suppress(OSError):
                    path.unlink()
        raise


def _holds(path: Path, text: bytes) -> bool:
    try:
        return path.read_bytes() == text
    except OSError:
        # Unknown: a stray file is swept later, a file that the manifest names and that is gone stays gone.
        return True


def sweep(folder: Path, manifest: Manifest) -> None:
    """Delete what killed runs left: the store's own files that neither the manifest nor a state that is kept names."""
    for path in strays(folder, manifest):
        with contextlib.suppress(OSError):
            path.unlink()


def strays(folder: Path, manifest: Manifest) -> list[Path]:
    """Files with a name that only the store gives and that neither the manifest nor a state that is kept mentions."""
    mentioned = {entry.file for entry in manifest.experts} | history.files_of_states(folder)
    if manifest.candidate is not None:
        mentioned.add(manifest.candidate.file)
    if manifest.fusion is not None:
        mentioned |= {manifest.fusion.network.file, str(manifest.fusion.file)}
    found: list[Path] = []
    for place, prefix in ((folder, ""), (folder / EXPERTS, EXPERTS + "/")):
        with contextlib.suppress(OSError), os.scandir(place) as entries:
            for entry in entries:
                stored = _STORED if prefix else _STORED_ABOVE
                ours = _ASIDE.fullmatch(entry.name) or stored.fullmatch(entry.name)
                if ours and prefix + entry.name not in mentioned and not entry.is_dir(follow_symlinks=False):
                    found.append(place / entry.name)
    return sorted(found)


def create_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a whole bundle aside and rename it into place.

    Raises:
        BundleError: the folder exists and is not empty, or cannot be written; nothing of it is left.
    """
    try:
        if not _is_free(folder):
            raise BundleError(f"bundle {named(folder)} cannot be created: it exists; remove it or give another folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep_aside(folder)
        with _aside_folder(folder) as aside:
            (aside / EXPERTS).mkdir()
            for name, data in files.items():
                write_synced(aside / name, data)
            sync_folder(aside / EXPERTS)
            sync_folder(aside)
            aside.rename(folder)
        sync_folder(folder.parent)
    except OSError as failure:
        raise BundleError(
            f"bundle {named(folder)} cannot be created: {reason(failure)}; check the folder above it and the disk"
        ) from None


def _is_free(folder: Path) -> bool:
    if folder.is_symlink():
        return False
    try:
        return not any(folder.iterdir())
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        return False


@contextlib.contextmanager
def _aside_folder(folder: Path) -> Iterator[Path]:
    """A folder beside the final one, locked so that another run knows it is in use, and gone after a failure."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}{PARTIAL}")
    aside.mkdir()
    descriptor = os.open(aside, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield aside
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    finally:
        os.close(descriptor)


def _sweep_aside(folder: Path) -> None:
    ours = re.compile(re.escape(f".{folder.name}.") + r"\d+" + re.escape(PARTIAL))
    for path in [path for path in folder.parent.iterdir() if ours.fullmatch(path.name)]:
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}{PARTIAL}")
