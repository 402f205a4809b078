"""Frames of a bag: decoded, mapped by their sensor's profile, with their label and true domain where it has them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mile_edge.data.bags import UNPARSED, Bag, BagMessage
from mile_edge.data.class_map import apply_class_map
from mile_edge.data.encodings import SUPPORTED_ENCODINGS, decode_compressed, decode_image
from mile_edge.data.legible import legible
from mile_edge.data.pairing import Label, Pairing, Waiting
from mile_edge.data.sensors import SensorProfile
from mile_edge.data.topics import COMPRESSED, RAW, TEXT, TopicPlan, sensor_kind
from mile_edge.errors import DataError, SensorError

STRAY_LABEL = "label without an image"
BAD_IMAGE = "image that does not decode"
BAD_LABEL = "label that does not decode"
OUTSIDE_LABEL = "label with ids outside the label space"
LABEL_REASONS = (STRAY_LABEL, BAD_LABEL, OUTSIDE_LABEL)
UNFIT_IMAGE = "image that its sensor cannot give"
_MAX_REASONS = 64
_MAX_DOMAIN = 256
_JPEG = b"\xff\xd8"


@dataclass(frozen=True)
class BagFrame:
    """One image of a bag, ready for the segmenter.

    Attributes:
        topic: where it was published.
        kind: camera, depth or thermal.
        encoding: of the message, or of the decoded picture.
        time: bag time, nanoseconds.
        stamp: (seconds, nanoseconds) of its header.
        frame_id: of its header.
        frame: (H, W, 3) uint8.
        label: (H, W) uint8 class ids, 255 = void; None where the bag has none.
        label_resized: the label had another size.
        domain: the true domain at that time, None where unknown.
        decode_ms: milliseconds from message to array.
        map_ms: milliseconds from array to frame.
        pixels: the picture as the sensor gave it, before its profile.
    """

    topic: str
    kind: str
    encoding: str
    time: int
    stamp: tuple[int, int]
    frame_id: str
    frame: np.ndarray
    label: np.ndarray | None
    label_resized: bool
    domain: str | None
    decode_ms: float
    map_ms: float
    pixels: np.ndarray


class BagFrames:
    """The frames of a bag in time order per topic; iterate once.

    Args:
        bag: open.
        plan: what each topic is for.
        profiles: sensor kind to its profile.
        class_map: (256,) int16 from the bag's label ids to the label space.

    Attributes:
        skipped: reason to count of what could not become a frame or a label, the bag's own losses apart.
        examples: reason to the first message about it.
    """

    def __init__(self, bag: Bag, plan: TopicPlan, profiles: Mapping[str, SensorProfile], class_map: np.ndarray) -> None:
        self._bag, self._plan, self._profiles, self._class_map = bag, plan, profiles, class_map
        self._kinds: dict[str, str] = {name: kind for name, kind in plan.images.items() if kind is not None}
        self._pairings = {image: Pairing() for image in plan.labels}
        self.skipped: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        # Labels count as lost with the frame that they belong to, or at the end: a replay may stop before it.
        self._untaken: Counter[str] = Counter()
        self._told: dict[str, str] = {}

    def __iter__(self) -> Iterator[BagFrame]:
        domain: str | None = None
        for message in self._bag.messages(self._plan.all):
            # A damaged or merged bag may list a topic twice, with two types: each message is what it says itself.
            if message.topic == self._plan.domains and message.msgtype == TEXT:
                domain = legible(str(message.value.data).strip()[:_MAX_DOMAIN]) or None
            elif message.topic == self._plan.domains or message.msgtype not in (RAW, COMPRESSED):
                self._skip(UNPARSED)
            elif message.topic not in self._plan.images:
                self._hand_out_label(message)
            else:
                image = self._waiting(message, domain)
                if image is not None and message.topic in self._pairings:
                    self._pairings[message.topic].add_image(image)
                elif image is not None:
                    yield from self._frames(message.topic, image)
            for topic, pairing in self._pairings.items():
                for image in pairing.ready(message.time):
                    yield from self._frames(topic, image)
        for topic, pairing in self._pairings.items():
            for image in pairing.rest():
                yield from self._frames(topic, image)
        for reason, count in self._untaken.items():
            if count > 0:
                self._skip(reason, self._told.get(reason, ""), count)

    def _waiting(self, message: BagMessage, domain: str | None) -> Waiting | None:
        try:
            return Waiting(_stamp(message), message.time, message.value, domain, len(message.value.data))
        except (AttributeError, TypeError):
            self._skip(UNPARSED)
            return None

    def _hand_out_label(self, message: BagMessage) -> None:
        try:
            label = self._label(message)
        except (AttributeError, TypeError):
            self._skip(UNPARSED)
            return
        self._untaken[label.problem or STRAY_LABEL] += 1
        for topic, pairing in self._pairings.items():
            if self._plan.labels[topic] == message.topic:
                pairing.add_label(label)

    def _label(self, message: BagMessage) -> Label:
        stamp = _stamp(message)
        try:
            return Label(stamp, message.time, self._decode_label(message))
        except (SensorError, DataError) as problem:
            reason = BAD_LABEL if isinstance(problem, SensorError) else OUTSIDE_LABEL
            self._told.setdefault(reason, f"{message.topic}: {problem}")
            return Label(stamp, message.time, None, reason)

    def _decode_label(self, message: BagMessage) -> np.ndarray:
        value = message.value
        if message.msgtype == COMPRESSED and bytes(value.data[:2]) == _JPEG:
            raise SensorError("A label is a jpeg, which blurs class ids; record labels as mono8 or png.")
        label = _decode(message.msgtype, value)[1]
        if label.ndim != 2 or label.dtype.kind != "u" or label.max(initial=0) > 255:
            raise SensorError(f"A label is {label.dtype} of shape {label.shape}; record labels as mono8 class ids.")
        # Mapped at once: the copy lets go of the bag's chunk, which a waiting label would keep in memory.
        return apply_class_map(label.astype(np.uint8, copy=False), self._class_map)

    def _frames(self, topic: str, image: Waiting) -> Iterator[BagFrame]:
        """Yield the image's frame, or nothing where it has none, which is counted."""
        started = time.perf_counter()
        try:
            encoding, pixels = _decode(image.value.__msgtype__, image.value)
        except SensorError as problem:
            self._skip(self._reason(topic, image.value), f"{topic}: {problem}")
            return
        decoded = time.perf_counter()
        kind = self._kinds.setdefault(topic, sensor_kind(topic, encoding))
        try:
            frame = self._profiles[kind].to_frame(pixels, encoding)
        except SensorError as problem:
            self._skip(self._of_topic(UNFIT_IMAGE, topic), f"{topic}: {problem}")
            return
        mapped = time.perf_counter()
        label = self._take_label(image)
        resized = label is not None and label.shape != frame.shape[:2]
        if label is not None and resized:
            label = _nearest(label, frame.shape[:2])
        stamp = image.value.header.stamp
        yield BagFrame(
            topic,
            kind,
            encoding,
            image.time,
            (int(stamp.sec), int(stamp.nanosec)),
            str(image.value.header.frame_id),
            frame,
            label,
            resized,
            image.domain,
            (decoded - started) * 1e3,
            (mapped - decoded) * 1e3,
            pixels,
        )

    def _take_label(self, image: Waiting) -> np.ndarray | None:
        if image.label is None:
            return None
        # Two image topics may share a label; it is a stray only if none took it.
        problem = image.label.problem
        if not image.label.used:
            self._untaken[problem or STRAY_LABEL] -= 1
            if problem is not None:
                self._skip(problem, self._told[problem])
        image.label.used = True
        pixels: np.ndarray | None = image.label.value
        return pixels

    def _reason(self, topic: str, value: Any) -> str:
        encoding = getattr(value, "encoding", None)
        if encoding is None or encoding in SUPPORTED_ENCODINGS or len(self.skipped) >= _MAX_REASONS:
            return self._of_topic(BAD_IMAGE, topic)
        return f"encoding {encoding[:32]!r} of {topic} is not supported"

    def _of_topic(self, reason: str, topic: str) -> str:
        """A reason of its own for each topic, as each has a cause of its own."""
        told = legible(f"{reason}, on {topic}")
        return told if told in self.skipped or len(self.skipped) < _MAX_REASONS else reason

    def _skip(self, reason: str, example: str = "", count: int = 1) -> None:
        reason = legible(reason)
        self.skipped[reason] += count
        if example:
            self.examples.setdefault(reason, legible(example))


def _stamp(message: BagMessage) -> int:
    stamp = message.value.header.stamp
    # A driver that never sets the stamp leaves 0: then the moment of recording is all there is.
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec) or message.time


def _decode(msgtype: str, value: Any) -> tuple[str, np.ndarray]:
    if msgtype != COMPRESSED:
        pixels = decode_image(value.encoding, value.height, value.width, value.step, value.is_bigendian, value.data)
        return value.encoding, pixels
    pixels = decode_compressed(value.format, value.data)
    if pixels.ndim == 3:
        return "rgb8", pixels
    named = value.format.split(";")[0].strip()
    by_type = {"uint8": "mono8", "uint16": "16UC1", "float32": "32FC1"}[pixels.dtype.name]
    return named if named in ("mono8", "8UC1", "mono16", "16UC1") and pixels.dtype != np.float32 else by_type, pixels


def _nearest(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows = (np.arange(size[0]) * 2 + 1) * label.shape[0] // (2 * size[0])
    columns = (np.arange(size[1]) * 2 + 1) * label.shape[1] // (2 * size[1])
    picked: np.ndarray = label[rows[:, None], columns]
    return picked
