"""A ring of recorded frames that no expert knows: a folder of MCAP segments that everything here reads as one bag.

It lies in ``data`` because what it writes is a bag. Every segment appears by a rename, whole, so a kill at any moment
costs at most the frame in hand. When the budget is spent, the frame that tells least goes: out of the stratum (topic,
expert it went to, episode) that takes most room, the one most like another. So a robot that stands in front of one wall
for an hour keeps a few pictures of the wall and all of the rest. [choice; farthest-first thinning after Gonzalez 1985]
"""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer, WriterError
from rosbags.typesys import Stores, get_typestore

from mile_edge.data.bags import Bag
from mile_edge.data.encodings import JPEG_SIDE
from mile_edge.data.sketch import distances, sketch_of
from mile_edge.data.storage.mcap import McapStorage
from mile_edge.errors import BagError

RECORD = "/novelty/frame"
_RAW, _COMPRESSED, _TEXT = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "std_msgs/msg/String"
_QUALITY = 95
# Seconds without a novel frame of a topic after which the next one begins another episode.
_EPISODE_NS = 10_000_000_000
# Pictures closer than this, in grey levels, are of a robot that stands still.
_STILL = 1.0
_SEGMENTS = 32
_PART = ".part-"


@dataclass(frozen=True)
class NovelFrame:
    """One frame to keep.

    Attributes:
        topic: where it was published.
        encoding: of ``pixels``, by ROS's names.
        pixels: (H, W, 3), (H, W, 4) or (H, W), as the sensor gave them, before any profile.
        time: nanoseconds, of the header's stamp.
        frame_id: of the header.
        expert: that it went through.
        novelty: its stream's score, 1 at the limit.
    """

    topic: str
    encoding: str
    pixels: np.ndarray
    time: int
    frame_id: str
    expert: str
    novelty: float


@dataclass(eq=False)
class _Kept:
    """A frame of the ring; ``topic`` as it is written."""

    segment: int
    time: int
    topic: str
    stratum: Hashable
    sketch: np.ndarray
    size: int


@dataclass
class _Open:
    """The segment that grows: its messages as (topic, type, time, bytes)."""

    number: int
    messages: list[tuple[str, str, int, bytes]] = field(default_factory=list)
    size: int = 0


