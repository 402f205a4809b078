"""Changes to a bundle that does not open: no damaged file, and no expert that does not fit, stands in their way."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

from mile_edge.bundle import admission, commit
from mile_edge.bundle.journal import Change
from mile_edge.bundle.loading import kept_manifest, load_state, manifest_text, parsed_manifest
from mile_edge.bundle.lock import locked
from mile_edge.bundle.manifest import Manifest
from mile_edge.bundle.store import Around, Bundle


def remove_expert(path: str | os.PathLike[str], name: str) -> Manifest:
    """As `Bundle.remove`, but reading no expert, so that a bundle with a damaged file can be mended."""
    folder = Path(path)
    _manifest(folder).without_expert(name)
    with locked(folder):
        now = _manifest(folder)
        new = now.without_expert(name)
        commit.change(folder, new, {}, admission.removal(now, name))
    return new


def withdraw_candidate(path: str | os.PathLike[str]) -> Manifest:
    """As `Bundle.withdraw`, but reading no expert, so that a candidate that does not fit can go."""
    folder = Path(path)
    admission.withdrawn(_manifest(folder))
    with locked(folder):
        new, what = admission.withdrawn(_manifest(folder))
        commit.change(folder, new, {}, what)
    return new


def roll_back(path: str | os.PathLike[str], state: str | None = None, around: Around = nullcontext) -> Bundle:
    """As `Bundle.rollback`, but reading only what the state that is gone back to needs."""
    folder = Path(path)
    # A folder that is no bundle is left without a lock file.
    kept_manifest(folder, state)
    with locked(folder):
        manifest, target = kept_manifest(folder, state)
        bundle = Bundle(folder, manifest, *load_state(folder, manifest, {}))
        with around(bundle):
            commit.change(folder, manifest, {}, Change("rollback", detail={"to": target}))
    return bundle


def _manifest(folder: Path) -> Manifest:
    return parsed_manifest(folder, manifest_text(folder))
