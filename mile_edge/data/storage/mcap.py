"""MCAP files, whole or damaged, as a stream of records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from mile_edge.data.storage.mcap_records import MESSAGE, parse_message, records_in
from mile_edge.data.storage.mcap_scan import read_layout, stored_crc
from mile_edge.data.storage.records import CUT_SHORT, UNKNOWN_CHANNEL, Channel, Record, add_loss
from mile_edge.data.storage.segments import DamagedError, Segment, count_unread, in_time_order, read_segment


class McapStorage:
    """An open MCAP file.

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
        self._find_channels()
        self.channels: tuple[Channel, ...] = tuple(self._with_counts())

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
            if self._layout.indexed:
                segment = replace(segment, crc=stored_crc(self._file, segment))
            raw = read_segment(self._file, segment)
        except DamagedError:
            count_unread(segment, 0, wanted, False, losses)
            return []
        found: list[Record] = []
        for record in records_in(raw):
            if record is None:
                count_unread(segment, len(found), wanted, True, losses)
            elif record[0] == MESSAGE:
                key, time, data = parse_message(record[1])
                if key in wanted:
                    found.append(Record(time, channels[key], data))
                elif segment.counts is None and key not in channels:
                    add_loss(losses, UNKNOWN_CHANNEL)
            else:
                self._layout.learn(*record)
        return found

    def _find_channels(self) -> None:
        """Read channel records out of chunks where the summary that repeats them is missing."""
        for segment in self._layout.segments:
            if segment.counts is not None and self._layout.channels.keys() >= segment.counts.keys():
                continue
            try:
                raw = read_segment(self._file, segment)
            except DamagedError:
                continue
            for record in records_in(raw):
                if record is not None and record[0] != MESSAGE:
                    self._layout.learn(*record)

    def _with_counts(self) -> Iterator[Channel]:
        counts: Counter[int] = Counter()
        known = all(segment.counts is not None for segment in self._layout.segments)
        for segment in self._layout.segments:
            counts.update(segment.counts or {})
        for key, channel in self._layout.channels.items():
            yield replace(channel, count=counts[key] if known else None)
