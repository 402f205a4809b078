"""A drive through the world as a ROS 2 bag: three sensors, their labels and the true domain."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import Connection
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError
from rosbags.typesys import Stores, get_typestore

from mile_edge.errors import DataError

from .classes import DOMAINS
from .world import World, WorldFrame
from .writer import Progress, open_aside

START_NS = 1_700_000_000_000_000_000
"""Stamp of the first frame: fixed, so that the same command always makes the same bag."""

_IMAGE, _INFO, _STRING = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo", "std_msgs/msg/String"
_IMAGES: tuple[tuple[str, str, str, str], ...] = (
    ("/camera/image_raw", "/camera/label", "camera_optical_frame", "rgb8"),
    ("/depth/image_rect_raw", "/depth/label", "depth_optical_frame", "16UC1"),
    ("/thermal/image_raw", "/thermal/label", "thermal_optical_frame", "mono16"),
)


def write_bag(
    path: Path | str,
    world: World,
    segments: Sequence[tuple[str, float]],
    rate_hz: float = 10.0,
    *,
    storage: str = "mcap",
    progress: Progress | None = None,
) -> Path:
    """Record one drive; the weather changes from segment to segment while the camera moves on.

    Topics: `/camera/image_raw` rgb8, `/depth/image_rect_raw` 16UC1 millimetres, `/thermal/image_raw` mono16 in 0.01 K,
    a mono8 `label` beside each with the same stamp and frame, `/camera/camera_info`, and `/truth/domain` at the start
    of every segment. All sensors share one viewpoint. The bag is filled aside and renamed when complete.

    Args:
        path: the bag's folder; it may exist only if it is empty.
        world: the street, which also says the size of the images.
        segments: (domain, seconds) in order; each holds at least one frame.
        rate_hz: frames per second of every sensor.
        storage: mcap (zstd chunks) or sqlite3.
        progress: called with (frames done, frames in all) after every frame.

    Returns:
        The bag's folder.

    Raises:
        DataError: no segments, an unknown domain or storage, times or rates out of range, or a path in use.
    """
    target = Path(path)
    plan = _plan(segments, rate_hz)
    if storage not in ("mcap", "sqlite3"):
        raise DataError(f"Bags have no storage {storage!r}; choose mcap or sqlite3.")
    aside = open_aside(target)
    try:
        writer = Writer(aside / target.name, version=8, storage_plugin=StoragePlugin[storage.upper()])
        if storage == "mcap":
            writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        with writer:
            recorder = _Recorder(writer, world)
            for number, (domain, opens) in enumerate(plan):
                seconds = number / rate_hz
                stamp = START_NS + round(seconds * 1e9)
                if opens:
                    recorder.domain(domain, stamp)
                recorder.frame(world.frame(seconds, domain), stamp)
                if progress is not None:
                    progress(number + 1, len(plan))
        (aside / target.name).replace(target)
    except (OSError, WriterError) as error:
        raise DataError(f"The bag {target} cannot be written ({error}); choose another path.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _plan(segments: Sequence[tuple[str, float]], rate_hz: float) -> list[tuple[str, bool]]:
    """(domain, does it open a segment) of every frame."""
    if not segments:
        raise DataError("A bag needs at least one segment; give (domain, seconds) pairs.")
    if not 0.01 <= rate_hz <= 1000.0:
        raise DataError(f"The rate is {rate_hz} Hz; give one from 0.01 to 1000.")
    plan = []
    for number, (domain, seconds) in enumerate(segments):
        if domain not in DOMAINS:
            raise DataError(f"The world has no domain {domain!r}; choose from {', '.join(DOMAINS)}.")
        if not 0.0 < seconds <= 86400.0:
            raise DataError(f"Segment {number} ({domain}) lasts {seconds} s; give more than 0 and at most 86400.")
        plan += [(domain, step == 0) for step in range(max(1, round(seconds * rate_hz)))]
    return plan


class _Recorder:
    """Turns frames into messages of an open bag."""

    def __init__(self, writer: Writer, world: World) -> None:
        self._writer, self._world = writer, world
        self._store = get_typestore(Stores.ROS2_HUMBLE)
        topics = {"/camera/camera_info": _INFO, "/truth/domain": _STRING}
        topics |= {name: _IMAGE for image, label, *_ in _IMAGES for name in (image, label)}
        self._topics: dict[str, Connection] = {
            name: writer.add_connection(name, kind, typestore=self._store) for name, kind in sorted(topics.items())
        }

    def _write(self, topic: str, stamp: int, message: Any) -> None:
        connection = self._topics[topic]
        self._writer.write(connection, stamp, self._store.serialize_cdr(message, connection.msgtype))

    def _make(self, kind: str) -> Callable[..., Any]:
        return self._store.types[kind]

    def domain(self, name: str, stamp: int) -> None:
        """Announce the true domain from this stamp on."""
        self._write("/truth/domain", stamp, self._make(_STRING)(data=name))

    def frame(self, frame: WorldFrame, stamp: int) -> None:
        """Write all images, labels and the camera's calibration of one moment."""
        images: tuple[NDArray[Any], ...] = (frame.rgb, frame.depth, frame.thermal)
        for (topic, label_topic, frame_id, encoding), image in zip(_IMAGES, images, strict=True):
            header = self._header(stamp, frame_id)
            self._write(topic, stamp, self._image(header, image, encoding))
            self._write(label_topic, stamp, self._image(header, frame.label, "mono8"))
        self._write("/camera/camera_info", stamp, self._info(self._header(stamp, _IMAGES[0][2])))

    def _header(self, stamp: int, frame_id: str) -> Any:
        time = self._make("builtin_interfaces/msg/Time")(sec=stamp // 10**9, nanosec=stamp % 10**9)
        return self._make("std_msgs/msg/Header")(stamp=time, frame_id=frame_id)

    def _image(self, header: Any, image: NDArray[Any], encoding: str) -> Any:
        little = np.ascontiguousarray(image, dtype=image.dtype.newbyteorder("<"))
        height, width = image.shape[:2]
        return self._make(_IMAGE)(
            header=header, height=height, width=width, encoding=encoding, is_bigendian=0,
            step=little.nbytes // height, data=little.reshape(-1).view(np.uint8),
        )  # fmt: skip

    def _info(self, header: Any) -> Any:
        height, width = self._world.size
        focal, cx, cy = self._world.focal, width / 2, height / 2
        region = self._make("sensor_msgs/msg/RegionOfInterest")(
            x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        )
        return self._make(_INFO)(
            header=header, height=height, width=width, distortion_model="plumb_bob", d=np.zeros(5),
            k=np.array([focal, 0, cx, 0, focal, cy, 0, 0, 1]), r=np.eye(3).ravel(),
            p=np.array([focal, 0, cx, 0, 0, focal, cy, 0, 0, 0, 1, 0]), binning_x=0, binning_y=0, roi=region,
        )  # fmt: skip