class NoveltyRing:
    """Keeps novel frames within a budget.

    Args:
        path: folder of the ring; one that exists is continued.
        budget_mb: megabytes that its files may take.
        gap_s: least seconds between two frames of a topic.

    Raises:
        BagError: the folder cannot be written, or the budget is below 1 MB.
    """

    def __init__(self, path: Path | str, budget_mb: float = 100.0, gap_s: float = 0.5) -> None:
        if not 1 <= budget_mb <= 1e6:
            raise BagError(f"a ring of {budget_mb:g} MB cannot be kept; give 1 MB to 1000000 MB")
        self.path = Path(path)
        self._budget, self._gap = round(budget_mb * 1e6), round(gap_s * 1e9)
        self._store = get_typestore(Stores.ROS2_HUMBLE)
        self._kept: list[_Kept] = []
        self._sizes: dict[int, int] = {}
        self._last: dict[str, tuple[int, int]] = {}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for orphan in self.path.glob(f"{_PART}*"):
                shutil.rmtree(orphan, ignore_errors=True)
            for file in sorted(self.path.glob("novel_*.mcap")):
                self._recall(file)
        except OSError as problem:
            raise self._failed(problem) from None
        self._open = _Open(max(self._sizes, default=0) + 1)

    @property
    def frames(self) -> int:
        """Frames that the ring holds."""
        return len(self._kept)

    @property
    def size(self) -> int:
        """Bytes that its files take."""
        return sum(self._sizes.values())

    def offer(self, frame: NovelFrame) -> bool:
        """Keep a frame, unless it tells nothing new; it is on disk when this returns True.

        Raises:
            BagError: it cannot be written; what was kept before still is.
        """
        last, episode = self._last.get(frame.topic, (-(10**19), 0))
        since = frame.time - last
        if 0 <= since < self._gap:
            return False
        episode += not 0 <= since < _EPISODE_NS
        stratum = (frame.topic, frame.expert, episode)
        sketch = sketch_of(frame.pixels)
        alike = [kept.sketch for kept in self._kept if kept.stratum == stratum]
        if alike and distances(np.stack(alike), sketch).min() < _STILL:
            self._last[frame.topic] = (frame.time, episode)
            return False
        messages = self._messages(frame, episode, sketch)
        size = sum(len(data) for *_, data in messages)
        grown = [*self._open.messages, *messages]
        self._write(self._open.number, grown)
        self._last[frame.topic] = (frame.time, episode)
        self._kept.append(_Kept(self._open.number, frame.time, messages[0][0], stratum, sketch, size))
        self._open.messages, self._open.size = grown, self._open.size + size
        if self._open.size > self._budget / _SEGMENTS:
            self._open = _Open(self._open.number + 1)
        while self.size > self._budget:
            self._thin()
        return True

    def _thin(self) -> None:
        """Let go of frames until a tenth of the budget is free, the least telling of the largest strata first."""
        for number in self._sizes.keys() - {kept.segment for kept in self._kept}:
            # Torn beyond reading, in an earlier run.
            self._write(number, [])
        gone: dict[int, list[_Kept]] = defaultdict(list)
        surplus = self.size - 0.9 * self._budget
        while surplus > 0 and self._kept:
            room: Counter[Hashable] = Counter()
            for kept in self._kept:
                room[kept.stratum] += kept.size
            victim = _least_telling([kept for kept in self._kept if kept.stratum == room.most_common(1)[0][0]])
            self._kept.remove(victim)
            gone[victim.segment].append(victim)
            surplus -= victim.size
        for number, victims in gone.items():
            keys = {(victim.topic, victim.time) for victim in victims}
            messages = [message for message in self._read(number) if _key(message) not in keys]
            self._write(number, messages)
            if number == self._open.number:
                self._open.messages, self._open.size = messages, sum(len(data) for *_, data in messages)

    def _messages(self, frame: NovelFrame, episode: int, sketch: np.ndarray) -> list[tuple[str, str, int, bytes]]:
        seconds, nanoseconds = divmod(frame.time, 10**9)
        header = self._make("std_msgs/msg/Header", self._make("builtin_interfaces/msg/Time", seconds, nanoseconds),
                            frame.frame_id)  # fmt: skip
        pixels = frame.pixels
        if pixels.dtype == np.uint8:
            topic = frame.topic if frame.topic.endswith("/compressed") else f"{frame.topic}/compressed"
            form, packed = _packed(pixels)
            image, msgtype = self._make(_COMPRESSED, header, form, np.frombuffer(packed, np.uint8)), _COMPRESSED
        else:
            topic, msgtype = frame.topic.removesuffix("/compressedDepth"), _RAW
            little = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<"))
            height, width = pixels.shape[:2]
            data = little.reshape(-1).view(np.uint8)
            image = self._make(_RAW, header, height, width, frame.encoding, 0, data.size // height, data)
        told = {
            "topic": frame.topic,
            "as": topic,
            "expert": frame.expert,
            "novelty": round(frame.novelty, 3) if math.isfinite(frame.novelty) else None,
            "episode": episode,
            "sketch": sketch.tolist(),
        }
        record = self._make(_TEXT, json.dumps(told, separators=(",", ":")))
        return [(name, kind, frame.time, bytes(self._store.serialize_cdr(value, kind)))
                for name, kind, value in ((topic, msgtype, image), (RECORD, _TEXT, record))]  # fmt: skip

    def _make(self, kind: str, *fields: Any) -> Any:
        return self._store.types[kind](*fields)

    def _file(self, number: int) -> Path:
        return self.path / f"novel_{number:06d}.mcap"

    def _write(self, number: int, messages: Sequence[tuple[str, str, int, bytes]]) -> None:
        """Put a segment in place in one step; one without messages goes."""
        target = self._file(number)
        try:
            if not messages:
                target.unlink(missing_ok=True)
                self._sizes.pop(number, None)
                return
            aside = Path(tempfile.mkdtemp(prefix=_PART, dir=self.path))
            try:
                writer = Writer(aside / "bag", version=8, storage_plugin=StoragePlugin.MCAP)
                writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
                with writer:
                    connections: dict[str, Any] = {}
                    for topic, msgtype, time, data in messages:
                        if topic not in connections:
                            connections[topic] = writer.add_connection(topic, msgtype, typestore=self._store)
                        writer.write(connections[topic], time, data)
                with (aside / "bag" / "bag.mcap").open("rb") as file:
                    os.fsync(file.fileno())
                (aside / "bag" / "bag.mcap").replace(target)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
            self._sizes[number] = target.stat().st_size
        except (OSError, WriterError) as problem:
            raise self._failed(problem) from None

    def _read(self, number: int) -> list[tuple[str, str, int, bytes]]:
        """A segment's messages, as far as they can be read."""
        storage = McapStorage(self._file(number))
        try:
            topics = {channel.topic for channel in storage.channels}
            records = list(storage.records(topics, Counter()))
            return [(each.channel.topic, each.channel.msgtype, each.time, bytes(each.data)) for each in records]
        finally:
            storage.close()

    def _recall(self, file: Path) -> None:
        """Take up a segment of an earlier run; a torn one counts for its size and is left as it is."""
        number = int(file.stem.partition("_")[2])
        self._sizes[number] = file.stat().st_size
        try:
            with Bag.open(file) as bag:
                records = [(message.time, json.loads(message.value.data)) for message in bag.messages([RECORD])]
            share = self._sizes[number] // max(1, len(records))
            for time, told in records:
                stratum = (told["topic"], told["expert"], told["episode"])
                sketch = np.array(told["sketch"], np.float32)
                self._kept.append(_Kept(number, time, told["as"], stratum, sketch, share))
                self._last[told["topic"]] = (time, told["episode"])
        except (BagError, KeyError, ValueError):
            return

    def _failed(self, problem: Exception) -> BagError:
        what = getattr(problem, "strerror", None) or str(problem)
        reason = "it is a file" if isinstance(problem, FileExistsError) else what
        return BagError(f"novel frames cannot be kept in '{self.path}' ({reason}); make room or name another folder")


def _key(message: tuple[str, str, int, bytes]) -> tuple[str, int]:
    """(image topic, time) of a message, also of the record beside an image."""
    topic, _, time, data = message
    if topic != RECORD:
        return topic, time
    text = data[8:].split(b"\0", 1)[0]
    return str(json.loads(text)["as"]), time


def _least_telling(frames: Sequence[_Kept]) -> _Kept:
    """The later one of the two frames that are most alike."""
    if len(frames) == 1:
        return frames[0]
    sketches = np.stack([frame.sketch for frame in frames])
    apart = np.stack([distances(sketches, sketch) for sketch in sketches])
    np.fill_diagonal(apart, np.inf)
    return frames[max(divmod(int(apart.argmin()), len(frames)))]


def _packed(pixels: np.ndarray) -> tuple[str, bytes]:
    """A picture as a file's bytes, and which kind of file: what is too large for a JPEG is a PNG."""
    sink = io.BytesIO()
    picture = Image.fromarray(pixels[..., :3] if pixels.ndim == 3 else pixels)
    form = "png" if max(picture.size) > JPEG_SIDE else "jpeg"
    picture.save(sink, form, quality=_QUALITY, subsampling=0)
    return form, sink.getvalue()
