"""MCAP files, whole or damaged, as a stream of records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mile_edge.data.storage.chunked import ChunkedStorage
from mile_edge.data.storage.mcap_records import MESSAGE, Layout, parse_message, records_in
from mile_edge.data.storage.mcap_scan import read_layout, stored_crc
from mile_edge.data.storage.segments import Segment


class McapStorage(ChunkedStorage[Layout]):
    """An open MCAP file.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, read_layout)

    def _raw(self, segment: Segment) -> memoryview:
        if self._layout.indexed:
            segment = replace(segment, crc=stored_crc(self._file, segment))
        return super()._raw(segment)

    def _learned(self, raw: memoryview, segment: Segment) -> Segment:
        for record in records_in(raw):
            if record is not None and record[0] != MESSAGE:
                self._layout.learn(*record)
        return segment

    def _messages(self, raw: memoryview) -> Iterator[tuple[int, int, bytes | memoryview] | None]:
        for record in records_in(raw):
            if record is None:
                yield None
            elif record[0] == MESSAGE:
                yield parse_message(record[1])
            else:
                self._layout.learn(*record)
