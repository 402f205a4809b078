"""MCAP records: their layout in bytes, and what a file's schema and channel records say."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from mile_edge.data.storage.records import Channel
from mile_edge.data.storage.segments import Segment

MAGIC = b"\x89MCAP0\r\n"
FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, MESSAGE_INDEX, CHUNK_INDEX = 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08
STATISTICS = 0x0B

HEAD = struct.Struct("<BQ")
MESSAGE_HEAD = struct.Struct("<HIQQ")
# Shortest content of each record; anything below is no record.
LEAST = {1: 8, 2: 20, 3: 14, 4: 16, 5: 22, 6: 40, 7: 6, 8: 64, 9: 32, 10: 52, 11: 46, 12: 8, 13: 20, 14: 17, 15: 4}
_SYNTAX = {"ros2msg": "msg", "ros1msg": "msg", "ros2idl": "idl", "omgidl": "idl"}


@dataclass
class Layout:
    """What is known of an MCAP file; filled while it is scanned.

    Attributes:
        schemas: schema id to (type name, encoding, definition).
        channels: channel id to its description.
        segments: where the messages lie. One of length -1 stands for damage that the scan stepped over.
        indexed: the layout came from the file's summary.
        closed: the file has a footer.
    """

    schemas: dict[int, tuple[str, str, str]] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    segments: list[Segment] = field(default_factory=list)
    indexed: bool = False
    closed: bool = False

    def learn(self, op: int, content: memoryview) -> None:
        """Take in a schema or channel record; a damaged one is ignored, which shows as an unknown channel later."""
        try:
            if op == SCHEMA:
                (key,) = struct.unpack_from("<H", content)
                name, at = text_at(content, 2)
                encoding, at = text_at(content, at)
                definition, _ = text_at(content, at)
                self.schemas.setdefault(key, (name, encoding, definition))
            elif op == CHANNEL:
                key, schema = struct.unpack_from("<HH", content)
                topic, at = text_at(content, 4)
                encoding, _ = text_at(content, at)
                name, syntax, definition = self.schemas.get(schema, ("", "", ""))
                self.channels.setdefault(key, Channel(topic, name, definition, _SYNTAX.get(syntax, ""), encoding))
        except (struct.error, UnicodeDecodeError):
            return


def records_in(buffer: memoryview) -> Iterator[tuple[int, memoryview] | None]:
    """Yield (op, content) for each record in a chunk's bytes, and None last if it ends in something that is none."""
    at = 0
    while at < len(buffer):
        if len(buffer) - at < HEAD.size:
            yield None
            return
        op, length = HEAD.unpack_from(buffer, at)
        at += HEAD.size
        if length > len(buffer) - at or length < LEAST.get(op, 0) or op == 0:
            yield None
            return
        yield op, buffer[at : at + length]
        at += length


def parse_message(content: memoryview) -> tuple[int, int, memoryview]:
    """Split a message record into channel id, log time in nanoseconds, and the serialised message."""
    channel, _, log_time, _ = MESSAGE_HEAD.unpack_from(content)
    return channel, log_time, content[MESSAGE_HEAD.size :]


def text_at(content: memoryview, at: int) -> tuple[str, int]:
    """Read a string with its length before it; give it and where it ends.

    Raises:
        struct.error: the record ends first.
        UnicodeDecodeError: it is no UTF-8.
    """
    (length,) = struct.unpack_from("<I", content, at)
    end = at + 4 + length
    if end > len(content):
        raise struct.error
    return str(content[at + 4 : end], "utf-8"), end
