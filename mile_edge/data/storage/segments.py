"""Segments: the stretches of a chunked bag file that are read and decompressed at once."""

from __future__ import annotations

import bz2
import heapq
import sys
import zlib
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from lz4.frame import LZ4FrameDecompressor

from mile_edge.data.storage.records import DAMAGED_CHUNK, DAMAGED_RECORD, UNKNOWN_COMPRESSION, Record, add_loss

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# A chunk of a real bag holds a few MiB, at most one message of the largest image; what claims more is damaged, or made
# to fill the memory.
MAX_CHUNK = 256 << 20
# Records that stand outside any chunk are read in stretches of about this many bytes.
STRETCH = 1 << 20
COMPRESSIONS = ("zstd", "lz4", "bz2")


class DamagedError(Exception):
    """A segment's bytes cannot be turned into records; never leaves this package."""


@dataclass(frozen=True)
class Segment:
    """Where one stretch of records lies in the file.

    Attributes:
        offset, length: the stored bytes in the file.
        compression: "", "zstd", "lz4" or "bz2".
        size: bytes after decompression.
        start, end: bag time of its first and last message, nanoseconds.
        counts: messages per channel id, None where the file does not say.
        crc: CRC-32 of the decompressed bytes, 0 where the file has none.
        cut: the file ends inside this segment.
    """

    offset: int
    length: int
    compression: str
    size: int
    start: int
    end: int
    counts: Mapping[int, int] | None
    crc: int = 0
    cut: bool = False


def read_segment(file: BinaryIO, segment: Segment) -> memoryview:
    """Read and decompress a segment: all of it, or what is there of one that the file's end cuts.

    Raises:
        DamagedError: the bytes are missing, do not decompress, or fail their checksum.
    """
    if segment.size > MAX_CHUNK or not 0 <= segment.length <= MAX_CHUNK:
        raise DamagedError
    file.seek(segment.offset)
    data = file.read(segment.length)
    if len(data) != segment.length:
        raise DamagedError
    raw = _decompress(data, segment)
    if segment.cut:
        return memoryview(raw)
    if len(raw) != segment.size or (segment.crc and zlib.crc32(raw) != segment.crc):
        raise DamagedError
    return memoryview(raw)


def is_known(segment: Segment) -> bool:
    """Whether a segment is of a compression that is read here; damage may have made its name another."""
    return segment.compression in ("", "none", *COMPRESSIONS)


def _decompress(data: bytes, segment: Segment) -> bytes:
    if segment.compression in ("", "none"):
        return data
    # One byte more than declared, so that a chunk which holds more is seen to disagree with its header.
    limit = segment.size + 1
    try:
        if segment.compression == "zstd":
            return bytes(zstd.ZstdDecompressor().decompress(data, limit))
        if segment.compression == "lz4":
            return bytes(LZ4FrameDecompressor().decompress(data, limit))
        if segment.compression == "bz2":
            return bz2.BZ2Decompressor().decompress(data, limit)
    except (zstd.ZstdError, RuntimeError, OSError, EOFError, ValueError, MemoryError):
        pass
    raise DamagedError


def count_unread(segment: Segment, found: int, wanted: Collection[int], whole: bool, losses: Counter[str]) -> None:
    """Count what a segment should have held on the wanted channel ids and did not give.

    Args:
        segment: the segment that was read.
        found: records that it gave on the wanted channels.
        wanted: ids of the wanted channels.
        whole: its bytes decompressed, so that single records in it are damaged and not all of it.
        losses: counted into.
    """
    reason = DAMAGED_RECORD if whole else DAMAGED_CHUNK if is_known(segment) else UNKNOWN_COMPRESSION
    if segment.cut:
        # Counted when it is read: how much the file's end took is not known.
        return
    if segment.counts is None:
        add_loss(losses, reason)
    else:
        add_loss(losses, reason, sum(segment.counts.get(channel, 0) for channel in wanted) - found)


def in_time_order(segments: Collection[Segment], load: Callable[[Segment], list[Record]]) -> Iterator[Record]:
    """Yield the records of all segments by time, holding only segments that overlap in time in memory."""
    waiting = deque(sorted(segments, key=lambda segment: segment.start))
    heap: list[tuple[int, int, Record, Iterator[Record]]] = []
    serial = 0

    def push(rest: Iterator[Record], order: int) -> None:
        record = next(rest, None)
        if record is not None:
            # The serial number keeps the file's order for equal times, and keeps records from being compared.
            heapq.heappush(heap, (record.time, order, record, rest))

    while waiting or heap:
        while waiting and (not heap or waiting[0].start <= heap[0][0]):
            records = load(waiting.popleft())
            records.sort(key=lambda record: record.time)
            serial += 1
            push(iter(records), serial)
        if heap:
            _, order, record, rest = heapq.heappop(heap)
            yield record
            push(rest, order)


def unpack_message(data: bytes | memoryview) -> bytes:
    """Decompress one zstd-compressed message.

    Raises:
        ValueError: it does not decompress.
    """
    try:
        return bytes(zstd.ZstdDecompressor().decompress(data, MAX_CHUNK))
    except (zstd.ZstdError, EOFError) as problem:
        raise ValueError("a compressed message is damaged") from problem


class UnpackedFile:
    """A zstd-compressed file as far as shutil.copyfileobj needs one; what follows damage is given up, not raised."""

    def __init__(self, packed: BinaryIO) -> None:
        self._stream = zstd.open(packed, "rb")

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes, none at the end or from where it is damaged."""
        try:
            return bytes(self._stream.read(size))
        except (zstd.ZstdError, EOFError, OSError):
            return b""
