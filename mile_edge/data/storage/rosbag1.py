"""ROS 1 bag files, whole or damaged, as a stream of records."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mile_edge.data.storage.chunked import ChunkedStorage
from mile_edge.data.storage.rosbag1_scan import CONNECTION, MESSAGE, Layout, number, read_layout, rows_in, time_of
from mile_edge.data.storage.segments import Segment


class Rosbag1Storage(ChunkedStorage[Layout]):
    """An open ROS 1 bag file.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, read_layout)

    def _learned(self, raw: memoryview, segment: Segment) -> Segment:
        times = []
        for item in rows_in(raw):
            if item is not None and item[0].op == CONNECTION:
                self._layout.learn(item[0].fields, bytes(item[1]))
            elif item is not None and len(item[0].fields.get(b"time", b"")) == 8:
                times.append(time_of(item[0].fields[b"time"]))
        if segment.counts is None and times:
            return replace(segment, start=min(times), end=max(times))
        return segment

    def _messages(self, raw: memoryview) -> Iterator[tuple[int, int, bytes | memoryview] | None]:
        for item in rows_in(raw):
            if item is None:
                yield None
            elif item[0].op == MESSAGE:
                try:
                    key, time = number(item[0].fields[b"conn"]), time_of(item[0].fields[b"time"])
                except (KeyError, struct.error):
                    continue
                yield key, time, item[1]
