"""The layout of a ROS 1 bag file (version 2.0): its connections and segments, from its index or by a scan."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import BinaryIO, NamedTuple

from rosbags.typesys.msg import normalize_msgtype

from mile_edge.data.storage.records import Channel
from mile_edge.data.storage.segments import MAX_CHUNK, STRETCH, Segment

MAGIC = b"#ROSBAG V2.0\n"
MESSAGE, BAG_HEADER, INDEX, CHUNK, CHUNK_INFO, CONNECTION = 2, 3, 4, 5, 6, 7

_U32 = struct.Struct("<I")
_TIME = struct.Struct("<II")
_MAX_HEADER = 1 << 20
_OP_FIELD = re.compile(rb"\x04\x00\x00\x00op=[\x02-\x07]")


class Row(NamedTuple):
    """One record of the file: its operation, its header's fields, and where its data lies."""

    op: int
    fields: dict[bytes, bytes]
    at: int
    length: int


@dataclass
class Layout:
    """What is known of a ROS 1 bag; filled while it is scanned.

    Attributes:
        channels: connection id to its description.
        segments: where the messages lie. One of length -1 stands for damage that the scan stepped over.
        closed: the file has an index.
    """

    channels: dict[int, Channel] = field(default_factory=dict)
    segments: list[Segment] = field(default_factory=list)
    closed: bool = False

    def learn(self, fields: dict[bytes, bytes], data: bytes) -> None:
        """Take in a connection record; a damaged one is ignored, which shows as an unknown connection later."""
        inner = _fields(data)
        try:
            topic = inner.get(b"topic", fields[b"topic"]).decode()
            msgtype = str(normalize_msgtype(inner[b"type"].decode()))
            definition = inner[b"message_definition"].decode("utf-8", "replace")
            key = number(fields[b"conn"])
        except (KeyError, UnicodeDecodeError, struct.error, ValueError):
            return
        self.channels.setdefault(key, Channel(topic, msgtype, definition, "msg", "ros1"))


def number(raw: bytes) -> int:
    """Unpack a 32-bit field."""
    return int(_U32.unpack(raw)[0])


def time_of(raw: bytes) -> int:
    """Unpack a time field to nanoseconds."""
    seconds, nanoseconds = _TIME.unpack(raw)
    return int(seconds * 1_000_000_000 + nanoseconds)


def read_layout(file: BinaryIO, size: int) -> Layout:
    """Find the connections and segments of a ROS 1 bag file of `size` bytes."""
    return _from_index(file, size) or _from_scan(file, size)


def rows_in(buffer: memoryview) -> Iterator[tuple[Row, memoryview] | None]:
    """Yield each record of a chunk with its data, and None last if it ends in something that is none."""
    at = 0
    while at < len(buffer):
        header = number(bytes(buffer[at : at + 4])) if at + 4 <= len(buffer) else 0
        row = _row(bytes(buffer[at : at + 8 + min(header, _MAX_HEADER)]), at, len(buffer))
        if row is None:
            yield None
            return
        yield row, buffer[row.at : row.at + row.length]
        at = row.at + row.length


def _from_index(file: BinaryIO, size: int) -> Layout | None:
    """The layout by the index at the file's end, None where there is none or it does not hold together."""
    first = _row_at(file, len(MAGIC), size)
    if first is None or first.op != BAG_HEADER:
        return None
    try:
        at = struct.unpack("<Q", first.fields[b"index_pos"])[0]
        chunks = number(first.fields[b"chunk_count"])
    except (KeyError, struct.error):
        return None
    if not len(MAGIC) < at < size:
        return None
    layout = Layout(closed=True)
    while at < size:
        row = _row_at(file, at, size)
        if row is None:
            return None
        file.seek(row.at)
        data = file.read(row.length)
        if row.op == CONNECTION:
            layout.learn(row.fields, data)
        elif row.op == CHUNK_INFO:
            segment = _listed_segment(file, row.fields, data, size)
            if segment is None:
                return None
            layout.segments.append(segment)
        at = row.at + row.length
    return layout if len(layout.segments) == chunks else None


def _listed_segment(file: BinaryIO, fields: dict[bytes, bytes], data: bytes, size: int) -> Segment | None:
    try:
        at = struct.unpack("<Q", fields[b"chunk_pos"])[0]
        start, end = time_of(fields[b"start_time"]), time_of(fields[b"end_time"])
        counts = dict(struct.iter_unpack("<II", data))
    except (KeyError, struct.error):
        return None
    chunk = _row_at(file, at, size)
    if chunk is None or chunk.op != CHUNK:
        # The chunk's own header is damaged: its messages are lost, and known by number.
        return Segment(at, -1, "", 0, start, end, counts)
    return _chunk(chunk, start, end, counts)


def _chunk(row: Row, start: int, end: int, counts: dict[int, int] | None) -> Segment:
    compression = row.fields.get(b"compression", b"?").decode("ascii", "replace")
    raw = row.fields.get(b"size", b"")
    return Segment(row.at, row.length, compression, number(raw) if len(raw) == 4 else 0, start, end, counts)


