"""Every transition, twice; parameters that change and that must not; a way out of every state."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from mile_edge_interfaces.msg import Status
from sensor_msgs.msg import Image
from vision_msgs.msg import LabelInfo

from harness import (
    ACTIVATE,
    CLEANUP,
    CONFIGURE,
    DEACTIVATE,
    LATCHED,
    REFERENCE,
    Bench,
    Robot,
    eventually,
    image,
    pixels_of,
    soon,
    until_flowing,
)

Start = Callable[..., Robot]
Frames = dict[str, np.ndarray]


def test_every_transition_twice_with_masks_only_while_active(bench: Bench, start: Start, frames: Frames) -> None:
    robot = start(active=False)
    mask, camera = bench.listen("camera/mask", Image), bench.camera("image")
    message = image(frames["clear"], "rgb8", 1)
    assert bench.state() == "unconfigured"
    for _ in range(2):
        assert bench.change(CONFIGURE)
        assert bench.state() == "inactive"
        for _ in range(2):
            camera.publish(message)
            assert not soon(lambda: mask.count), "an inactive node takes no frame"
            assert bench.change(ACTIVATE)
            assert bench.state() == "active"
            until_flowing(camera, message, mask)
            assert bench.change(DEACTIVATE)
            assert bench.state() == "inactive"
            time.sleep(1.0)
            mask.count = 0
        assert bench.change(CLEANUP)
        assert bench.state() == "unconfigured"
    assert bench.change(CONFIGURE)
    assert bench.change(ACTIVATE)
    assert bench.change(Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert bench.state() == "finalized"
    assert robot.end() == 0
    assert "Traceback" not in robot.said


@pytest.mark.parametrize("state", ["unconfigured", "inactive"])
def test_shutdown_and_interrupt_end_it_from_every_state(bench: Bench, start: Start, state: str) -> None:
    robot = start(active=False)
    shutdown = Transition.TRANSITION_UNCONFIGURED_SHUTDOWN
    if state == "inactive":
        assert bench.change(CONFIGURE)
        shutdown = Transition.TRANSITION_INACTIVE_SHUTDOWN
    assert bench.change(shutdown)
    assert bench.state() == "finalized"
    assert robot.end(signal.SIGTERM) == 0


def test_an_interrupt_during_inference_ends_it_cleanly(bench: Bench, start: Start, frames: Frames) -> None:
    mask, camera = bench.listen("camera/mask", Image), bench.camera("image")
    # Reliable: of two megabytes in fragments, best effort may lose one on a busy machine.
    robot = start(camera__reliability="reliable")
    message = image(frames["clear"].repeat(3, axis=0).repeat(3, axis=1), "rgb8", 1)
    until_flowing(camera, message, mask)
    for _ in range(20):
        camera.publish(message)
    time.sleep(0.05)
    assert robot.end(signal.SIGINT) == 0
    assert "Traceback" not in robot.said


def test_cleanup_and_configure_reload_the_bundle_without_a_new_process(
    bench: Bench, start: Start, frames: Frames, bundle: Path
) -> None:
    from mile_edge.bundle import Bundle

    robot = start(bundle=str(bundle), hysteresis=0.0)
    status, camera = bench.listen("camera/status", Status), bench.camera("image")
    message = image(frames["fog"], "rgb8", 1)
    assert until_flowing(camera, message, status).expert == "fog"
    pid = robot.process.pid
    Bundle.open(bundle).remove("fog")
    for transition in (DEACTIVATE, CLEANUP, CONFIGURE, ACTIVATE):
        assert bench.change(transition)
    assert until_flowing(camera, message, status).expert != "fog"
    assert robot.process.pid == pid
    assert robot.process.poll() is None


def test_a_configuration_that_fails_among_its_topics_leaves_none_of_them(bench: Bench, start: Start) -> None:
    # Longer than any topic may be called, though the name alone is one.
    endless = "x" * 240
    robot = start(active=False, sensors=["camera", endless], **{f"{endless}__topic": "image"})
    masks = f"{bench.namespace}/mile_edge/camera/mask"
    for _ in range(2):
        assert not bench.change(CONFIGURE)
        assert bench.state() == "unconfigured"
        eventually(lambda: not bench.node.count_publishers(masks), "no publisher of the first sensor")
    assert "cannot be configured" in robot.said
    assert bench.set(sensors=["camera"])[0].successful
    assert bench.change(CONFIGURE), robot.said
    eventually(lambda: bench.node.count_publishers(masks) == 1, "one publisher")


def test_a_configuration_that_cannot_work_is_one_sentence_and_may_be_mended(bench: Bench, start: Start) -> None:
    robot = start(active=False, camera__kind="camera")
    for name, wrong, right, reason in (
        ("bundle", "/no/such/bundle", str(REFERENCE), "/no/such/bundle"),
        ("bundle", "", str(REFERENCE), "no bundle is given"),
        ("sensors", ["a-b"], ["camera"], "use letters, digits and _"),
        ("sensors", ["camera", "camera"], ["camera"], "have a name twice"),
        ("sensors", ["front"], ["camera"], "has no topic"),
        ("expert", "nobody", "auto", "not loaded"),
        ("backend", "tensorrt", "onnx", "tensorrt"),
    ):
        assert bench.set(**{name: wrong})[0].successful, name
        assert not bench.change(CONFIGURE)
        assert bench.state() == "unconfigured"
        eventually(lambda: reason in robot.said, f"{reason!r} in the log")  # noqa: B023
        assert bench.set(**{name: right})[0].successful
    (result,) = bench.set(backend="caffe")
    assert not result.successful
    assert "use one of onnx" in result.reason
    assert bench.change(CONFIGURE)
    assert bench.change(ACTIVATE)
    assert "Traceback" not in robot.said
    assert robot.process.poll() is None


def test_a_parameter_of_the_command_line_that_cannot_be_ends_the_process_with_one_sentence(start: Start) -> None:
    robot = start(active=False, overlay_opacity=7.0)
    assert robot.process.wait(30) == 1
    assert "overlay_opacity" in robot.said
    assert "Traceback" not in robot.said


def test_wrong_parameters_are_refused_with_the_reason_and_right_ones_work_at_once(
    bench: Bench, start: Start, frames: Frames
) -> None:
    start(hysteresis=0.0)
    status, camera = bench.listen("camera/status", Status), bench.camera("image")
    message = image(frames["fog"], "rgb8", 1)
    assert until_flowing(camera, message, status).expert == "fog"
    for name, value, reason in (
        ("overlay_opacity", 2.0, "overlay_opacity"),
        ("max_batch", 65, "max_batch"),
        ("expert", "nobody", "not loaded"),
        ("mask_size", "huge", "use one of sensor, network"),
        ("bundle", "/other", "before configure only"),
        ("camera__topic", "/other", "before configure only"),
        ("hysteresis", float("nan"), "hysteresis"),
    ):
        (result,) = bench.set(**{name: value})
        assert not result.successful, name
        assert reason in result.reason, result.reason
    (result,) = bench.set(expert="snow")
    assert result.successful, result.reason
    eventually(lambda: until_flowing(camera, message, status).expert == "snow", "the pinned expert")
    assert status.messages[-1].pinned
    assert bench.set(expert="auto", novelty_threshold=0.001)[0].successful

    def answer() -> Status | None:
        # A frame that was under way when the parameters changed went through the pinned expert.
        found = until_flowing(camera, message, status)
        return found if found.novel and found.expert == "fog" else None

    novel = eventually(answer, "a novel frame through the gate's own choice")
    assert not novel.pinned
    assert novel.threshold == pytest.approx(0.001)
    assert bench.set(max_rate=2.0)[0].successful
    for _ in range(30):
        camera.publish(message)
        time.sleep(0.03)
    eventually(lambda: until_flowing(camera, message, status).limited > 10, "frames held back")


def test_it_subscribes_only_while_somebody_listens(bench: Bench, start: Start, frames: Frames) -> None:
    start()
    camera = bench.camera("image")
    assert not soon(lambda: camera.get_subscription_count())
    mask = bench.listen("camera/mask", Image)
    eventually(lambda: camera.get_subscription_count() == 1, "a subscription")
    until_flowing(camera, image(frames["clear"], "rgb8", 1), mask)
    for subscription in list(bench.node.subscriptions):
        bench.node.destroy_subscription(subscription)
    eventually(lambda: camera.get_subscription_count() == 0, "no subscription")


def test_labels_are_latched_for_whoever_comes_late(bench: Bench, start: Start, frames: Frames) -> None:
    start()
    mask, camera = bench.listen("camera/mask", Image), bench.camera("image")
    got = until_flowing(camera, image(frames["clear"], "rgb8", 1), mask)
    labels = bench.listen("camera/label_info", LabelInfo, LATCHED).wait(1)[0]
    known = {entry.class_id for entry in labels.class_map}
    assert set(np.unique(pixels_of(got))) <= {*known, 255}


def test_diagnostics_tell_what_the_node_does(bench: Bench, start: Start, frames: Frames) -> None:
    told = bench.listen("/diagnostics", DiagnosticArray)

    def line(part: str) -> tuple[bytes, str] | None:
        for array in reversed(told.messages):
            for status in array.status:
                if status.name == f"mile_edge: {part}":
                    return status.level, status.message
        return None

    start(active=False, stale_after=0.5)
    eventually(lambda: (line("segmenter") or (b"", ""))[1].startswith("not configured"), "not configured")
    assert bench.change(CONFIGURE)
    eventually(lambda: "not active" in (line("segmenter") or (b"", ""))[1], "configured but not active")
    assert bench.change(ACTIVATE)
    eventually(lambda: "nobody listens" in (line("sensor camera") or (b"", ""))[1], "idle")
    mask, camera = bench.listen("camera/mask", Image), bench.camera("image")
    until_flowing(camera, image(frames["clear"], "rgb8", 1), mask)
    eventually(lambda: line("sensor camera") == (b"\x01", (line("sensor camera") or (b"", ""))[1]), "a silent sensor")
    bayer = image(frames["clear"], "rgb8", 1)
    bayer.encoding = "bayer_rggb8"

    def refused() -> bool:
        camera.publish(bayer)
        return "Bayer" in (line("sensor camera") or (b"", ""))[1]

    eventually(refused, "the reason of the refusal")
    assert line("segmenter") is not None


def test_the_healthcheck_of_a_container_says_whether_it_works(bench: Bench, start: Start) -> None:
    def health() -> subprocess.CompletedProcess[str]:
        words = ["ros2", "run", "mile_edge", "health", "--wait", "10"]
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)

    robot = start(active=False)
    assert bench.state() == "unconfigured"
    sick = health()
    assert sick.returncode == 1
    assert "not configured" in sick.stdout
    assert bench.change(CONFIGURE)
    assert bench.change(ACTIVATE)
    well = health()
    assert (well.returncode, well.stdout.strip()) == (0, "healthy")
    robot.end()
    dead = health()
    assert dead.returncode == 1
    assert "reported nothing" in dead.stdout
