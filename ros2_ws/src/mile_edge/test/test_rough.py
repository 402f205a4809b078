"""A careless user: Ctrl-C at any moment and twice, misspelt parameters, two robots at once, half of a change wrong."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from mile_edge_interfaces.msg import Status
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image

from harness import ACTIVATE, CONFIGURE, FULL, REFERENCE, Bench, Robot, eventually, image, soon, stamp_of, until_flowing

Start = Callable[..., Robot]
Frames = dict[str, np.ndarray]
MOMENTS = [tenth / 10 for tenth in range(2, 40, 2 if FULL else 6)]


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupt_at_any_moment_of_the_start_is_no_traceback_and_no_failure(start: Start, moment: float) -> None:
    robot = start(active=False)
    # Python's own start is not ours: the handler is there before the first of the node's own imports.
    eventually(lambda: _handles_interrupts(robot.process.pid), "the handler")
    time.sleep(moment - MOMENTS[0])
    robot.process.send_signal(signal.SIGINT)
    assert robot.process.wait(30) == 0
    assert "Traceback" not in robot.said


def _handles_interrupts(pid: int) -> bool:
    """Whether SIGTERM is caught, which Python by itself does not."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def test_the_same_interrupt_from_terminal_and_launch_ends_it_as_cleanly_as_one(
    bench: Bench, start: Start, frames: Frames
) -> None:
    robot = start()
    mask, camera = bench.listen("camera/mask", Image), bench.camera("image")
    until_flowing(camera, image(frames["clear"], "rgb8", 1), mask)
    for _ in range(5):
        robot.process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    assert robot.process.wait(20) == 0
    assert "Traceback" not in robot.said


def test_a_misspelt_parameter_is_told(start: Start) -> None:
    robot = start(lazzy=True, camera__tpic="/front", rear__topic="/rear")
    assert eventually(lambda: "without effect: camera.tpic, lazzy, rear.topic" in robot.said, "the warning")
    assert robot.process.poll() is None


def test_of_several_parameters_all_are_taken_or_none(bench: Bench, start: Start, frames: Frames) -> None:
    start(hysteresis=0.0)
    status, camera = bench.listen("camera/status", Status), bench.camera("image")
    message = image(frames["night"], "rgb8", 1)
    assert until_flowing(camera, message, status).expert == "night"
    for wrong in (Parameter("mask_size", value="huge"), Parameter("bundle", value="/other")):
        both = [Parameter("expert", value="snow").to_parameter_msg(), wrong.to_parameter_msg()]
        request = SetParametersAtomically.Request(parameters=both)
        result = bench.call(SetParametersAtomically, "set_parameters_atomically", request).result
        assert not result.successful
        for _ in range(3):
            assert not until_flowing(camera, message, status).pinned


def test_no_value_of_a_wrong_kind_is_taken_or_harms_the_node(bench: Bench, start: Start, frames: Frames) -> None:
    robot = start()
    status, camera = bench.listen("camera/status", Status), bench.camera("image")
    message = image(frames["clear"], "rgb8", 1)
    until_flowing(camera, message, status)
    odd = [
        float("nan"),
        float("inf"),
        -1e300,
        2**62,
        -(2**62),
        True,
        "",
        "nobody",
        "x" * 10_000,
        [],
        ["a"],
        [1],
        [0.5],
        [b"a"],
    ]
    kinds = {"max_rate": float, "max_batch": int, "hysteresis": float, "overlay_opacity": float, "lazy": bool}
    for name, kind in kinds.items():
        for value in odd:
            (result,) = bench.set(**{name: value})
            assert result.successful == (type(value) is kind is bool), (name, value, result.reason)
    for name in ("expert", "mask_size", "bundle", "sensors", "camera__topic", "no_such_parameter"):
        for value in odd:
            (result,) = bench.set(**{name: value})
            assert not result.successful or (name, value) == ("expert", ""), (name, value)
            assert result.successful or result.reason
    assert until_flowing(camera, message, status).expert == "clear"
    assert "Traceback" not in robot.said


@pytest.mark.parametrize("moment", [0.0, 0.05, 0.1, 0.2, 0.4])
def test_an_interrupt_while_it_is_configured_or_activated_ends_it_cleanly(
    bench: Bench, start: Start, moment: float
) -> None:
    robot = start(active=False)
    assert bench.state() == "unconfigured"
    client = bench.node.create_client(ChangeState, "mile_edge/change_state")
    assert client.wait_for_service(timeout_sec=20)
    for transition in (CONFIGURE, ACTIVATE):
        client.call_async(ChangeState.Request(transition=Transition(id=transition)))
    time.sleep(moment)
    assert robot.end() == 0
    assert "Traceback" not in robot.said


def test_two_robots_share_a_machine_and_neither_hears_the_other(bench: Bench, frames: Frames, tmp_path: Path) -> None:
    given = {"bundle": str(REFERENCE), "sensors": ["camera"], "camera.topic": "image", "threads": 1, "lazy": False}
    sides = [Bench(f"{bench.namespace}/{side}") for side in ("left", "right")]
    robots = [Robot(side.namespace, given, tmp_path / f"{index}.log") for index, side in enumerate(sides)]
    try:
        for side in sides:
            assert side.change(CONFIGURE)
        assert sides[0].change(ACTIVATE)
        masks = [side.listen("camera/mask", Image) for side in sides]
        infos = [side.listen("camera/camera_info", CameraInfo) for side in sides]
        cameras = [side.camera("image") for side in sides]
        calibrations = [side.camera("camera_info", CameraInfo) for side in sides]
        assert stamp_of(until_flowing(cameras[0], image(frames["clear"], "rgb8", 7), masks[0])) == 7
        cameras[1].publish(image(frames["clear"], "rgb8", 8))
        assert not soon(lambda: masks[1].count), "the right one is not active"
        assert _health(f"{sides[0].namespace}/mile_edge").returncode == 0
        assert "not active" in _health(f"{sides[1].namespace}/mile_edge").stdout
        assert sides[1].change(ACTIVATE)
        assert stamp_of(until_flowing(cameras[1], image(frames["clear"], "rgb8", 9), masks[1])) == 9

        def calibrated() -> bool:
            calibrations[1].publish(CameraInfo(height=240, width=320))
            cameras[1].publish(image(frames["clear"], "rgb8", 10))
            return soon(lambda: infos[1].count)

        eventually(calibrated, "the calibration beside a relative topic, in the robot's own namespace")
        assert not infos[0].count
        assert sides[0].set(expert="snow")[0].successful
        assert not sides[1].ask("list_experts").details[0].pinned
    finally:
        for robot in robots:
            assert robot.end() == 0
        for side in sides:
            side.close()


def _health(node: str) -> subprocess.CompletedProcess[str]:
    words = ["ros2", "run", "mile_edge", "health", "--node", node, "--wait", "10"]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
