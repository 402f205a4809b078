"""Training on the robot: it says what is missing, it can be cancelled, and frames keep flowing meanwhile."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from mile_edge_interfaces.action import TrainExpert
from mile_edge_interfaces.msg import Status
from rclpy.action import ActionClient

from harness import Bench, Robot, eventually, image, until_flowing
from training_goals import WORKSHOP, Goal, endless

Start = Callable[..., Robot]


@pytest.fixture
def client(bench: Bench) -> Any:
    return ActionClient(bench.node, TrainExpert, "mile_edge/train_expert")


def test_without_torch_the_answer_names_the_interpreter_and_what_to_do(
    bench: Bench, start: Start, client: Any, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    subprocess.run(["/usr/bin/env", "python3", "-m", "venv", "--without-pip", str(bare)], check=True)
    start(train_python=str(bare / "bin" / "python"), train_folder=str(tmp_path))
    result = Goal(bench, client, data=str(tmp_path), name="harbour").result()
    assert result.status == GoalStatus.STATUS_ABORTED
    assert "torch is not installed for" in result.result.message
    result = Goal(bench, client, data="/no/such/bag", name="harbour").result()
    assert "does not exist" in result.result.message
    result = Goal(bench, client, data=str(tmp_path), name="No Name").result()
    assert "lower-case letters" in result.result.message
    # What would be refused after hours of training is refused before them.
    result = Goal(bench, client, data=str(tmp_path), name="fog").result()
    assert "one in the bundle" in result.result.message
    assert len(result.result.experts) == 8


def test_a_training_is_cancelled_and_a_second_one_refused_while_frames_flow(
    bench: Bench, start: Start, client: Any, tmp_path: Path, frames: dict[str, np.ndarray]
) -> None:
    slow = endless(tmp_path)
    robot = start(train_python=str(slow), train_folder=str(tmp_path / "work"))
    status, camera = bench.listen("camera/status", Status), bench.camera("image")
    goal = Goal(bench, client, data=str(tmp_path), name="harbour", steps=100)
    eventually(lambda: any(each.stage == "training" for each in goal.feedback), "feedback")
    assert not Goal(bench, client, data=str(tmp_path), name="other").handle.accepted
    said = "train_expert 'other' is refused: the training of 'harbour' is under way; wait for it or cancel it first"
    eventually(lambda: said in robot.said, "the reason")
    for _ in range(5):
        until_flowing(camera, image(frames["clear"], "rgb8", 1), status)
    pid = int((tmp_path / "work" / "pid").read_text())
    assert os.getpriority(os.PRIO_PROCESS, pid) == 19
    goal.cancel()
    result = goal.result()
    assert result.status == GoalStatus.STATUS_CANCELED
    assert "cancelled" in result.result.message
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_training_ends_with_the_node(bench: Bench, start: Start, client: Any, tmp_path: Path) -> None:
    slow = endless(tmp_path)
    robot = start(train_python=str(slow), train_folder=str(tmp_path / "work"))
    goal = Goal(bench, client, data=str(tmp_path), name="harbour")
    eventually(lambda: (tmp_path / "work" / "pid").exists() and (tmp_path / "work" / "pid").read_text(), "the child")
    assert goal.handle.accepted
    assert robot.end() == 0
    time.sleep(0.1)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "work" / "pid").read_text()), 0)


def test_a_training_does_not_outlive_a_node_that_is_killed(
    bench: Bench, start: Start, client: Any, tmp_path: Path
) -> None:
    slow = endless(tmp_path)
    robot = start(train_python=str(slow), train_folder=str(tmp_path / "work"))
    assert Goal(bench, client, data=str(tmp_path), name="harbour").handle.accepted
    eventually(lambda: (tmp_path / "work" / "pid").exists() and (tmp_path / "work" / "pid").read_text(), "the child")
    child = Path("/proc") / (tmp_path / "work" / "pid").read_text().strip()
    assert child.exists()
    robot.process.kill()
    eventually(lambda: not child.exists() or ") Z " in (child / "stat").read_text(), "the end of the training")


@pytest.mark.skipif(not WORKSHOP, reason="MILE_EDGE_WORKSHOP_PYTHON names no interpreter with torch")
def test_an_expert_is_trained_on_the_robot_and_added(
    bench: Bench, start: Start, client: Any, tmp_path: Path, bundle: Path, frames: dict[str, np.ndarray]
) -> None:
    subprocess.run(
        [WORKSHOP, "-m", "mile_edge", "world", str(tmp_path / "mist"), "--domain", "fog", "--frames", "4"],
        check=True,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )
    start(bundle=str(bundle), train_python=WORKSHOP, train_folder=str(tmp_path / "work"))
    status, camera = bench.listen("camera/status", Status), bench.camera("image")
    until_flowing(camera, image(frames["clear"], "rgb8", 1), status)
    goal = Goal(bench, client, data=str(tmp_path / "mist"), name="mist", gate_only=True)
    result = goal.result(300)
    assert result.status == GoalStatus.STATUS_SUCCEEDED, result.result.message
    assert "mist" in result.result.experts
    assert bench.set(expert="mist")[0].successful
    eventually(lambda: until_flowing(camera, image(frames["fog"], "rgb8", 1), status).expert == "mist", "its masks")
    # The parameter that holds for experts from elsewhere holds for one's own.
    assert bench.set(shadow_frames=30)[0].successful
    result = Goal(bench, client, data=str(tmp_path / "mist"), name="haze", gate_only=True).result(300)
    assert "compared on 30 frames" in result.result.message
    assert "haze" not in result.result.experts