def _from_scan(file: BinaryIO, size: int) -> Layout:
    layout = Layout()
    at = len(MAGIC)
    loose: list[Row] = []
    while at < size:
        row = _row_at(file, at, size)
        if row is None or row.op != MESSAGE or (loose and at - loose[0].at > STRETCH):
            _close_stretch(loose, layout)
        if row is None:
            at = _resync(file, at, size, layout)
            continue
        if row.op == MESSAGE:
            loose.append(row._replace(at=at, length=row.at + row.length - at))
        elif row.op == CONNECTION:
            file.seek(row.at)
            layout.learn(row.fields, file.read(row.length))
        elif row.op == CHUNK:
            layout.segments.append(_chunk(row, 0, 0, None))
        elif row.op == INDEX and layout.segments:
            layout.segments[-1] = _with_index(file, row, layout.segments[-1])
        at = row.at + row.length
    _close_stretch(loose, layout)
    return layout


def _with_index(file: BinaryIO, row: Row, segment: Segment) -> Segment:
    """Add what an index record after a chunk says: how many messages of a connection, and when."""
    file.seek(row.at)
    data = file.read(row.length)
    try:
        key = number(row.fields[b"conn"])
        times = [time_of(data[place : place + 8]) for place in range(0, len(data), 12)]
    except (KeyError, struct.error):
        return segment
    if not times:
        return segment
    start = min(times) if segment.counts is None else min(segment.start, *times)
    counts = {**(segment.counts or {}), key: len(times)}
    return replace(segment, start=start, end=max(segment.end, *times), counts=counts)


def _close_stretch(loose: list[Row], layout: Layout) -> None:
    """Make one segment of messages that stand outside any chunk, as in a bag that was never closed."""
    if not loose:
        return
    try:
        times = [time_of(row.fields[b"time"]) for row in loose]
        keys = [number(row.fields[b"conn"]) for row in loose]
    except (KeyError, struct.error):
        times, keys = [0], []
    length = loose[-1].at + loose[-1].length - loose[0].at
    counts = {key: keys.count(key) for key in set(keys)} or None
    layout.segments.append(Segment(loose[0].at, length, "none", length, min(times), max(times), counts))
    loose.clear()


def _resync(file: BinaryIO, at: int, size: int, layout: Layout) -> int:
    """Find the next sound record after a damaged one, note the damage as a segment, and return where to go on."""
    cut = _cut_chunk(file, at, size)
    following = None if cut else _next_row(file, at + 1, size)
    layout.segments.append(cut or Segment(at, -1, "", 0, 0, 0, None, cut=following is None))
    return size if following is None else following


def _cut_chunk(file: BinaryIO, at: int, size: int) -> Segment | None:
    """The chunk that the file's end cuts, None where the record at `at` is no such chunk."""
    row = _row_at(file, at, size, cut=True)
    if row is None or row.op != CHUNK or row.at >= size:
        return None
    chunk = _chunk(row, 0, 0, None)
    # Its two sizes must agree: a length that damage made up is not just below what it decompresses to.
    if not chunk.size // 1000 <= chunk.length <= chunk.size + chunk.size // 8 + 256:
        return None
    return replace(chunk, length=size - row.at, cut=True)


def _next_row(file: BinaryIO, at: int, size: int) -> int | None:
    """The first place from `at` on where a sound record starts whose follower is sound too, or ends the file."""
    while at < size:
        file.seek(at)
        window = file.read(STRETCH + 512)
        for match in _OP_FIELD.finditer(window):
            # The field "op" stands behind at most a few short fields of its header.
            for back in range(4, min(match.start(), 256) + 1):
                place = match.start() - back
                length = _U32.unpack_from(window, place)[0]
                if not back + 4 <= length <= 512:
                    continue
                row = _row_at(file, at + place, size)
                if row is not None and _is_followed(file, row, size):
                    return at + place
        at += STRETCH
    return None


def _is_followed(file: BinaryIO, row: Row, size: int) -> bool:
    end = row.at + row.length
    return end == size or _row_at(file, end, size) is not None or _row_at(file, end, size, cut=True) is not None


def _row_at(file: BinaryIO, at: int, size: int, cut: bool = False) -> Row | None:
    if at >= size:
        return None
    file.seek(at)
    return _row(file.read(4096), at, size, cut)


def _row(head: bytes, at: int, size: int, cut: bool = False) -> Row | None:
    """Parse a record whose first bytes are `head`; None where it is none, or (unless `cut`) reaches beyond `size`."""
    if len(head) < 4:
        return None
    length = number(head[:4])
    if length > _MAX_HEADER or len(head) < 8 + length:
        return None
    fields = _fields(head[4 : 4 + length])
    op = fields.get(b"op", b"")
    if len(op) != 1 or not MESSAGE <= op[0] <= CONNECTION:
        return None
    data = number(head[4 + length : 8 + length])
    start = at + 8 + length
    if data > MAX_CHUNK or (start + data > size and not cut):
        return None
    return Row(op[0], fields, start, data)


def _fields(raw: bytes) -> dict[bytes, bytes]:
    """Parse `name=value` fields; what does not parse ends the list."""
    fields: dict[bytes, bytes] = {}
    at = 0
    while at + 4 <= len(raw):
        length = number(raw[at : at + 4])
        name, equals, value = raw[at + 4 : at + 4 + length].partition(b"=")
        if not equals or at + 4 + length > len(raw):
            break
        fields[name] = value
        at += 4 + length
    return fields
