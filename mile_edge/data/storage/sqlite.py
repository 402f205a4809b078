"""sqlite3 bag files, whole or damaged, as a stream of records."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from mile_edge.data.storage.records import CUT_SHORT, DAMAGED_ROW, Channel, Record, add_loss
from mile_edge.errors import BagError

_SYNTAX = {"ros2msg": "msg", "ros2idl": "idl"}


class SqliteStorage:
    """An open sqlite3 bag file.

    Rows are fetched one by one, so that a damaged page costs the rows on it and no more. Where the index by time is
    damaged too, the rows are read in the order in which they were recorded.

    Args:
        path: the file.

    Raises:
        BagError: it is no bag database, or its list of topics cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.notes: list[str] = []
        self._path = path
        self._connection = _connect(path)
        try:
            self._check_schema()
            self._channels = self._read_channels()
            counts = self._count_rows()
        except sqlite3.Error as problem:
            self._connection.close()
            raise BagError(
                f"The topics of '{path}' cannot be read ({_brief(problem)}); it is not a rosbag2 database, or its "
                "first pages are lost."
            ) from None
        self.channels: tuple[Channel, ...] = tuple(
            Channel(c.topic, c.msgtype, c.definition, c.syntax, c.encoding, counts.get(key, 0) if counts else None)
            for key, c in self._channels.items()
        )

    def records(self, topics: Collection[str], losses: Counter[str]) -> Iterator[Record]:
        """Yield the records of these topics in time order, counting by reason what cannot be read."""
        wanted = {key: channel for key, channel in self._channels.items() if channel.topic in topics}
        seen = bytearray()
        marks = ",".join("?" * len(wanted))
        query = f"SELECT id FROM messages WHERE topic_id IN ({marks}) ORDER BY timestamp"
        try:
            # Only ids are sorted: where the bag has no index by time, sorting the images would fill the memory.
            for (row,) in self._rows(query, tuple(wanted)):
                # A table that was made without a primary key, or damage, may give text or nothing for an id.
                if not isinstance(row, int):
                    add_loss(losses, DAMAGED_ROW)
                    continue
                _mark(seen, row)
                yield from self._fetch(row, wanted, losses)
        except sqlite3.DatabaseError:
            self.notes.append(f"{self._path.name} has a damaged index; the rest was read in the order of recording")
            yield from self._salvage(wanted, seen, losses)

    def close(self) -> None:
        """Release the file."""
        self._connection.close()

    def _fetch(self, row: int, wanted: dict[int, Channel], losses: Counter[str]) -> Iterator[Record]:
        try:
            found = next(self._rows("SELECT timestamp, topic_id, data FROM messages WHERE id = ?", (row,)), None)
        except sqlite3.DatabaseError:
            found = None
        if found is None or not isinstance(found[0], int) or not isinstance(found[2], bytes):
            add_loss(losses, DAMAGED_ROW)
        elif found[1] in wanted:
            yield Record(found[0], wanted[found[1]], found[2])

    def _salvage(self, wanted: dict[int, Channel], seen: bytearray, losses: Counter[str]) -> Iterator[Record]:
        """Walk the rows by id, stepping over what cannot be read."""
        row = 1
        size = self._path.stat().st_size
        # No row takes less than this many bytes, so no id beyond the quotient can exist in a recorded bag.
        last = max(8 * len(seen), size // 16)
        while row <= last:
            following, stepped_over = self._next_readable(row, last)
            if following is None:
                add_loss(losses, CUT_SHORT if size < _declared_size(self._path) else DAMAGED_ROW)
                return
            if stepped_over and following <= last:
                add_loss(losses, DAMAGED_ROW, sum(not _is_marked(seen, lost) for lost in range(row, following)))
            if following <= last and not _is_marked(seen, following):
                yield from self._fetch(following, wanted, losses)
            row = following + 1

    def _next_readable(self, row: int, last: int) -> tuple[int | None, bool]:
        """Find the next row to read.

        Returns:
            The first readable id from `row` on (`last + 1` at the end of the table, None where no more can be read),
            and whether damage lies before it.
        """
        probe, step = row, 1
        while True:
            try:
                readable = self._first_from(probe, last)
                break
            except sqlite3.DatabaseError:
                if probe + step > last:
                    return None, True
                probe += step
                step *= 2
        # The jumps grow, so the last one may have passed over readable rows.
        low, high = max(row, probe - step // 2 + 1), probe
        while low < high:
            middle = (low + high) // 2
            try:
                readable = self._first_from(middle, last)
                high = middle
            except sqlite3.DatabaseError:
                low = middle + 1
        return readable, probe > row

    def _first_from(self, row: int, last: int) -> int:
        query = "SELECT id FROM messages WHERE id >= ? AND typeof(id) = 'integer' ORDER BY id LIMIT 1"
        found = next(self._rows(query, (row,)), None)
        return last + 1 if found is None else int(found[0])

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        """The rows of a query; whatever damage makes of it is a `sqlite3.DatabaseError`."""
        try:
            # Not `yield from`: a generator that is dropped after the bag was closed would close the cursor, too late.
            for row in self._connection.execute(query, values):  # noqa: UP028
                yield row
        except (UnicodeDecodeError, OverflowError, MemoryError):
            # SQLite quotes the damaged schema in its message, which Python then fails to decode.
            raise sqlite3.DatabaseError("damaged") from None

    def _check_schema(self) -> None:
        """Refuse tables that are programs: a view or a computed column can run, or fill memory, for ever."""
        query = "SELECT type, sql FROM sqlite_master WHERE lower(name) IN ('topics', 'messages', 'message_definitions')"
        for kind, text in self._rows(query):
            if kind != "table" or re.search(r"\b(virtual|generated|as)\b", str(text), re.IGNORECASE):
                raise sqlite3.DatabaseError("its tables are views or computed")

    def _read_channels(self) -> dict[int, Channel]:
        definitions = self._read_definitions()
        rows = list(self._rows("SELECT id, name, type, serialization_format FROM topics ORDER BY id"))
        return {
            key: Channel(str(name), str(kind), *definitions.get(str(kind), ("", "")), str(encoding))
            for key, name, kind, encoding in rows
            if isinstance(key, int)
        }

    def _read_definitions(self) -> dict[str, tuple[str, str]]:
        try:
            rows = list(self._rows("SELECT topic_type, encoded_message_definition, encoding FROM message_definitions"))
        except sqlite3.Error:
            # Bags from before ROS 2 Iron have no such table, and a damaged one is as good as none.
            return {}
        return {str(kind): (str(text), _SYNTAX.get(syntax, "")) for kind, text, syntax in rows}

    def _count_rows(self) -> dict[int, int] | None:
        try:
            return dict(self._rows("SELECT topic_id, count(*) FROM messages GROUP BY topic_id"))
        except sqlite3.DatabaseError:
            # The first read of a missing table must fail as "not a bag", and of a damaged one must not fail.
            list(self._rows("SELECT id, topic_id, timestamp FROM messages LIMIT 0"))
            return None


def _connect(path: Path) -> sqlite3.Connection:
    # A recorder that was killed leaves a journal beside the file, which only a connection that may lock can replay;
    # otherwise nothing is locked or written, so that bags on read-only disks open.
    wal = path.with_name(path.name + "-wal")
    mode = "mode=ro" if wal.exists() and wal.stat().st_size else "immutable=1"
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True, check_same_thread=False)
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        if path.stat().st_size < _declared_size(path):
            # SQLite refuses every query on a file that is shorter than its header says, except under this setting.
            connection.execute("PRAGMA writable_schema=ON")
    except sqlite3.Error as problem:
        raise BagError(
            f"The bag file '{path}' cannot be opened ({_brief(problem)}); give a rosbag2 sqlite3 file."
        ) from None
    return connection


def _declared_size(path: Path) -> int:
    """Bytes that the database's own header says it has, 0 where the header is too short to say."""
    with path.open("rb") as file:
        header = file.read(32)
    if len(header) < 32:
        return 0
    page = int.from_bytes(header[16:18], "big")
    return (65536 if page == 1 else page) * int.from_bytes(header[28:32], "big")


def _mark(bits: bytearray, row: int) -> None:
    # One bit a row keeps a long bag's memory flat; ids of a recorded bag count up from 1.
    if 0 <= row < 1 << 28:
        if row >> 3 >= len(bits):
            bits.extend(bytes((row >> 3) + 1024 - len(bits)))
        bits[row >> 3] |= 1 << (row & 7)


def _is_marked(bits: bytearray, row: int) -> bool:
    return 0 <= row >> 3 < len(bits) and bool(bits[row >> 3] & 1 << (row & 7))


def _brief(problem: sqlite3.Error) -> str:
    # SQLite quotes the file's own text, line breaks and all.
    return " ".join(str(problem).split())[:200]
