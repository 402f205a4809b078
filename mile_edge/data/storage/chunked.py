"""What bag files of chunks have in common: records are read segment by segment, and each loss is counted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Generic, Protocol, TypeVar

from mile_edge.data.storage.records import CUT_SHORT, UNKNOWN_CHANNEL, Channel, Record, add_loss
from mile_edge.data.storage.segments import (
    COMPRESSIONS,
    DamagedError,
    Segment,
    count_unread,
    in_time_order,
    is_known,
    read_segment,
)


class ChunkLayout(Protocol):
    """Where what lies in the file: channels by their id, segments, and whether its recorder closed it."""

    channels: dict[int, Channel]
    segments: list[Segment]
    closed: bool


LayoutT = TypeVar("LayoutT", bound=ChunkLayout)


class ChunkedStorage(ABC, Generic[LayoutT]):
    """An open bag file of chunks.

    Args:
        path: the file.
        read_layout: finds the layout of an open file of so many bytes.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, read_layout: Callable[[BinaryIO, int], LayoutT]) -> None:
        self._file = path.open("rb")
        self._layout = read_layout(self._file, path.stat().st_size)
        self.notes: list[str] = []
        if not self._layout.closed:
            self.notes.append(f"{path.name} was not closed by its recorder and has no index; it was read by a scan")
        if strange := {segment.compression for segment in self._layout.segments if not is_known(segment)}:
            named = ", ".join(sorted(map(ascii, strange))[:4])
            self.notes.append(f"{path.name} has chunks of compression {named}; read are {', '.join(COMPRESSIONS)}")
        self._look_into_segments()
        self.channels: tuple[Channel, ...] = tuple(self._with_counts())

    def records(self, topics: Collection[str], losses: Counter[str]) -> Iterator[Record]:
        """Yield the records of these topics in time order, counting by reason what cannot be read."""
        yield from in_time_order(self._layout.segments, lambda segment: self._load(segment, topics, losses))

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    @abstractmethod
    def _learned(self, raw: memoryview, segment: Segment) -> Segment:
        """The segment with what its bytes tell of it; channels that they describe go into the layout."""

    @abstractmethod
    def _messages(self, raw: memoryview) -> Iterator[tuple[int, int, bytes | memoryview] | None]:
        """(channel id, bag time in nanoseconds, bytes) of each message of a segment; None for a damaged record."""

    def _raw(self, segment: Segment) -> memoryview:
        return read_segment(self._file, segment)

    def _look_into_segments(self) -> None:
        """Learn from inside the chunks where the file's end, which repeats what they hold, is missing."""
        layout = self._layout
        for place, segment in enumerate(layout.segments):
            if segment.counts is not None and layout.channels.keys() >= segment.counts.keys():
                continue
            try:
                raw = read_segment(self._file, segment)
            except DamagedError:
                continue
            layout.segments[place] = self._learned(raw, segment)

    def _with_counts(self) -> Iterator[Channel]:
        counts: Counter[int] = Counter()
        known = all(segment.counts is not None for segment in self._layout.segments)
        for segment in self._layout.segments:
            counts.update(segment.counts or {})
        for key, channel in self._layout.channels.items():
            yield replace(channel, count=counts[key] if known else None)

    def _load(self, segment: Segment, topics: Collection[str], losses: Counter[str]) -> list[Record]:
        channels = self._layout.channels
        wanted = {key for key, channel in channels.items() if channel.topic in topics}
        if segment.counts is not None:
            add_loss(losses, UNKNOWN_CHANNEL, sum(n for key, n in segment.counts.items() if key not in channels))
            if not wanted.intersection(segment.counts):
                return []
        add_loss(losses, CUT_SHORT, int(segment.cut))
        try:
            raw = self._raw(segment)
        except DamagedError:
            count_unread(segment, 0, wanted, False, losses)
            return []
        found: list[Record] = []
        for message in self._messages(raw):
            if message is None:
                count_unread(segment, len(found), wanted, True, losses)
                continue
            key, time, data = message
            if key in wanted:
                found.append(Record(time, channels[key], data))
            elif segment.counts is None and key not in channels:
                add_loss(losses, UNKNOWN_CHANNEL)
        return found
