"""An expert registry: a folder, here or at any URL, from which robots take experts and to which workshops give them.

    objects/ab/abcd….safetensors    each file under its own SHA-256, so that none is ever overwritten
    index/NAME/SHA256.json          one small file per push: name, hash, bytes, base, sensors, domains, time

There is no list that two workshops could overwrite for each other: an entry is a file of its own, written after its
object is in place and was read back. A registry only moves files; whether an expert may enter a bundle, and who signed
it, is for `mile-edge experts add` to say.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mile_edge.bundle.expert import MAX_BYTES, parse_expert
from mile_edge.bundle.files import named, read_regular, write_whole
from mile_edge.bundle.package import MAX_VERSION
from mile_edge.bundle.strict_json import NAME, Fields, parse_object
from mile_edge.errors import ExpertError, MileError, TransferError
from mile_edge.fleet.places import Place, open_place
from mile_edge.fleet.transfer import fetch

SCHEMA = 1
_MAX_ENTRY = 1 << 16
_REMEDY = "push the expert again"


@dataclass(frozen=True)
class RegistryEntry:
    """One expert of a registry.

    Attributes:
        name: the expert's.
        sha256, bytes: of its file.
        base_sha256: base that it fits; empty where the file does not say.
        sensors, domains: what it is for.
        version: of a package (`mile-edge experts pack`), 0 of a plain expert file.
        pushed: seconds since 1970, by the clock of who pushed it.
    """

    name: str
    sha256: str
    bytes: int
    base_sha256: str = ""
    sensors: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    version: int = 0
    pushed: float = 0.0

    @property
    def file(self) -> str:
        """Where its bytes lie in the registry."""
        return f"objects/{self.sha256[:2]}/{self.sha256}.safetensors"


def push(registry: str, files: Sequence[Path | str], scratch: Path, name: str | None = None) -> list[RegistryEntry]:
    """Put expert files into a registry; what is there already is not sent again.

    Args:
        registry: folder or URL.
        files: expert files.
        scratch: a folder for the small files that are made on the way.
        name: of a single file, in place of its own.

    Raises:
        ExpertError: a file is no expert file; nothing of it was sent.
        TransferError: the registry refuses, or holds other bytes than were sent.
    """
    place = open_place(registry)
    return [_push(place, Path(file), scratch, name) for file in files]


def _push(place: Place, file: Path, scratch: Path, name: str | None) -> RegistryEntry:
    where = f"expert file {named(file)}"
    data = read_regular(file, MAX_BYTES, where, ExpertError)
    expert = parse_expert(data, where)
    called = expert.name if name is None else name
    if not NAME.fullmatch(called):
        raise ExpertError(f"the name {called[:80]!r} is none; use lower-case letters, digits, - and _ (at most 64)")
    digest = hashlib.sha256(data).hexdigest()
    version = expert.package.version if expert.package else 0
    about = (expert.base_sha256, expert.sensors, expert.domains, version, round(time.time(), 3))
    entry = RegistryEntry(called, digest, len(data), *about)
    if not _holds(place, entry):
        # From the bytes that were hashed, not from the file, which somebody may have replaced meanwhile.
        copy = scratch / f"{digest}.safetensors"
        write_whole(copy, data, f"copy {named(copy)}", TransferError)
        place.put(copy, entry.file)
        copy.unlink()
        if not _holds(place, entry):
            place.remove(entry.file)
            raise TransferError(f"{place.shown(entry.file)} does not hold what was sent; push it again")
    note = scratch / f"{digest}.json"
    text = json.dumps({"schema": SCHEMA, **asdict(entry)}, indent=1).encode()
    write_whole(note, text, f"index entry {named(note)}", TransferError)
    place.put(note, f"index/{called}/{digest}.json")
    note.unlink()
    return entry


def _holds(place: Place, entry: RegistryEntry) -> bool:
    if place.size(entry.file) != entry.bytes:
        return False
    return hashlib.sha256(place.read(entry.file, MAX_BYTES)).hexdigest() == entry.sha256


def list_entries(registry: str) -> list[RegistryEntry]:
    """Every expert of a registry, by name, the latest first: the highest version, and of equal ones the last push.

    Raises:
        TransferError: it cannot be reached, or an entry is damaged.
    """
    place = open_place(registry)
    entries = [
        _entry(place, name)
        for name in place.files()
        if name.startswith("index/") and name.endswith(".json") and not name.rpartition("/")[2].startswith(".")
    ]
    return sorted(entries, key=lambda entry: (entry.name, -entry.version, -entry.pushed, entry.sha256))


def _entry(place: Place, name: str) -> RegistryEntry:
    where = f"registry entry {place.shown(name)}"
    try:
        fields = Fields(parse_object(place.read(name, _MAX_ENTRY)), "", TransferError, _REMEDY)
        fields.integer("schema", SCHEMA, SCHEMA)
        entry = RegistryEntry(
            fields.name("name"),
            fields.sha256("sha256"),
            fields.integer("bytes", 1, MAX_BYTES),
            fields.sha256("base_sha256") if fields.peek("base_sha256") else str(fields.take("base_sha256")),
            _texts(fields, "sensors"),
            _texts(fields, "domains"),
            fields.integer("version", 0, MAX_VERSION),
            fields.number("pushed", 0, 1e12),
        )
        fields.finish()
    except ValueError as problem:
        raise TransferError(f"{where} {problem}; {_REMEDY}") from None
    except TransferError as problem:
        raise TransferError(f"{where}: {problem}") from None
    if name != f"index/{entry.name}/{entry.sha256}.json":
        raise TransferError(f"{where} speaks of {entry.name} {entry.sha256[:8]}; {_REMEDY}")
    return entry


def _texts(fields: Fields, key: str) -> tuple[str, ...]:
    return tuple(fields.as_text(fields.path(key), value, 256) for value in fields.items(key, 0, 256))


def pull(
    registry: str,
    wanted: Sequence[str],
    folder: Path,
    *,
    base_sha256: str | None = None,
    check: Callable[[], object] = lambda: None,
) -> list[tuple[RegistryEntry, Path]]:
    """Copy experts from a registry; files that are here already and whole are not copied again.

    Args:
        registry: folder or URL.
        wanted: names, each the latest, or ``NAME@HASH`` with the first digits of a hash; all names where empty.
        folder: where they go, as ``NAME-HASH8.safetensors``.
        base_sha256: only experts of this base.
        check: called between pieces; what it raises ends the copy, which can be resumed.

    Raises:
        ExpertError: the registry has no such expert.
        TransferError: the registry cannot be reached, or a file is not what its entry says.
    """
    place = open_place(registry)
    entries = [each for each in list_entries(registry) if base_sha256 in (None, each.base_sha256)]
    names = wanted or sorted({entry.name for entry in entries})
    if not names:
        raise ExpertError(f"the registry {named(registry)} has no expert that fits; push one, or check the place")
    chosen = [_chosen(entries, name, registry) for name in names]
    return [(entry, _pull(place, entry, folder, check)) for entry in chosen]


def _chosen(entries: Sequence[RegistryEntry], wanted: str, registry: str) -> RegistryEntry:
    name, _, start = wanted.partition("@")
    found = [entry for entry in entries if entry.name == name and entry.sha256.startswith(start.lower())]
    if not found:
        known = ", ".join(dict.fromkeys(entry.name for entry in entries))
        instead = f"it has {known[:400]}" if known else "none there fits, so check the place, or push one"
        raise ExpertError(f"the registry {named(registry)} has no expert {wanted[:120]!r}; {instead}")
    if start and len(found) > 1:
        raise ExpertError(f"{wanted!r} means {len(found)} experts of the registry; give more digits of the hash")
    return found[0]


def _pull(place: Place, entry: RegistryEntry, folder: Path, check: Callable[[], object]) -> Path:
    target = folder / f"{entry.name}-{entry.sha256[:8]}.safetensors"
    try:
        here = hashlib.sha256(read_regular(target, MAX_BYTES, named(target), TransferError)).hexdigest()
    except MileError:
        here = ""
    if here != entry.sha256:
        fetch(place, entry.file, target, sha256=entry.sha256, limit=min(MAX_BYTES, entry.bytes), check=check)
    return target


def as_json(entry: RegistryEntry) -> dict[str, Any]:
    """An entry as JSON values."""
    return {**asdict(entry), "sensors": list(entry.sensors), "domains": list(entry.domains)}
