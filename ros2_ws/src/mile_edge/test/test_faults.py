"""Sensors as they are: they stop, come back, jump in time, send nonsense; the node says so and goes on."""

from __future__ import annotations

import array
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from mile_edge_interfaces.msg import Status
from sensor_msgs.msg import Image

from harness import Bench, Robot, eventually, image, soon, stamp_of, until_flowing

Start = Callable[..., Robot]
Frames = dict[str, np.ndarray]


def test_a_sensor_that_stops_comes_back_jumps_in_time_and_changes_size_is_followed(
    bench: Bench, start: Start, frames: Frames
) -> None:
    robot = start()
    mask, camera = bench.listen("camera/mask", Image), bench.camera("image")
    stamps = [2_000_000_000, 3_000_000_000, 1_000_000_000, 500_000_000, 0, 2_000_000_000_000_000_000]
    for stamp in stamps:
        got = until_flowing(camera, image(frames["clear"], "rgb8", stamp, f"frame{stamp}"), mask)
        assert (stamp_of(got), got.header.frame_id) == (stamp, f"frame{stamp}")
    time.sleep(0.5)
    assert not soon(lambda: len(mask.messages) > len(stamps) + 5), "a silent sensor gives no masks"
    bench.node.destroy_publisher(camera)
    camera = bench.camera("image")
    for height, width in ((48, 64), (240, 320), (1, 1), (333, 217), (480, 640)):
        pixels = np.resize(frames["clear"], (height, width, 3))
        got = until_flowing(camera, image(pixels, "rgb8", height), mask)
        eventually(lambda: (mask.messages[-1].height, mask.messages[-1].width) == (height, width), "its size")  # noqa: B023
    assert "Traceback" not in robot.said


def test_messages_that_are_no_images_are_counted_said_once_and_do_no_harm(
    bench: Bench, start: Start, frames: Frames
) -> None:
    robot = start()
    status, camera = bench.listen("camera/status", Status), bench.camera("image")
    good = image(frames["clear"], "rgb8", 1)
    until_flowing(camera, good, status)
    empty = Image()
    bayer, cut, narrow, huge = (image(frames["clear"], "rgb8", 1) for _ in range(4))
    metres = image(frames["depth"].astype(np.float32), "32FC1", 1)
    bayer.encoding = "bayer_rggb8"
    cut.data = array.array("B", cut.data[:1000])
    narrow.step = 3
    huge.width = huge.height = 2**31
    for bad, reason in (
        (empty, "Image encoding ''"),
        (bayer, "debayer"),
        (cut, "cut short"),
        (narrow, "correct step"),
        (huge, "must be positive and hold at most"),
        (metres, "camera cannot give 32FC1"),
    ):

        def said(bad: Image = bad, reason: str = reason) -> bool:
            camera.publish(bad)
            return soon(lambda: reason in robot.said)

        eventually(said, f"{reason!r} in the log")
        for _ in range(3):
            camera.publish(bad)
        until_flowing(camera, good, status)
    assert robot.said.count("debayer") == 1, "the same reason is not logged for every frame"
    assert status.messages[-1].refused >= 6
    assert "Traceback" not in robot.said


def test_a_stamp_that_no_clock_can_have_is_copied_all_the_same(bench: Bench, start: Start, frames: Frames) -> None:
    start()
    mask, camera = bench.listen("camera/mask", Image), bench.camera("image")
    odd = image(frames["clear"], "rgb8", 0, "frame with blanks / and ümlaut")
    odd.header.stamp.sec, odd.header.stamp.nanosec = -5, 4_294_967_295
    got = until_flowing(camera, odd, mask)
    assert got.header == odd.header


LISTENER = """
import rclpy, sys
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node("listener")
def heard(message):
    print("heard", flush=True)
for topic in ("mask", "confidence"):
    node.create_subscription(Image, f"{sys.argv[1]}/mile_edge/camera/{topic}", heard, 5)
rclpy.spin(node)
"""


def test_a_reliable_listener_that_stands_still_delays_no_other(bench: Bench, start: Start, frames: Frames) -> None:
    start(camera__reliability="reliable", hysteresis=0.0)
    status, camera = bench.listen("camera/status", Status), bench.camera("image")
    message = image(frames["clear"].repeat(2, axis=0).repeat(2, axis=1), "rgb8", 1)
    words = [sys.executable, "-c", LISTENER, bench.namespace]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as listener:
        try:
            until_flowing(camera, message, status)
            while not select.select([listener.stdout], [], [], 0.5)[0]:
                until_flowing(camera, message, status)
            listener.send_signal(signal.SIGSTOP)
            status.messages.clear()
            for _ in range(30):
                until_flowing(camera, message, status)
            # DDS would hold a writer back for a tenth of a second at a time.
            assert np.median([each.publish_ms for each in status.messages]) < 50
        finally:
            listener.kill()
