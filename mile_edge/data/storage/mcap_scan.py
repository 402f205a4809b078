"""The layout of an MCAP file: its channels and segments, from its summary or, where that is missing, by a scan.

A recorder that is killed writes no summary and may stop in the middle of a chunk; a worn disk changes bytes anywhere.
So a scan walks from record to record without reading the chunks, and where a record makes no sense it looks for the
next place from which a chain of sound records follows.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import replace
from typing import BinaryIO

from mile_edge.data.storage.mcap_records import (
    CHANNEL,
    CHUNK,
    CHUNK_INDEX,
    FOOTER,
    HEAD,
    LEAST,
    MAGIC,
    MESSAGE,
    MESSAGE_HEAD,
    MESSAGE_INDEX,
    SCHEMA,
    STATISTICS,
    Layout,
    records_in,
    text_at,
)
from mile_edge.data.storage.segments import STRETCH, DamagedError, Segment, read_segment

_CHUNK = struct.Struct("<QQQII")
_CHUNK_INDEX = struct.Struct("<QQQQI")
# A look-ahead, so that overlapping candidates are all tried.
_CANDIDATE = re.compile(rb"(?=[\x01-\x0f].{4}\x00{4})", re.DOTALL)


def read_layout(file: BinaryIO, size: int) -> Layout:
    """Find the channels and segments of an MCAP file of `size` bytes."""
    return _from_summary(file, size) or _from_scan(file, size)


def stored_crc(file: BinaryIO, segment: Segment) -> int:
    """The checksum in a chunk's own header, which the file's index does not repeat; 0 for none."""
    file.seek(max(0, segment.offset - 16 - len(segment.compression)))
    head = file.read(4)
    return int.from_bytes(head, "little")


def _from_summary(file: BinaryIO, size: int) -> Layout | None:
    """The layout by the file's own index, None where there is none or it cannot be trusted."""
    tail = 9 + 20 + len(MAGIC)
    if size < len(MAGIC) + tail:
        return None
    file.seek(size - tail)
    footer = file.read(tail)
    op, length, start, _, crc = struct.unpack_from("<BQQQI", footer)
    if (op, length) != (FOOTER, 20) or not footer.endswith(MAGIC) or not len(MAGIC) <= start < size - tail:
        return None
    file.seek(start)
    summary = memoryview(file.read(size - tail - start))
    if crc and zlib.crc32(footer[:25], zlib.crc32(summary)) != crc:
        return None
    layout, chunks = Layout(indexed=True, closed=True), None
    for record in records_in(summary):
        if record is None:
            return None
        op, content = record
        layout.learn(op, content)
        if op == STATISTICS:
            (chunks,) = struct.unpack_from("<I", content, 22)
        elif op == CHUNK_INDEX:
            segment = _indexed_segment(content)
            if segment is None:
                return None
            layout.segments.append(segment)
    # Messages outside chunks are in no index, and an index may be left out: both need the scan.
    complete = bool(layout.segments) and chunks in (None, len(layout.segments)) and bool(layout.channels)
    return layout if complete and _is_in_place(file, layout.segments, size) else None


