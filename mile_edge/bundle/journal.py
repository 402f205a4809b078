"""The journal of a bundle: one JSON line per change, only ever appended.

A record is on the disk before the change it tells of is made, and names the state before and the state after by the
SHA-256 of their manifests. So a kill loses no change that happened, and a change that a kill prevented is told from one
that happened: the next record, or the bundle itself, still has its state before. A line that a power cut tore is
recognised, stays where it is, and hides no other. Each record also names the one before it by its SHA-256.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mile_edge.bundle.files import named, opened_regular, sync_folder
from mile_edge.bundle.owner import Owner, now
from mile_edge.bundle.strict_json import SHA256, parse_object
from mile_edge.errors import BundleError

JOURNAL = "journal.jsonl"
MAX_LINE = 8192
# Of a journal that outgrew this only the end is read.
MAX_READ = 32 << 20
DONE, NOT_DONE, UNKNOWN = "done", "not done", "unknown"


@dataclass(frozen=True)
class Change:
    """What is done to a bundle.

    action: "add", "replace", "remove", "shadow", "live", "withdraw", "gate", "fusion" or "rollback".
    expert, version, sha256: whose file it is about, 0 and "" where there is none.
    signer: the trusted publisher whose signature was checked, "" where none was.
    policy: under which the file was taken, "" where no file came.
    detail: plain JSON values.
    """

    action: str
    expert: str = ""
    version: int = 0
    sha256: str = ""
    signer: str = ""
    policy: str = ""
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """One line: the change, who made it and when, and the states before and after, by their manifests' SHA-256.

    outcome: "done"; "not done", because a kill came first; "unknown", because the bundle was changed without a record.
    """

    number: int
    time: str
    who: dict[str, Any]
    change: Change
    before: str
    after: str
    previous: str
    outcome: str = UNKNOWN


@dataclass(frozen=True)
class Journal:
    """What could be read: the records in their order, how many lines were torn, and where the chain is broken.

    torn: lines that are no records.
    broken: numbers of the records that do not follow from the one before them: a line was altered or taken out.
    """

    records: tuple[Record, ...]
    torn: int = 0
    broken: tuple[int, ...] = ()


def append(folder: Path, change: Change, before: str, after: str) -> None:
    """Write a record and wait until the disk has it; the caller holds the bundle's lock.

    Raises:
        OSError: the disk refused; the journal is as it was.
        BundleError: the journal is no plain file.
    """
    path = folder / JOURNAL
    descriptor = os.open(
        path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666
    )
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(f"bundle {named(folder)} has a {JOURNAL} that is not a plain file; move it away")
        tail = _tail(descriptor, status.st_size)
        last, text = _last_record(tail)
        who = asdict(Owner.me())
        del who["since"]
        values = {
            "number": last + 1,
            "time": now(),
            "who": who,
            "change": asdict(change),
            "before": before,
            "after": after,
            "previous": hashlib.sha256(text).hexdigest() if text else "",
        }
        line = _line(values)
        # A torn line is ended, never cut off: whatever it was, it stays for whoever looks into it.
        _write(descriptor, status.st_size, line if tail[-1:] in (b"", b"\n") else b"\n" + line)
        if not tail:
            sync_folder(folder)
    finally:
        os.close(descriptor)


def _line(values: dict[str, Any]) -> bytes:
    """A line that can be read again, short enough and all JSON: it leaves out details, never what was done."""
    change, line = values["change"], b""
    single = {key: value for key, value in change["detail"].items() if not isinstance(value, (dict, list))}
    for detail in (change["detail"], single, {}):
        kept = {**values, "change": {**change, "detail": detail}}
        try:
            line = json.dumps(kept, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        except ValueError:
            continue
        if len(line) <= MAX_LINE:
            break
    return line


def _write(descriptor: int, size: int, data: bytes) -> None:
    try:
        written = 0
        while written < len(data):
            written += os.write(descriptor, data[written:])
        os.fsync(descriptor)
    except BaseException:
        # This record's own bytes only: the change it tells of is not made.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, size)
        raise


def read_journal(folder: str | os.PathLike[str], state: str) -> Journal:
    """The journal of a bundle; an empty one where it has none.

    Args:
        folder: the bundle.
        state: SHA-256 of its manifest now.

    Raises:
        BundleError: it is no plain file or cannot be read.
    """
    path = Path(folder) / JOURNAL
    if not os.path.lexists(path):
        return Journal(())
    with opened_regular(path, 1 << 62, f"journal {named(path)}", BundleError) as descriptor:
        size = os.fstat(descriptor).st_size
        data = os.pread(descriptor, min(size, MAX_READ), max(0, size - MAX_READ))
    lines = data.split(b"\n")
    torn = 0
    if size > MAX_READ:
        lines = lines[1:]
    found: list[tuple[Record, bytes]] = []
    for line in lines:
        record = _record(line)
        if record is None:
            torn += bool(line)
        else:
            found.append((record, line))
    broken = [
        record.number
        for (record, _), (earlier, text) in zip(found[1:], found, strict=False)
        if record.previous != hashlib.sha256(text).hexdigest() or record.number != earlier.number + 1
    ]
    if found and size <= MAX_READ and found[0][0].previous:
        broken.insert(0, found[0][0].number)
    following = [*(record.before for record, _ in found[1:]), state][: len(found)]
    records = (
        Record(**{**vars(record), "outcome": _outcome(record, then)})
        for (record, _), then in zip(found, following, strict=True)
    )
    return Journal(tuple(records), torn, tuple(broken))


def _outcome(record: Record, then: str) -> str:
    if then == record.after:
        return DONE
    return NOT_DONE if then == record.before else UNKNOWN


def _tail(descriptor: int, size: int) -> bytes:
    """Enough of the end to hold the last record whole, behind any number of torn ones that fit."""
    wanted = min(size, 8 * MAX_LINE)
    return os.pread(descriptor, wanted, size - wanted)


def _last_record(tail: bytes) -> tuple[int, bytes]:
    for line in reversed(tail.split(b"\n")):
        record = _record(line)
        if record is not None:
            return record.number, line
    return 0, b""


def _record(line: bytes) -> Record | None:
    if len(line) > MAX_LINE:
        return None
    try:
        values = parse_object(line)
        change = Change(**values.pop("change"))
        record = Record(**values, change=change)
    except (TypeError, ValueError, KeyError):
        return None
    texts = (record.time, change.action, change.expert, change.signer, change.policy)
    states = (record.before, record.after)
    whole = (
        type(record.number) is int
        and record.number > 0
        and type(change.version) is int
        and isinstance(record.who, dict)
        and isinstance(change.detail, dict)
        and all(isinstance(text, str) and text.isprintable() for text in texts)
        and all(isinstance(text, str) and SHA256.fullmatch(text) for text in states)
        and all(
            isinstance(text, str) and SHA256.fullmatch(text or "0" * 64) for text in (change.sha256, record.previous)
        )
        and record.outcome == UNKNOWN
    )
    return record if whole else None
