"""Messages become frames: every encoding, both byte orders, any step; and what is no image is refused."""

from __future__ import annotations

import array
import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mile_edge_node.sensor import Sensor, camera_info_topic, make_sensor
from PIL import Image

from mile_edge.data.sensors import DEFAULT_PROFILES
from mile_edge.errors import SensorError

GIVEN: dict[str, Any] = {
    "topic": "/front/image_raw",
    "kind": "camera",
    "transport": "raw",
    "reliability": "best_effort",
    "depth": 1,
    "camera_info": "",
    "profile": "",
}
RGB = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
DEPTH = np.random.default_rng(1).integers(0, 9000, (6, 5), np.uint16)
COLOURS = {"rgb8": [0, 1, 2], "bgr8": [2, 1, 0], "rgba8": [0, 1, 2, 0], "bgra8": [2, 1, 0, 0]}


def message(pixels: np.ndarray, encoding: str, padding: int = 0, big: bool = False) -> SimpleNamespace:
    """The fields of an image message, its data as rclpy has it."""
    if pixels.dtype.itemsize > 1:
        pixels = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<"))
    rows = pixels.reshape(len(pixels), -1).view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    data = array.array("B", rows.tobytes())
    height, width = pixels.shape[:2]
    return SimpleNamespace(
        encoding=encoding, height=height, width=width, step=rows.shape[1], is_bigendian=int(big), data=data
    )


def sensor(kind: str = "camera", **changes: Any) -> Sensor:
    return make_sensor("front", {**GIVEN, "kind": kind, **changes}, {})


@pytest.mark.parametrize("padding", [0, 7])
@pytest.mark.parametrize("encoding", COLOURS)
def test_colour_images_of_any_order_and_step_give_the_same_frame(encoding: str, padding: int) -> None:
    pixels = np.ascontiguousarray(RGB[..., COLOURS[encoding]])
    np.testing.assert_array_equal(sensor().to_frame(message(pixels, encoding, padding)), RGB)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("padding", [0, 6])
def test_depth_in_millimetres_and_metres_and_of_both_byte_orders_gives_the_same_frame(padding: int, big: bool) -> None:
    expected = DEFAULT_PROFILES["depth"].to_frame(DEPTH)
    counts = sensor("depth").to_frame(message(DEPTH, "16UC1", padding, big))
    metres = sensor("depth").to_frame(message(DEPTH.astype(np.float32) / 1000, "32FC1", padding, big))
    np.testing.assert_array_equal(counts, expected)
    np.testing.assert_array_equal(metres, expected)


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_grey_images_become_three_equal_channels(encoding: str) -> None:
    frame = sensor().to_frame(message(RGB[..., 0], encoding, 3))
    np.testing.assert_array_equal(frame, np.repeat(RGB[..., :1], 3, axis=2))


@pytest.mark.parametrize("encoding", ["mono16", "16UC1"])
def test_thermal_counts_go_through_the_profile(encoding: str) -> None:
    counts = (DEPTH + 25000).astype(np.uint16)
    frame = sensor("thermal").to_frame(message(counts, encoding))
    np.testing.assert_array_equal(frame, DEFAULT_PROFILES["thermal"].to_frame(counts))


def test_a_raw_colour_frame_is_a_view_of_the_messages_own_bytes() -> None:
    given = message(RGB, "rgb8")
    frame = sensor().to_frame(given)
    assert np.shares_memory(frame, np.frombuffer(given.data, np.uint8))


def test_compressed_images_are_decoded_by_their_own_bytes() -> None:
    packed = io.BytesIO()
    Image.fromarray(RGB).save(packed, "PNG")
    given = SimpleNamespace(format="rgb8; png compressed", data=array.array("B", packed.getvalue()))
    np.testing.assert_array_equal(sensor(transport="compressed").to_frame(given), RGB)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"encoding": "bayer_rggb8"}, "debayer"),
        ({"encoding": "yuv422"}, "YUV"),
        ({"encoding": "16UC1", "step": 10}, "camera cannot give 16UC1"),
        ({"data": array.array("B")}, "cut short"),
        ({"height": 0, "width": 0, "data": array.array("B")}, "0 x 0"),
        ({"step": 3}, "step"),
    ],
)
def test_what_is_no_image_of_this_sensor_is_refused_with_the_reason(change: dict[str, Any], reason: str) -> None:
    given = message(RGB, "rgb8")
    for field, value in change.items():
        setattr(given, field, value)
    with pytest.raises(SensorError, match=reason):
        sensor().to_frame(given)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"topic": ""}, "has no topic"),
        ({"kind": "radar"}, "use one of camera, depth, thermal"),
        ({"transport": "theora"}, "use one of raw, compressed"),
        ({"reliability": "maybe"}, "use one of best_effort, reliable"),
        ({"profile": "/no/such.yaml"}, "cannot be read"),
    ],
)
def test_a_wrong_configuration_is_refused_with_the_reason(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(SensorError, match=reason):
        make_sensor("front", {**GIVEN, **change}, {})


def test_a_profile_file_wins_over_the_bundles_and_must_be_of_the_same_kind(tmp_path: Any) -> None:
    file = tmp_path / "lepton.yaml"
    file.write_text("kind: thermal\nscale: 0.04\n")
    stored = {"thermal": {"kind": "thermal", "scale": 0.02}}
    given = {**GIVEN, "kind": "thermal"}
    assert make_sensor("ir", given, stored).profile.scale == 0.02
    assert make_sensor("ir", {**given, "profile": str(file)}, stored).profile.scale == 0.04
    with pytest.raises(SensorError, match="describes a thermal"):
        make_sensor("ir", {**GIVEN, "profile": str(file)}, stored)


@pytest.mark.parametrize(
    ("topic", "given", "found"),
    [
        ("/front/image_raw", "", "/front/camera_info"),
        ("/front/image_raw/compressed", "", "/front/camera_info"),
        ("/image", "", "/camera_info"),
        ("image", "", "camera_info"),
        ("image/compressed", "", "camera_info"),
        ("/front/image_raw", "off", ""),
        ("/front/image_raw", "/calibration", "/calibration"),
    ],
)
def test_the_calibration_is_looked_for_where_drivers_put_it(topic: str, given: str, found: str) -> None:
    assert camera_info_topic(topic, given) == found
