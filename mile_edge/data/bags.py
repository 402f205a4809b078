"""Bags: recorded messages of ROS 2 (MCAP, sqlite3) and ROS 1, read without ROS, damaged ones as far as they go.

A bag is a folder as rosbag2 writes it, with or without a usable `metadata.yaml`, or one file of it. Messages stream in
time order, so that memory does not grow with the bag; what cannot be read is counted in `Bag.losses` by reason.
"""

from __future__ import annotations

import heapq
import os
import re
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

from mile_edge.data.definitions import Definitions
from mile_edge.data.storage.mcap import McapStorage
from mile_edge.data.storage.mcap_records import MAGIC as MCAP_MAGIC
from mile_edge.data.storage.records import Record, Storage, add_loss
from mile_edge.data.storage.rosbag1 import Rosbag1Storage
from mile_edge.data.storage.rosbag1_scan import MAGIC as ROSBAG1_MAGIC
from mile_edge.data.storage.segments import UnpackedFile, unpack_message
from mile_edge.data.storage.sqlite import SqliteStorage
from mile_edge.errors import BagError
from mile_edge.yaml_file import read_yaml

UNPARSED = "message that does not parse"
MISSING_FILE = "bag file listed in metadata.yaml but missing"
UNREADABLE_FILE = "bag file that cannot be read"

# What unpacking leaves free on the disk of temporary files.
_KEPT_FREE = 512 << 20
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_MAGICS: tuple[tuple[bytes, str], ...] = (
    (MCAP_MAGIC, ".mcap"),
    (b"SQLite format 3\0", ".db3"),
    (ROSBAG1_MAGIC, ".bag"),
    (_ZSTD_MAGIC, ".zstd"),
)
_STORAGES: dict[str, Callable[[Path], Storage]] = {
    ".mcap": McapStorage,
    ".db3": SqliteStorage,
    ".bag": Rosbag1Storage,
}
_SUFFIXES = (*_STORAGES, ".zstd", ".active")


@dataclass(frozen=True)
class BagTopic:
    """A topic of a bag: its name, its type as "package/msg/Type", and its messages (None where not known).

    A damaged or merged bag may record a topic under further types; these are in `others`.
    """

    name: str
    msgtype: str
    count: int | None
    others: tuple[str, ...] = ()

    @property
    def msgtypes(self) -> tuple[str, ...]:
        """Every type of its messages."""
        return (self.msgtype, *self.others)


class BagMessage(NamedTuple):
    """One message: its topic, bag time in nanoseconds, type, and fields as attributes (arrays as numpy arrays)."""

    topic: str
    time: int
    msgtype: str
    value: Any


class Bag:
    """An open bag. Use `Bag.open`, and close it or use it as a context manager.

    Attributes:
        path: as it was given.
        topics: name to description.
        losses: reason to count of what could not be read so far; complete once `messages` has run out.
    """

    def __init__(self, path: Path, storages: list[Storage], stack: ExitStack, losses: Counter[str]) -> None:
        self.path = path
        self.losses = losses
        self._storages = storages
        self._stack = stack
        self._definitions = Definitions()
        self.topics = _merge_topics(storages)

    @classmethod
    def open(cls, path: Path | str) -> Bag:
        """Open a bag.

        Args:
            path: a bag folder, or one .mcap, .db3 or .bag file, zstd-compressed or not.

        Raises:
            BagError: nothing there can be read as a bag.
        """
        path = Path(path)
        losses: Counter[str] = Counter()
        files = _files_of(path, losses)
        problems: list[str] = []
        with ExitStack() as stack:
            storages: list[Storage] = []
            for file in files:
                try:
                    storage = _open_storage(file, stack)
                except BagError as problem:
                    problems.append(str(problem))
                    add_loss(losses, UNREADABLE_FILE)
                    continue
                stack.callback(storage.close)
                storages.append(storage)
            if not storages:
                raise BagError(
                    problems[0] if problems else f"The bag '{path}' names no file that exists; copy it again."
                )
            bag = cls(path, storages, stack.pop_all(), losses)
        if not bag.topics:
            bag.close()
            raise BagError(f"The bag '{path}' holds no topics; it is empty, or too damaged to read.")
        return bag

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on how the bag had to be read."""
        # A storage that is read twice may say the same twice.
        return tuple(dict.fromkeys(note for storage in self._storages for note in storage.notes))

    def messages(self, topics: Collection[str] | None = None) -> Iterator[BagMessage]:
        """Yield messages in the order of bag time.

        A message that cannot be read or parsed is left out and counted in `losses`.

        Args:
            topics: only these; all when None.
        """
        return self._read(frozenset(self.topics if topics is None else topics), self.losses)

    def first(self, topic: str) -> BagMessage | None:
        """A topic's first message that can be read, None where it has none; nothing is counted in `losses`."""
        if self.topics[topic].count == 0:
            return None
        return next(self._read(frozenset([topic]), Counter()), None)

    def _read(self, wanted: frozenset[str], losses: Counter[str]) -> Iterator[BagMessage]:
        streams = [storage.records(wanted, losses) for storage in self._storages]
        for record in heapq.merge(*streams, key=lambda record: record.time):
            try:
                value = self._definitions.parse(record.channel, _plain(record))
            except Exception:  # damaged bytes raise whatever the parser stumbles over
                add_loss(losses, UNPARSED)
                continue
            yield BagMessage(record.channel.topic, record.time, record.channel.msgtype, value)

    def close(self) -> None:
        """Release the files."""
        self._stack.close()

    def __enter__(self) -> Bag:
        """Return the bag itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bag."""
        self.close()


