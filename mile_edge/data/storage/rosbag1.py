"""ROS 1 bag files, whole or damaged, as a stream of records."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from mile_edge.data.storage.records import CUT_SHORT, UNKNOWN_CHANNEL, Channel, Record, add_loss
from mile_edge.data.storage.rosbag1_scan import CONNECTION, MESSAGE, number, read_layout, rows_in, time_of
from mile_edge.data.storage.segments import DamagedError, Segment, count_unread, in_time_order, read_segment


class Rosbag1Storage:
    """An open ROS 1 bag file.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._layout = read_layout(self._file, path.stat().st_size)
        self.notes: list[str] = []
        if not self._layout.closed:
            self.notes.append(f"{path.name} was not closed by its recorder and has no index; it was read by a scan")
        self._look_into_segments()
        counts: Counter[int] = Counter()
        for segment in self._layout.segments:
            counts.update(segment.counts or {})
        known = all(segment.counts is not None for segment in self._layout.segments)
        self.channels: tuple[Channel, ...] = tuple(
            replace(channel, count=counts[key] if known else None) for key, channel in self._layout.channels.items()
        )

    def records(self, topics: Collection[str], losses: Counter[str]) -> Iterator[Record]:
        """Yield the records of these topics in time order, counting by reason what cannot be read."""
        yield from in_time_order(self._layout.segments, lambda segment: self._load(segment, topics, losses))

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def _load(self, segment: Segment, topics: Collection[str], losses: Counter[str]) -> list[Record]:
        channels = self._layout.channels
        wanted = {key for key, channel in channels.items() if channel.topic in topics}
        if segment.counts is not None:
            add_loss(losses, UNKNOWN_CHANNEL, sum(n for key, n in segment.counts.items() if key not in channels))
            if not wanted.intersection(segment.counts):
                return []
        add_loss(losses, CUT_SHORT, int(segment.cut))
        try:
            raw = read_segment(self._file, segment)
        except DamagedError:
            count_unread(segment, 0, wanted, False, losses)
            return []
        found: list[Record] = []
        for item in rows_in(raw):
            if item is None:
                count_unread(segment, len(found), wanted, True, losses)
            elif item[0].op == MESSAGE:
                try:
                    key, time = number(item[0].fields[b"conn"]), time_of(item[0].fields[b"time"])
                except (KeyError, struct.error):
                    continue
                if key in wanted:
                    found.append(Record(time, channels[key], item[1]))
                elif segment.counts is None and key not in channels:
                    add_loss(losses, UNKNOWN_CHANNEL)
        return found

    def _look_into_segments(self) -> None:
        """Learn connections and times from inside the chunks where the file's end, which repeats them, is missing."""
        layout = self._layout
        for place, segment in enumerate(layout.segments):
            if segment.counts is not None and layout.channels.keys() >= segment.counts.keys():
                continue
            try:
                raw = read_segment(self._file, segment)
            except DamagedError:
                continue
            times = []
            for item in rows_in(raw):
                if item is not None and item[0].op == CONNECTION:
                    layout.learn(item[0].fields, bytes(item[1]))
                elif item is not None and len(item[0].fields.get(b"time", b"")) == 8:
                    times.append(time_of(item[0].fields[b"time"]))
            if segment.counts is None and times:
                layout.segments[place] = replace(segment, start=min(times), end=max(times))
