"""Images in, masks out: the right ones, with the frame's own header, for every encoding, byte order and step."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from mile_edge_interfaces.msg import Status
from PIL import Image as Picture
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from vision_msgs.msg import LabelInfo

from harness import (
    BEST_EFFORT,
    LATCHED,
    REFERENCE,
    RELIABLE,
    Bench,
    Robot,
    eventually,
    image,
    pixels_of,
    soon,
    stamp_of,
    until_flowing,
)
from mile_edge.data.sensors import DEFAULT_PROFILES
from mile_edge.runtime import Segmenter
from mile_edge.runtime.resize import resize_frames

Start = Callable[..., Robot]
Frames = dict[str, np.ndarray]


@pytest.fixture(scope="session")
def expected() -> Callable[[np.ndarray], Any]:
    """What the library says of a frame."""
    segmenter = Segmenter.open(REFERENCE, threads=1, hysteresis=0)
    return lambda frame: segmenter(frame)


def test_a_camera_image_becomes_the_librarys_own_mask_with_the_same_header(
    bench: Bench, start: Start, frames: Frames, expected: Any
) -> None:
    mask, confidence = bench.listen("camera/mask", Image), bench.listen("camera/confidence", Image)
    status, labels = bench.listen("camera/status", Status), bench.listen("camera/label_info", LabelInfo, LATCHED)
    camera = bench.camera("image")
    robot = start(hysteresis=0.0)
    stamp = 1_700_000_000_123_456_789
    got = until_flowing(camera, image(frames["fog"], "rgb8", stamp, "front_optical"), mask)
    said, sure = status.wait(1)[0], confidence.wait(1)[0]
    wanted = expected(frames["fog"])
    assert got.encoding == sure.encoding == "mono8"
    assert got.step == got.width == 320
    np.testing.assert_array_equal(pixels_of(got), wanted.mask[0])
    np.testing.assert_array_equal(pixels_of(sure), wanted.confidence[0])
    for message in (got, sure, said):
        assert stamp_of(message) == stamp
        assert message.header.frame_id == "front_optical"
    assert (said.sensor, said.expert, said.pinned, said.novel) == ("camera", "fog", False, False)
    assert said.distance == pytest.approx(float(wanted.distance[0, wanted.expert_index[0]]), rel=1e-4)
    assert said.total_ms >= said.network_ms > 0
    assert [(entry.class_id, entry.class_name) for entry in labels.wait(1)[0].class_map][:2] == [
        (0, "sky"),
        (1, "road"),
    ]
    assert labels.times[0] < mask.times[0], "the labels are known before the first mask"
    assert "Traceback" not in robot.said


def test_every_colour_encoding_with_any_step_gives_the_same_mask(
    bench: Bench, start: Start, frames: Frames, expected: Any
) -> None:
    order = {"rgb8": [0, 1, 2], "bgr8": [2, 1, 0], "rgba8": [0, 1, 2, 0], "bgra8": [2, 1, 0, 0], "mono8": None}
    mask, camera = bench.listen("camera/mask", Image), bench.camera("image")
    start(hysteresis=0.0)
    for number, (encoding, channels) in enumerate(order.items()):
        frame = frames["clear"] if channels else np.repeat(frames["clear"][..., 1:2], 3, axis=2)
        pixels = frame[..., channels] if channels else frame[..., 0]
        for padding in (0, 16):
            stamp = 100 * (number + 1) + padding
            eventually(
                lambda: stamp_of(until_flowing(camera, image(pixels, encoding, stamp, padding=padding), mask)) == stamp,  # noqa: B023
                "the mask of this very image",
            )
            np.testing.assert_array_equal(pixels_of(mask.messages[-1]), expected(frame).mask[0], encoding)


@pytest.mark.parametrize("big", [False, True])
def test_depth_and_thermal_of_both_byte_orders_share_the_pass_and_keep_their_profiles(
    bench: Bench, start: Start, frames: Frames, expected: Any, big: bool
) -> None:
    start(
        sensors=["depth", "metres", "thermal"],
        hysteresis=0.0,
        depth__topic="depth",
        depth__kind="depth",
        metres__topic="metres",
        metres__kind="depth",
        thermal__topic="thermal",
        thermal__kind="thermal",
    )
    profiles = DEFAULT_PROFILES
    sent = {
        "depth": (image(frames["depth"], "16UC1", 5, "d", 4, big), profiles["depth"].to_frame(frames["depth"])),
        "metres": (
            image(frames["depth"].astype(np.float32) / 1000, "32FC1", 6, "m", 8, big),
            profiles["depth"].to_frame(frames["depth"]),
        ),
        "thermal": (
            image(frames["thermal"], "mono16", 7, "t", 2, big),
            profiles["thermal"].to_frame(frames["thermal"]),
        ),
    }
    for name, (message, frame) in sent.items():
        mask = bench.listen(f"{name}/mask", Image)
        got = until_flowing(bench.camera(name), message, mask)
        np.testing.assert_array_equal(pixels_of(got), expected(frame).mask[0])
        assert (stamp_of(got), got.header.frame_id) == (stamp_of(message), message.header.frame_id)


@pytest.mark.parametrize("picture", ["png", "jpeg"])
def test_compressed_images_are_decoded(bench: Bench, start: Start, frames: Frames, expected: Any, picture: str) -> None:
    packed = io.BytesIO()
    Picture.fromarray(frames["clear"]).save(packed, picture.upper(), **({"quality": 95} if picture == "jpeg" else {}))
    frame = np.asarray(Picture.open(io.BytesIO(packed.getvalue())).convert("RGB"))
    message = CompressedImage(format=f"rgb8; {picture} compressed rgb8", data=packed.getvalue())
    mask, camera = bench.listen("camera/mask", Image), bench.camera("image/compressed", CompressedImage)
    start(hysteresis=0.0, camera__topic="image/compressed", camera__transport="compressed")
    np.testing.assert_array_equal(pixels_of(until_flowing(camera, message, mask)), expected(frame).mask[0])


@pytest.mark.parametrize(
    ("sends", "takes", "flows"),
    [
        (RELIABLE, "reliable", True),
        (RELIABLE, "best_effort", True),
        (BEST_EFFORT, "best_effort", True),
        (BEST_EFFORT, "reliable", False),
    ],
)
def test_every_quality_of_service_that_can_match_does(
    bench: Bench, start: Start, frames: Frames, sends: QoSProfile, takes: str, flows: bool
) -> None:
    mask, camera = bench.listen("camera/mask", Image, BEST_EFFORT), bench.camera("image", qos=sends)
    robot = start(camera__reliability=takes)
    message = image(frames["clear"], "rgb8", 1)
    if flows:
        until_flowing(camera, message, mask)
        return
    for _ in range(10):
        camera.publish(message)
    assert not soon(lambda: mask.count)
    eventually(lambda: "incompatible QoS" in robot.said or "QoS" in robot.said, "a warning that names QoS")


def test_the_overlay_and_calibration_come_beside_the_mask_with_its_header(
    bench: Bench, start: Start, frames: Frames
) -> None:
    overlay, info, mask = (
        bench.listen(f"camera/{topic}", kind)
        for topic, kind in (("overlay", Image), ("camera_info", CameraInfo), ("mask", Image))
    )
    camera, calibration = bench.camera("image"), bench.camera("camera_info", CameraInfo)
    start(overlay_opacity=0.0, camera__camera_info="camera_info", mask_size="network")
    given = CameraInfo(height=480, width=640, k=[400.0, 0, 320, 0, 400, 240, 0, 0, 1])
    double = frames["clear"].repeat(2, axis=0).repeat(2, axis=1)

    def both() -> bool:
        calibration.publish(given)
        camera.publish(image(double, "rgb8", 9, "front"))
        return soon(lambda: info.count and overlay.count)

    eventually(both, "calibration and overlay")
    np.testing.assert_allclose(info.messages[-1].k, [200, 0, 160, 0, 200, 120, 0, 0, 1])
    assert (info.messages[-1].width, info.messages[-1].height) == (320, 240)
    assert (mask.messages[-1].width, mask.messages[-1].height) == (320, 240)
    assert overlay.messages[-1].encoding == "rgb8"
    shown = resize_frames(double[None], (240, 320))[0]
    assert np.abs(pixels_of(overlay.messages[-1]).astype(int) - shown).max() <= 1
    for message in (info.messages[-1], overlay.messages[-1]):
        assert (stamp_of(message), message.header.frame_id) == (9, "front")
