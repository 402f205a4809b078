"""What is configured of one sensor, and how its messages become frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mile_edge.data.encodings import decode_compressed, decode_image
from mile_edge.data.sensors import DEFAULT_PROFILES, KINDS, SensorProfile, load_profile
from mile_edge.errors import SensorError

TRANSPORTS = ("raw", "compressed")
RELIABILITIES = ("best_effort", "reliable")


@dataclass(frozen=True)
class Sensor:
    """One sensor as configured.

    Attributes:
        name: part of the topics' names, for example `~/front/mask`.
        topic: image topic; for transport compressed, the very topic with the compressed images.
        camera_info: topic of its calibration, empty for none.
        profile: how its images become frames.
        transport: raw or compressed.
        reliability: best_effort or reliable.
        depth: messages that the middleware keeps.
    """

    name: str
    topic: str
    camera_info: str
    profile: SensorProfile
    transport: str = "raw"
    reliability: str = "best_effort"
    depth: int = 1

    def to_frame(self, message: Any) -> np.ndarray:
        """Give (H, W, 3) uint8 of a `sensor_msgs/Image` or `CompressedImage`, as a view of its bytes where it can be.

        Raises:
            SensorError: the message is no image, or none that this sensor can give.
        """
        pixels = self.pixels(message)
        return self.profile.to_frame(pixels, (message.format or None) if self._is_compressed else message.encoding)

    def pixels(self, message: Any) -> np.ndarray:
        """Give an image as it was sent, before the sensor's profile, see :mod:`mile_edge.data.encodings`.

        Raises:
            SensorError: the message is no image.
        """
        data = memoryview(message.data)
        if self._is_compressed:
            return decode_compressed(message.format, data)
        return decode_image(message.encoding, message.height, message.width, message.step, message.is_bigendian, data)

    @property
    def _is_compressed(self) -> bool:
        return self.transport == "compressed"


def make_sensor(name: str, given: Mapping[str, Any], stored: Mapping[str, Mapping[str, Any]]) -> Sensor:
    """Put a sensor together from its parameters and the profiles of the bundle.

    Args:
        name: of the sensor.
        given: topic, kind, transport, reliability, depth, camera_info, and profile, a YAML file.
        stored: sensor kind to profile, from the bundle's manifest.

    Raises:
        SensorError: no topic, an unknown word, or a profile that cannot be read or is of another kind.
    """
    if not given["topic"]:
        raise SensorError(f"sensor {name!r} has no topic; set the parameter {name}.topic")
    for key, words in (("kind", KINDS), ("transport", TRANSPORTS), ("reliability", RELIABILITIES)):
        if given[key] not in words:
            raise SensorError(f"sensor {name!r} has {key} {given[key]!r}; use one of {', '.join(words)}")
    return Sensor(
        name,
        given["topic"],
        camera_info_topic(given["topic"], given["camera_info"]),
        _profile(name, given, stored),
        given["transport"],
        given["reliability"],
        given["depth"],
    )


def camera_info_topic(topic: str, given: str) -> str:
    """The calibration's topic: the one named, none for "off", else the sibling of the image topic, as drivers do."""
    if given:
        return "" if given == "off" else given
    head, slash, last = topic.rpartition("/")
    if last in ("compressed", "compressedDepth"):
        head, slash, _ = head.rpartition("/")
    # A relative topic without a folder has its calibration beside it, in the node's namespace.
    return f"{head}{slash}camera_info"


def _profile(name: str, given: Mapping[str, Any], stored: Mapping[str, Mapping[str, Any]]) -> SensorProfile:
    kind = given["kind"]
    if not given["profile"]:
        return SensorProfile.from_dict(stored[kind]) if kind in stored else DEFAULT_PROFILES[kind]
    profile = load_profile(given["profile"])
    if profile.kind != kind:
        raise SensorError(
            f"sensor {name!r} is a {kind} and {given['profile']} describes a {profile.kind}; give another"
        )
    return profile
