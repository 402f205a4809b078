"""`predictions.mcap`: masks as a robot would publish them, for Foxglove, RViz and rosbag2.

For an image topic `/camera/image_raw` it holds `/camera/mask` (mono8 class ids, the input's stamp and frame),
`/camera/label_info` (what the ids mean), `/camera/overlay` (jpeg, to look at) and `/camera/expert` (the expert's name).
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.interfaces import Connection, Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from mile_edge.bundle import ClassLabel
from mile_edge.data.bag_frames import BagFrame
from mile_edge.data.encodings import JPEG_SIDE
from mile_edge.replay.film import blend, jpeg, palette

_IMAGE, _COMPRESSED, _TEXT = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "std_msgs/msg/String"
_LABELS, _LABEL = "vision_msgs/msg/LabelInfo", "vision_msgs/msg/VisionClass"
_LABELS_DEFINITION = "std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n"
_LABEL_DEFINITION = "uint16 class_id\nstring class_name\n"
_FOREVER = QosTime(2147483647, 4294967295)
_OVERLAY_QUALITY = 75
_SUFFIXES = ("/compressed", "/compressedDepth")


class PredictionWriter:
    """Writes the masks of a replay; use as a context manager.

    Args:
        path: a folder that does not exist yet; the file will lie in it under the folder's name.
        topics: the image topics that will be replayed.
        classes: what the class ids mean.

    Attributes:
        shrunk: overlays that are smaller than their frames, because no JPEG is as large.
    """

    def __init__(self, path: Path, topics: Collection[str], classes: tuple[ClassLabel, ...]) -> None:
        self.file = path / f"{path.name}.mcap"
        self.shrunk = 0
        self._store = get_typestore(Stores.ROS2_JAZZY)
        self._store.register(get_types_from_msg(_LABEL_DEFINITION, _LABEL))
        self._store.register(get_types_from_msg(_LABELS_DEFINITION, _LABELS))
        self._places = output_topics(topics)
        self._classes = classes
        self._colors = palette([label.color for label in classes])
        self._connections: dict[tuple[str, str], Connection] = {}
        # Version 8 writes the QoS so that Humble reads it too.
        self._writer = Writer(path, version=8, storage_plugin=StoragePlugin.MCAP)
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)

    def __enter__(self) -> PredictionWriter:
        """Create the file."""
        self._writer.open()
        return self

    def __exit__(self, *problem: object) -> None:
        """Finish the file, so that what was written so far opens everywhere."""
        self._writer.close()

    def write(self, frame: BagFrame, mask: np.ndarray, expert: str) -> None:
        """Write what came out for one frame: mask (H, W) uint8 and the expert's name."""
        header = self._make("std_msgs/msg/Header", self._time(*frame.stamp), frame.frame_id)
        if (frame.topic, _LABELS) not in self._connections:
            labels = [self._make(_LABEL, number, label.name) for number, label in enumerate(self._classes)]
            self._write(frame, _LABELS, "label_info", self._make(_LABELS, header, labels, 0.0))
        height, width = mask.shape
        pixels = np.ascontiguousarray(mask).reshape(-1)
        self._write(frame, _IMAGE, "mask", self._make(_IMAGE, header, height, width, "mono8", 0, width, pixels))
        self._write(frame, _TEXT, "expert", self._make(_TEXT, expert))
        self.shrunk += max(mask.shape) > JPEG_SIDE
        picture = np.frombuffer(jpeg(blend(frame.frame, mask, self._colors), _OVERLAY_QUALITY), np.uint8)
        self._write(frame, _COMPRESSED, "overlay", self._make(_COMPRESSED, header, "jpeg", picture))

    def _write(self, frame: BagFrame, msgtype: str, name: str, message: Any) -> None:
        key = (frame.topic, msgtype)
        if key not in self._connections:
            # A late viewer must still learn what the ids mean.
            profile = [_latched()] if msgtype == _LABELS else []
            self._connections[key] = self._writer.add_connection(
                f"{self._places[frame.topic]}/{name}", msgtype, typestore=self._store, offered_qos_profiles=profile
            )
        self._writer.write(self._connections[key], frame.time, self._store.serialize_cdr(message, msgtype))

    def _make(self, kind: str, *fields: Any) -> Any:
        return self._store.types[kind](*fields)

    def _time(self, seconds: int, nanoseconds: int) -> Any:
        return self._make("builtin_interfaces/msg/Time", seconds, nanoseconds)


def output_topics(topics: Collection[str]) -> dict[str, str]:
    """Give each image topic the namespace of its outputs: its own namespace, or itself where others share that.

    >>> output_topics(["/camera/image_raw/compressed", "/depth/image", "/depth/rect"])
    {'/camera/image_raw/compressed': '/camera', '/depth/image': '/depth/image', '/depth/rect': '/depth/rect'}
    """
    plain = {topic: _without_transport(topic) for topic in topics}
    parents = [name.rpartition("/")[0] for name in plain.values()]
    places: dict[str, str] = {}
    for topic, name in plain.items():
        parent = name.rpartition("/")[0]
        place = parent if parents.count(parent) == 1 else name
        # Two transports of one picture, both asked for by name, end up with the same plain name.
        places[topic] = topic if place in places.values() else place
    return places


def _without_transport(topic: str) -> str:
    for suffix in _SUFFIXES:
        topic = topic.removesuffix(suffix)
    return topic


def _latched() -> Qos:
    return Qos(
        QosHistory.KEEP_LAST,
        1,
        QosReliability.RELIABLE,
        QosDurability.TRANSIENT_LOCAL,
        _FOREVER,
        _FOREVER,
        QosLiveliness.AUTOMATIC,
        _FOREVER,
        False,
    )
