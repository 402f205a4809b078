"""Writes real bags for tests, by rosbags, in every storage that the reader takes."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from rosbags import rosbag1, rosbag2
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.typesys import Stores, get_typestore

STORES = {True: get_typestore(Stores.ROS2_JAZZY), False: get_typestore(Stores.ROS1_NOETIC)}
KINDS = (
    "mcap",
    "mcap-zstd",
    "mcap-message",
    "mcap-file",
    "sqlite3",
    "sqlite3-message",
    "ros1",
    "ros1-bz2",
    "ros1-lz4",
)
START = 1_700_000_000_000_000_000


def pixels_to_fields(encoding: str, pixels: np.ndarray, padding: int = 0, big: bool = False) -> tuple[int, np.ndarray]:
    """(step, data) of an image message, rows padded by `padding` bytes."""
    stored = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<"))
    if encoding in ("bgr8", "bgra8"):
        stored = stored[..., [2, 1, 0, *range(3, stored.shape[2])]]
    rows = np.ascontiguousarray(stored).view(np.uint8).reshape(pixels.shape[0], -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=170)
    return padded.shape[1], padded.reshape(-1)


class Recording:
    """A bag being written; use as a context manager. `kind` is one of KINDS."""

    def __init__(self, path: Path, kind: str = "mcap-zstd") -> None:
        self.path = path
        self.ros2 = not kind.startswith("ros1")
        self.store = STORES[self.ros2]
        storage, _, mode = kind.partition("-")
        self._writer: Any
        if self.ros2:
            plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
            self._writer = rosbag2.Writer(path, version=9, storage_plugin=plugin)
            modes = {"zstd": CompressionMode.STORAGE, "message": CompressionMode.MESSAGE, "file": CompressionMode.FILE}
            if mode:
                self._writer.set_compression(modes[mode], CompressionFormat.ZSTD)
        else:
            self._writer = rosbag1.Writer(path)
            if mode:
                self._writer.set_compression(rosbag1.Writer.CompressionFormat[mode.upper()])
        self._connections: dict[tuple[str, str], Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Recording:
        self._stack.enter_context(self._writer)
        return self

    def __exit__(self, *problem: object) -> None:
        self._stack.close()

    def write(self, topic: str, msgtype: str, time: int, value: Any) -> None:
        """Write a message object."""
        serialise = self.store.serialize_cdr if self.ros2 else self.store.serialize_ros1
        self.write_raw(topic, msgtype, time, serialise(value, msgtype))

    def write_raw(self, topic: str, msgtype: str, time: int, data: bytes | memoryview) -> None:
        """Write serialised bytes, sound or not."""
        self._writer.write(self.announce(topic, msgtype), time, data)

    def announce(self, topic: str, msgtype: str) -> Any:
        """The topic's connection, made where it is new; a topic may stay without messages."""
        key = (topic, msgtype)
        if key not in self._connections:
            self._connections[key] = self._writer.add_connection(topic, msgtype, typestore=self.store)
        return self._connections[key]

    def image(
        self,
        topic: str,
        time: int,
        encoding: str,
        pixels: np.ndarray,
        *,
        padding: int = 0,
        big: bool = False,
        at: int | None = None,
        frame_id: str = "optical",
    ) -> None:
        """Write a sensor_msgs/Image stamped `time`, recorded at `at`; colour pixels are RGB or RGBA."""
        step, data = pixels_to_fields(encoding, pixels, padding, big)
        image = self.store.types["sensor_msgs/msg/Image"](
            self._header(time, frame_id), pixels.shape[0], pixels.shape[1], encoding, int(big), step, data
        )
        self.write(topic, "sensor_msgs/msg/Image", time if at is None else at, image)

    def compressed(self, topic: str, time: int, described: str, data: bytes) -> None:
        """Write a sensor_msgs/CompressedImage."""
        kind = "sensor_msgs/msg/CompressedImage"
        value = self.store.types[kind](self._header(time, "optical"), described, np.frombuffer(data, np.uint8))
        self.write(topic, kind, time, value)

    def text(self, topic: str, time: int, text: str) -> None:
        """Write a std_msgs/String."""
        self.write(topic, "std_msgs/msg/String", time, self.store.types["std_msgs/msg/String"](text))

    def _header(self, time: int, frame_id: str) -> Any:
        types = self.store.types
        stamp = types["builtin_interfaces/msg/Time"](time // 1_000_000_000, time % 1_000_000_000)
        header = types["std_msgs/msg/Header"]
        return header(stamp, frame_id) if self.ros2 else header(0, stamp, frame_id)


def bag_file(path: Path) -> Path:
    """The file with the messages of a recorded bag."""
    return (
        path if path.is_file() else next(file for file in path.iterdir() if file.suffix in (".mcap", ".db3", ".zstd"))
    )
