"""What every bag storage gives: channels, raw records in time order, and what was lost on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

# The reasons under which losses inside a file are counted; each counts messages unless it says otherwise.
CUT_SHORT = "bag file cut short"
DAMAGED_CHUNK = "message in a damaged chunk"
UNKNOWN_COMPRESSION = "message in a chunk of a compression that is not read"
DAMAGED_RECORD = "damaged record"
DAMAGED_ROW = "damaged database row"
UNKNOWN_CHANNEL = "message of a channel whose description is lost"


@dataclass(frozen=True)
class Channel:
    """One topic of one bag file.

    Attributes:
        topic: its name.
        msgtype: "package/msg/Type".
        definition: the message definition stored in the bag, or "" where it has none.
        syntax: "msg" or "idl": how the definition is written.
        encoding: "cdr" (ROS 2), "ros1", or another serialisation that cannot be read.
        count: messages in this file, None where the file does not say.
    """

    topic: str
    msgtype: str
    definition: str
    syntax: str
    encoding: str
    count: int | None = None


class Record(NamedTuple):
    """One message as stored: bag time in nanoseconds, its channel, its serialised bytes."""

    time: int
    channel: Channel
    data: bytes | memoryview


def add_loss(losses: Counter[str], reason: str, count: int = 1) -> None:
    """Count a loss, leaving no entry for a reason that never came up."""
    if count > 0:
        losses[reason] += count


class Storage(Protocol):
    """An open bag file."""

    channels: tuple[Channel, ...]
    notes: list[str]

    def records(self, topics: Collection[str], losses: Counter[str]) -> Iterator[Record]:
        """Yield the records of these topics in time order, counting by reason what cannot be read."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...