def _indexed_segment(content: memoryview) -> Segment | None:
    try:
        start, end, at, length, entries = _CHUNK_INDEX.unpack_from(content)
        places = sorted((offset, key) for key, offset in struct.iter_unpack("<HQ", content[36 : 36 + entries]))
        (index_length,) = struct.unpack_from("<Q", content, 36 + entries)
        compression, after = text_at(content, 44 + entries)
        stored, raw = struct.unpack_from("<QQ", content, after)
    except (struct.error, UnicodeDecodeError):
        return None
    ends = [*(offset for offset, _ in places[1:]), at + length + index_length][: len(places)]
    counts = {key: (stop - offset - 15) // 16 for (offset, key), stop in zip(places, ends, strict=True)}
    first = at + HEAD.size + _CHUNK.size + len(compression) + 8
    # A file may leave out its message indices: then the counts are not known rather than 0.
    return Segment(first, stored, compression, raw, start, end, counts or None)


def _is_in_place(file: BinaryIO, segments: list[Segment], size: int) -> bool:
    """Whether the last chunk is where the index says: bytes lost in the middle shift everything behind them."""
    last = max(segments, key=lambda segment: segment.offset)
    if last.offset + last.length > size:
        return False
    file.seek(last.offset - 8)
    return file.read(8) == struct.pack("<Q", last.length)


def _from_scan(file: BinaryIO, size: int) -> Layout:
    layout = Layout()
    stretch = _Stretch(layout)
    file.seek(0)
    at = len(MAGIC) if file.read(len(MAGIC)) == MAGIC else 0
    while at < size:
        op, length = _head(file, at, size)
        if op == FOOTER:
            layout.closed = True
            break
        if op == 0:
            stretch.end(at)
            at = _resync(file, _back_into_damage(file, at, layout), size, layout)
            continue
        content = at + HEAD.size
        if op == MESSAGE:
            file.seek(content)
            channel, _, log_time, _ = MESSAGE_HEAD.unpack(file.read(MESSAGE_HEAD.size))
            stretch.add(at, channel, log_time)
        else:
            stretch.end(at)
        if op == CHUNK:
            layout.segments.append(_chunk_at(file, content, length))
        elif op in (SCHEMA, CHANNEL):
            file.seek(content)
            layout.learn(op, memoryview(file.read(length)))
        elif op == MESSAGE_INDEX and layout.segments:
            file.seek(content)
            key, used = struct.unpack("<HI", file.read(6))
            last = layout.segments[-1]
            layout.segments[-1] = replace(last, counts={**(last.counts or {}), key: used // 16})
        at = content + length
    stretch.end(at)
    return layout


class _Stretch:
    """Gathers messages that stand outside chunks into segments of about `STRETCH` bytes."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._first = -1
        self._times: list[int] = []
        self._counts: dict[int, int] = {}

    def add(self, at: int, channel: int, time: int) -> None:
        if self._times and at - self._first > STRETCH:
            self.end(at)
        if not self._times:
            self._first = at
        self._times.append(time)
        self._counts[channel] = self._counts.get(channel, 0) + 1

    def end(self, at: int) -> None:
        if self._times:
            length = at - self._first
            times = self._times
            self._layout.segments.append(Segment(self._first, length, "", length, min(times), max(times), self._counts))
        self._times, self._counts = [], {}


def _head(file: BinaryIO, at: int, size: int) -> tuple[int, int]:
    """(op, content length) of the record at `at`, (0, 0) where there is no whole and sound record."""
    if size - at < HEAD.size:
        return 0, 0
    file.seek(at)
    op, length = HEAD.unpack(file.read(HEAD.size))
    if op == 0 or (0x0F < op < 0x80) or length < LEAST.get(op, 0) or length > size - at - HEAD.size:
        return 0, 0
    if op == CHUNK:
        segment = _chunk_at(file, at + HEAD.size, length)
        if segment.offset + segment.length != at + HEAD.size + length:
            return 0, 0
    return op, length


def _chunk_at(file: BinaryIO, content: int, length: int) -> Segment:
    """The segment of the chunk record with this content; its length is -1 where the header is damaged."""
    file.seek(content)
    head = file.read(min(length, _CHUNK.size + 64))
    try:
        start, end, raw, crc, name = _CHUNK.unpack_from(head)
        compression = head[_CHUNK.size : _CHUNK.size + name].decode()
        (stored,) = struct.unpack_from("<Q", head, _CHUNK.size + name)
    except (struct.error, UnicodeDecodeError):
        return Segment(content, -1, "", 0, 0, 0, None)
    return Segment(content + _CHUNK.size + name + 8, stored, compression, raw, start, end, None, crc)


def _back_into_damage(file: BinaryIO, at: int, layout: Layout) -> int:
    """Where damage that shows at `at` may have begun: a chunk that lost bytes reaches into the sound one behind it."""
    if not layout.segments or layout.segments[-1].offset + layout.segments[-1].length != at:
        return at
    try:
        if None not in records_in(read_segment(file, layout.segments[-1])):
            return at
    except DamagedError:
        pass
    return layout.segments.pop().offset


def _resync(file: BinaryIO, at: int, size: int, layout: Layout) -> int:
    """Step over what is no record: note the damage as a segment, and return where to go on."""
    cut = _cut_chunk(file, at, size)
    following = None if cut else _next_record(file, at + 1, size)
    layout.segments.append(cut or Segment(at, -1, "", 0, 0, 0, None, cut=following is None))
    return size if following is None else following


def _cut_chunk(file: BinaryIO, at: int, size: int) -> Segment | None:
    """The chunk that the file's end cuts, None where the record at `at` is no such chunk."""
    file.seek(at)
    head = file.read(HEAD.size)
    if len(head) < HEAD.size or head[0] != CHUNK:
        return None
    _, length = HEAD.unpack(head)
    chunk = _chunk_at(file, at + HEAD.size, _CHUNK.size + 64)
    # Both of its lengths must agree: damage in the middle of a file does not change them together.
    if chunk.offset + chunk.length != at + HEAD.size + length or chunk.offset >= size:
        return None
    return replace(chunk, length=size - chunk.offset, cut=True)


def _next_record(file: BinaryIO, at: int, size: int) -> int | None:
    """The first place from `at` on where three sound records follow each other, or fewer up to the footer."""
    while at < size:
        file.seek(at)
        window = file.read(STRETCH + HEAD.size)
        for match in _CANDIDATE.finditer(window):
            if _is_chain(file, at + match.start(), size):
                return at + match.start()
        at += STRETCH
    return None


def _is_chain(file: BinaryIO, at: int, size: int, links: int = 3) -> bool:
    for _ in range(links):
        op, length = _head(file, at, size)
        if op == 0 or op > 0x0F:
            return False
        at += HEAD.size + length
        if op == FOOTER or at == size:
            return True
    return True