def _merge_topics(storages: Collection[Storage]) -> dict[str, BagTopic]:
    topics: dict[str, BagTopic] = {}
    for channel in (channel for storage in storages for channel in storage.channels):
        known = topics.get(channel.topic)
        if known is None:
            topics[channel.topic] = BagTopic(channel.topic, channel.msgtype, channel.count)
        else:
            total = None if known.count is None or channel.count is None else known.count + channel.count
            types = tuple(dict.fromkeys(filter(None, (*known.msgtypes, channel.msgtype))))
            topics[channel.topic] = BagTopic(channel.topic, types[0] if types else "", total, types[1:])
    return dict(sorted(topics.items()))


def _plain(record: Record) -> bytes | memoryview:
    # rosbag2 can compress each message; no CDR message starts with zstd's magic, its first byte being 0.
    if record.channel.encoding == "cdr" and record.data[:4] == _ZSTD_MAGIC:
        return unpack_message(record.data)
    return record.data


def bag_entries(path: Path) -> list[Path]:
    """What lies at a bag's path: the file itself, or all that its folder holds, by name.

    Raises:
        BagError: it is neither, or may not be read.
    """
    remedy = "give a bag folder or a .mcap, .db3 or .bag file"
    try:
        kind = path.stat().st_mode
        if stat.S_ISREG(kind):
            return [path]
        if stat.S_ISDIR(kind):
            return sorted(path.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        raise BagError(f"The bag '{path}' does not exist; {remedy}.") from None
    except (OSError, ValueError) as problem:
        reason = (getattr(problem, "strerror", None) or str(problem)).lower()
        raise BagError(f"The bag '{path}' cannot be read ({reason}); check its permissions, or {remedy}.") from None
    raise BagError(f"The bag '{path}' is neither a file nor a folder; {remedy}.")


def _files_of(path: Path, losses: Counter[str]) -> list[Path]:
    entries = bag_entries(path)
    if entries == [path]:
        return [path]
    listed = _listed_files(path)
    if listed:
        present = [file for file in listed if os.path.isfile(file)]  # noqa: PTH113
        add_loss(losses, MISSING_FILE, len(listed) - len(present))
        if present:
            return present
    found = sorted((file for file in entries if file.suffix in _SUFFIXES and file.is_file()), key=_natural)
    if not found:
        raise BagError(f"The folder '{path}' holds no bag; it needs a .mcap, .db3 or .bag file.")
    return found


def _listed_files(path: Path) -> list[Path]:
    """The files that metadata.yaml lists, none where it is missing or broken: it is rewritten last, and lost first."""
    try:
        metadata = read_yaml(path / "metadata.yaml", "bag metadata", BagError)
        names = metadata["rosbag2_bagfile_information"]["relative_file_paths"]
        # Only the name counts: old bags list a path from elsewhere, and a hostile one could leave the folder.
        return [path / PurePosixPath(name).name for name in names]
    except (BagError, KeyError, TypeError, ValueError):
        return []


def _natural(file: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", file.name)]


def _open_storage(path: Path, stack: ExitStack) -> Storage:
    try:
        with path.open("rb") as file:
            head = file.read(16)
        kind = next((suffix for magic, suffix in _MAGICS if head.startswith(magic)), None)
        if kind == ".zstd":
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mile-edge-bag-")))
            plain = folder / path.name.removesuffix(".zstd")
            with path.open("rb") as packed, plain.open("wb") as target:
                _unpack(UnpackedFile(packed), target, path, folder)
            return _open_unpacked(plain, path, stack)
        # A damaged first page may hide the magic: then the name decides.
        opener = _STORAGES.get(kind or path.suffix)
        if opener is None or not head:
            raise BagError(f"The file '{path}' is not a bag; give a .mcap, .db3 or .bag file (ROS 1: version 2.0).")
        return opener(path)
    except (OSError, EOFError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) and problem.strerror else "it is damaged"
        raise BagError(f"The bag file '{path}' cannot be read: {reason}.") from None


def _open_unpacked(plain: Path, path: Path, stack: ExitStack) -> Storage:
    try:
        return _open_storage(plain, stack)
    except BagError as problem:
        # The copy is gone when this is read, and nobody has ever heard of it.
        raise BagError(str(problem).replace(str(plain), str(path))) from None


def _unpack(packed: UnpackedFile, target: BinaryIO, path: Path, folder: Path) -> None:
    """Unpack a file, and give up before it fills the disk: a few kilobytes can unpack to terabytes."""
    room = shutil.disk_usage(folder).free - _KEPT_FREE
    while piece := packed.read(1 << 20):
        room -= len(piece)
        if room < 0:
            raise BagError(
                f"The bag file '{path}' unpacks to more than the disk of '{folder.parent}' can hold; make room "
                "there, or unpack it yourself with zstd."
            )
        target.write(piece)
