"""The last states of a bundle: each is the manifest it had, and the expert files that one names, kept where they are.

Expert files are named by their content and never altered, so a state costs its manifest alone; and that is the file
itself under a second name, because a change puts another one in its place.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mile_edge.bundle.files import PARTIAL, named, read_regular, sync_folder, write_synced
from mile_edge.bundle.strict_json import parse_object, shown
from mile_edge.errors import BundleError

HISTORY = "history"
# How many states before the present one a bundle keeps.
STATES = 8
MAX_STATE = 4 << 20
_STATE = re.compile(r"(\d{8})-([0-9a-f]{64})\.json")


@dataclass(frozen=True)
class State:
    """A state that is kept: its place in the order, the SHA-256 of its manifest, and where that lies."""

    number: int
    sha256: str
    path: Path


def keep(folder: Path, manifest: Path, text: bytes) -> None:
    """Keep the present manifest, whose bytes are `text`, before another takes its place; the caller holds the lock.

    Raises:
        OSError: the disk refused.
        BundleError: the folder of states is none.
    """
    place = folder / HISTORY
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        raise BundleError(f"bundle {named(folder)} has a {HISTORY} that is no folder of its own; move it away")
    place.mkdir(exist_ok=True)
    kept = states(folder)
    sha256 = hashlib.sha256(text).hexdigest()
    # A killed change kept it already.
    if kept and kept[-1].sha256 == sha256:
        return
    path = place / f"{kept[-1].number + 1 if kept else 1:08d}-{sha256}.json"
    try:
        os.link(manifest, path, follow_symlinks=False)
    except OSError:
        # A file system without hard links, as a USB stick has: a few kilobytes are copied.
        aside = path.with_name(f".{path.name}{PARTIAL}")
        write_synced(aside, text)
        aside.replace(path)
    sync_folder(place)


def states(folder: Path) -> list[State]:
    """The states that are kept, oldest first; the newest may be the present one after a kill."""
    found: list[State] = []
    with contextlib.suppress(OSError), os.scandir(folder / HISTORY) as entries:
        for entry in entries:
            match = _STATE.fullmatch(entry.name)
            if match and entry.is_file(follow_symlinks=False):
                found.append(State(int(match[1]), match[2], folder / HISTORY / entry.name))
    return sorted(found, key=lambda state: state.number)


def read_state(state: State) -> bytes:
    """The bytes of a state's manifest.

    Raises:
        BundleError: it is missing or damaged.
    """
    where = f"kept state {named(state.path)}"
    text = read_regular(state.path, MAX_STATE, where, BundleError)
    if hashlib.sha256(text).hexdigest() != state.sha256:
        raise BundleError(f"{where} is damaged; roll back to another one")
    return text


def find_state(folder: Path, wanted: str | None, present: str) -> State:
    """The state to go back to.

    Args:
        folder: the bundle.
        wanted: the first digits of its SHA-256, at least 4; None for the one before the present.
        present: SHA-256 of the present manifest.

    Raises:
        BundleError: there is none such, or several.
    """
    kept = [state for state in states(folder) if state.sha256 != present]
    if wanted is None:
        if not kept:
            raise BundleError(f"bundle {named(folder)} keeps no earlier state; there is nothing to roll back to")
        return kept[-1]
    text = wanted.lower()
    matching = {state.sha256: state for state in kept if len(text) >= 4 and state.sha256.startswith(text)}
    if len(matching) != 1:
        known = ", ".join(dict.fromkeys(state.sha256[:8] for state in reversed(kept))) or "none"
        raise BundleError(f"state {shown(wanted)} is not one of those kept by {named(folder)}; kept are {known}")
    return next(iter(matching.values()))


def prune(folder: Path) -> None:
    """Let go of all but the last STATES, and of what killed runs left."""
    kept = states(folder)
    leftovers = (folder / HISTORY).glob(f".*.json{PARTIAL}")
    for path in (*leftovers, *(state.path for state in kept[: max(0, len(kept) - STATES)])):
        with contextlib.suppress(OSError):
            path.unlink()


def files_of_states(folder: Path) -> set[str]:
    """The files that the states kept need, relative to the bundle; a damaged state needs none."""
    files: set[str] = set()
    for state in states(folder):
        with contextlib.suppress(BundleError, ValueError):
            files.update(_files(parse_object(read_state(state))))
    return files


def _files(values: dict[str, object]) -> Iterator[str]:
    experts = values.get("experts")
    fusion = values.get("fusion")
    graph = fusion.get("network") if isinstance(fusion, dict) else None
    for entry in [*(experts if isinstance(experts, list) else []), values.get("candidate"), fusion, graph]:
        if isinstance(entry, dict) and isinstance(entry.get("file"), str):
            yield entry["file"]
