"""Experts come and go on a working robot; frames keep flowing, and whatever is sent, nothing breaks."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mile_edge_interfaces.msg import Status
from mile_edge_interfaces.srv import AddExpert as AddExpertKind
from sensor_msgs.msg import Image

from harness import ACTIVATE, CONFIGURE, FULL, REFERENCE, Bench, Robot, eventually, image, settle, until_flowing
from mile_edge.bundle import Bundle, verify_bundle

Start = Callable[..., Robot]
Frames = dict[str, np.ndarray]
BASE = ["clear", "dusk", "night", "fog", "rain", "snow", "depth", "thermal"]


@pytest.fixture(scope="session")
def fog() -> Path:
    """The file of the expert fog."""
    entry = next(entry for entry in Bundle.open(REFERENCE).manifest.experts if entry.name == "fog")
    return REFERENCE / entry.file


class Player:
    """Publishes one image at a rate from a thread of its own."""

    def __init__(self, camera: Any, message: Any, rate: float) -> None:
        self._camera, self._message, self._period = camera, message, 1 / rate
        self._stop = threading.Event()
        self.sent = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            self._message.header.stamp.sec = self.sent + 1
            self._camera.publish(self._message)
            self.sent += 1
            due += self._period

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def test_an_expert_is_added_by_path_and_by_bytes_pinned_listed_and_removed(
    bench: Bench, start: Start, frames: Frames, bundle: Path, fog: Path
) -> None:
    start(bundle=str(bundle), hysteresis=0.0)
    status, camera = bench.listen("camera/status", Status), bench.camera("image")
    night = image(frames["night"], "rgb8", 1)
    assert until_flowing(camera, night, status).expert == "night"
    listed = bench.ask("list_experts")
    assert listed.success
    assert list(listed.experts) == BASE
    assert [entry.name for entry in listed.details] == BASE
    added = bench.ask("add_expert", path=str(fog), name="mist")
    assert added.success, added.message
    assert list(added.experts) == [*BASE, "mist"]
    data = fog.read_bytes()
    added = bench.ask("add_expert", data=data, sha256=hashlib.sha256(data).hexdigest(), name="haze")
    assert added.success, added.message
    assert list(added.experts) == [*BASE, "mist", "haze"]
    assert len(set(added.ids)) == len(added.ids)
    pinned = bench.ask("set_expert", expert="haze", sensor="camera")
    assert pinned.success, pinned.message
    eventually(lambda: until_flowing(camera, night, status).expert == "haze", "the pinned expert")
    assert status.messages[-1].pinned
    assert {entry.name: list(entry.pinned) for entry in bench.ask("list_experts").details}["haze"] == ["camera"]
    assert not bench.ask("set_expert", expert="haze", sensor="rear").success
    assert not bench.ask("set_expert", expert="nobody").success
    assert bench.ask("set_expert", expert="mist").success
    removed = bench.ask("remove_expert", name="haze")
    assert removed.success, removed.message
    eventually(lambda: until_flowing(camera, night, status).expert == "mist", "the one pinned for all")
    assert bench.ask("set_expert").success
    eventually(lambda: until_flowing(camera, night, status).expert == "night", "the gate's choice")
    assert bench.ask("remove_expert", name="mist").success
    assert not bench.ask("remove_expert", name="mist").success
    assert not bench.ask("remove_expert", name="clear").success
    assert list(bench.ask("list_experts").experts) == BASE
    assert verify_bundle(bundle) == []


def test_experts_good_damaged_foreign_and_oversized_under_load_lose_no_frame_beyond_the_queue_rule(
    bench: Bench, start: Start, frames: Frames, bundle: Path, fog: Path
) -> None:
    rounds = 200 if FULL else 24
    # Reliable and deep, so that only the queue rule drops frames.
    robot = start(bundle=str(bundle), max_expert_bytes=2_000_000, camera__reliability="reliable", camera__depth=50)
    status, camera = bench.listen("camera/status", Status), bench.camera("image")
    message = image(frames["night"], "rgb8", 0)
    until_flowing(camera, message, status)
    good, chance = fog.read_bytes(), random.Random(0)
    damaged = bytearray(good)
    damaged[len(damaged) // 2] ^= 0xFF
    sent = {
        "good": good,
        "damaged": bytes(damaged),
        "cut": good[: len(good) // 2],
        "foreign": b"\x89PNG\r\n" + bytes(10_000),
        "oversized": bytes(2_000_001),
    }
    first = settle(camera, message, status)
    status.messages.clear()
    player = Player(camera, message, 10.0)
    outcomes = dict.fromkeys(sent, 0)
    for number in range(rounds):
        case = ("good", chance.choice(list(sent)))[number % 2]
        data = sent[case]
        answer = bench.ask("add_expert", data=data, sha256=hashlib.sha256(data).hexdigest(), name="guest")
        assert answer.success == (case == "good"), (case, answer.message)
        assert "\n" not in answer.message
        outcomes[case] += 1
        if answer.success:
            assert bench.ask("remove_expert", name="guest").success
    player.stop()
    eventually(lambda: status.messages and status.messages[-1].header.stamp.sec == player.sent, "the last frame")
    last = status.messages[-1]
    published, dropped = last.published - first.published, last.dropped - first.dropped
    assert published + dropped == player.sent, "every frame was segmented or replaced by a newer one"
    assert all(outcomes[case] for case in ("good", "damaged", "cut", "foreign", "oversized")) or not FULL
    stamps = [message.header.stamp.sec for message in status.messages]
    assert stamps == sorted(stamps)
    assert list(bench.ask("list_experts").experts) == BASE
    assert verify_bundle(bundle) == []
    assert "Traceback" not in robot.said


def test_kill_in_the_middle_of_add_expert_leaves_a_whole_bundle(
    start: Start, bench: Bench, bundle: Path, fog: Path, tmp_path: Path
) -> None:
    chance = random.Random(1)
    given = {"bundle": str(bundle), "sensors": ["camera"], "camera.topic": "image", "threads": 1}
    for attempt in range(8 if FULL else 3):
        # A namespace for each: the middleware believes in a killed server for a while, and would send it requests.
        other = Bench(f"{bench.namespace}_{attempt}")
        robot = Robot(other.namespace, given, tmp_path / f"killed{attempt}.log")
        assert other.change(CONFIGURE), robot.said
        adding = threading.Thread(target=_add_without_answer, args=(other, fog))
        adding.start()
        time.sleep(chance.random() * 0.06)
        os.kill(robot.process.pid, signal.SIGKILL)
        robot.process.wait(10)
        adding.join(15)
        other.close()
        # What a killed run wrote and no manifest names is no part of the bundle; the next change sweeps it away.
        found = verify_bundle(bundle)
        assert all(line.endswith("sweeps what a killed run left") for line in found), (attempt, found)
        names = [entry.name for entry in Bundle.open(bundle).manifest.experts]
        assert names in (BASE, [*BASE, "guest"])
        if "guest" in names:
            Bundle.open(bundle).remove("guest")
    start(bundle=str(bundle))
    assert bench.ask("add_expert", path=str(fog), name="guest").success
    assert verify_bundle(bundle) == []


def _add_without_answer(bench: Bench, fog: Path) -> None:
    try:
        bench.call(AddExpertKind, "add_expert", AddExpertKind.Request(path=str(fog), name="guest"), patience=2.0)
    except AssertionError:
        return


def test_a_bundle_that_cannot_be_written_still_segments_and_says_why_it_takes_no_expert(
    bench: Bench, start: Start, frames: Frames, bundle: Path, fog: Path, tmp_path: Path
) -> None:
    for path in (bundle, bundle / "experts"):
        path.chmod(0o555)
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:
        # Root may write anywhere, so the node runs as somebody else.
        for path in (tmp_path, *tmp_path.parents):
            if path.stat().st_uid == 0 and path != Path("/"):
                path.chmod(path.stat().st_mode | 0o055)
        prefix = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", "HOME=/tmp", "ROS_LOG_DIR=/tmp")
    robot = start(active=False, prefix=prefix, bundle=str(bundle))
    assert bench.change(CONFIGURE), robot.said
    assert bench.change(ACTIVATE)
    mask, camera = bench.listen("camera/mask", Image), bench.camera("image")
    until_flowing(camera, image(frames["clear"], "rgb8", 1), mask)
    answer = bench.ask("add_expert", path=str(fog), name="guest")
    assert not answer.success
    assert "cannot be changed" in answer.message
    assert list(answer.experts) == BASE
    until_flowing(camera, image(frames["clear"], "rgb8", 1), mask)
    for path in (bundle, bundle / "experts"):
        path.chmod(0o755)


def test_without_a_bundle_the_services_say_so(bench: Bench, start: Start) -> None:
    start(active=False)
    for name in ("list_experts", "remove_expert", "set_expert", "add_expert"):
        answer = bench.ask(name)
        assert not answer.success
        assert "configure the node first" in answer.message
