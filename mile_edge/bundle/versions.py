"""The newest version that a bundle has seen of each expert; it stays when the expert is removed or rolled back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mile_edge.bundle.package import MAX_VERSION
from mile_edge.bundle.strict_json import NAME, Fields
from mile_edge.errors import BundleError, ExpertError

if TYPE_CHECKING:
    from mile_edge.bundle.expert import Expert

MAX_SEEN = 8192


@dataclass(frozen=True)
class SeenVersion:
    """version: the highest one; sha256: of the file that had it."""

    version: int
    sha256: str


def read_versions(fields: Fields, remedy: str) -> dict[str, SeenVersion]:
    """The manifest's field `versions`; empty where it is missing."""
    if fields.peek("versions") is None:
        return {}
    entries = fields.mapping("versions")
    if len(entries) > MAX_SEEN:
        fields.fail("versions", len(entries), f"at most {MAX_SEEN} names")
    seen: dict[str, SeenVersion] = {}
    for name, value in entries.items():
        if not NAME.fullmatch(name):
            fields.fail("versions", name, "names of experts")
        entry = Fields(value, f"versions.{name}", BundleError, remedy)
        seen[name] = SeenVersion(entry.integer("version", 1, MAX_VERSION), entry.sha256("sha256"))
        entry.finish()
    return seen


def check_version(seen: Mapping[str, SeenVersion], expert: Expert, sha256: str, where: str) -> None:
    """Refuse an expert that is older than one of its name that was here before.

    Raises:
        ExpertError: it is older, or another file claims the same version.
    """
    known = seen.get(expert.name)
    if known is None or sha256 == known.sha256:
        return
    version = 0 if expert.package is None else expert.package.version
    if version > known.version:
        return
    said = f"is version {version} of {expert.name!r}" if version else f"is {expert.name!r} without a version"
    raise ExpertError(
        f"{where} {said} and version {known.version} was here already"
        f"{' from another file' if version == known.version else ''}; give a newer one, or ask for the "
        "downgrade (`experts add --downgrade`)"
    )


def with_version(seen: Mapping[str, SeenVersion], expert: Expert, sha256: str) -> dict[str, SeenVersion]:
    """What has been seen once this expert is in; the number never falls.

    Raises:
        ExpertError: more names have versions than a manifest holds.
    """
    known = seen.get(expert.name)
    if expert.package is None or (known is not None and known.version >= expert.package.version):
        return dict(seen)
    if known is None and len(seen) >= MAX_SEEN:
        raise ExpertError(f"the bundle remembers versions of {MAX_SEEN} names already; use a name it knows")
    return {**seen, expert.name: SeenVersion(expert.package.version, sha256)}


def merged(one: Mapping[str, SeenVersion], other: Mapping[str, SeenVersion]) -> dict[str, SeenVersion]:
    """The higher version of each name."""
    return {
        name: max((seen[name] for seen in (one, other) if name in seen), key=lambda entry: entry.version)
        for name in (*one, *other)
    }
