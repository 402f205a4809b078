"""A training keeps to what the node gives it, and what a kill or a power cut ended goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from action_msgs.srv import CancelGoal
from mile_edge_interfaces.action import TrainExpert
from mile_edge_interfaces.msg import Status
from rclpy.action import ActionClient

from harness import ACTIVATE, CONFIGURE, REFERENCE, Bench, Robot, eventually, image, until_flowing
from training_goals import WORKSHOP, Goal, endless

Start = Callable[..., Robot]
LAST = max(os.sched_getaffinity(0))


@pytest.fixture
def client(bench: Bench) -> Any:
    return ActionClient(bench.node, TrainExpert, "mile_edge/train_expert")


def greedy(folder: Path) -> Path:
    """A program in place of the interpreter: it keeps to its limits as the trainer does, and takes ever more memory."""
    program = folder / "python"
    program.write_text(
        f"#!{sys.executable}\n"
        "import json, os, sys, time\n"
        "from mile_edge.errors import RecipeError\n"
        "from mile_edge.workers.limits import Limits, read_cores, within\n"
        "if sys.argv[1] == '-c': sys.exit(0)\n"
        "words = dict(zip(sys.argv[1:], sys.argv[2:]))\n"
        "limits = Limits(read_cores(words['--cores']), int(words['--nice']), int(words['--memory']))\n"
        "try:\n"
        "    with within(limits):\n"
        "        found = [sorted(os.sched_getaffinity(0)), os.getpriority(os.PRIO_PROCESS, 0),\n"
        "                 os.sched_getscheduler(0), os.getsid(0) == os.getsid(os.getppid())]\n"
        "        open('found.part', 'w').write(json.dumps(found)); os.rename('found.part', 'found')\n"
        "        held = []\n"
        "        while True: held.append(os.urandom(1) * 4_000_000); time.sleep(0.02)\n"
        "except RecipeError as problem:\n"
        "    print(f'mile-edge: {problem}', file=sys.stderr)\n"
        "    sys.exit(2)\n"
    )
    program.chmod(0o755)
    return program


@contextmanager
def started_again(
    bench: Bench, folder: Path, bundle: Path, given: Mapping[str, str | int]
) -> Iterator[tuple[Bench, Robot]]:
    """A second node, active, and its own bench: the middleware believes in a killed server for a while."""
    other = Bench(f"{bench.namespace}_again")
    settings = {"bundle": str(bundle), "sensors": ["camera"], "camera.topic": "image", "threads": 1, **given}
    again = Robot(other.namespace, settings, folder / "again.log")
    try:
        assert other.change(CONFIGURE), again.said
        assert other.change(ACTIVATE), again.said
        yield other, again
    finally:
        again.end()
        other.close()


def test_a_training_keeps_to_its_cores_and_ends_with_one_sentence_when_its_memory_is_not_enough(
    bench: Bench, start: Start, client: Any, tmp_path: Path, frames: dict[str, np.ndarray]
) -> None:
    folder = tmp_path / "work"
    robot = start(train_python=str(greedy(tmp_path)), train_folder=str(folder), train_memory=200, train_cores=str(LAST))
    status, camera = bench.listen("camera/status", Status), bench.camera("image")
    until_flowing(camera, image(frames["clear"], "rgb8", 1), status)
    result = Goal(bench, client, data=str(tmp_path), name="harbour").result()
    assert result.status == GoalStatus.STATUS_ABORTED
    assert "MB of memory and may take 200 (--memory, the node's train_memory)" in result.result.message
    assert "\n" not in result.result.message
    cores, nice, policy, same_session = json.loads((folder / "found").read_text())
    assert cores == [LAST]
    assert nice == 19
    assert policy == os.SCHED_IDLE
    assert same_session or sys.version_info < (3, 11)
    until_flowing(camera, image(frames["clear"], "rgb8", 2), status)
    assert not (folder / "unfinished.json").exists()
    assert bench.set(train_cores="4321")[0].successful
    result = Goal(bench, client, data=str(tmp_path), name="harbour").result()
    assert "core 4321 is none that may be used here; use some of" in result.result.message
    assert robot.process.poll() is None


def test_a_training_that_ended_with_a_killed_node_goes_on_with_the_next_and_can_be_cancelled(
    bench: Bench, start: Start, client: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "work"
    given = {"train_python": str(endless(tmp_path)), "train_folder": str(folder)}
    robot = start(**given)
    assert Goal(bench, client, data=str(tmp_path), name="harbour", steps=100, sensor="thermal").handle.accepted
    eventually(lambda: (folder / "pid").exists() and (folder / "pid").read_text(), "the child")
    robot.process.kill()
    robot.process.wait(10)
    (folder / "pid").unlink()
    with started_again(bench, tmp_path, REFERENCE, given) as (other, again):
        eventually(lambda: "the training of 'harbour' goes on" in again.said, "the sentence")
        eventually(lambda: (folder / "pid").exists() and (folder / "pid").read_text(), "the child anew")
        assert Path(f"/proc/{(folder / 'pid').read_text().strip()}").exists()
        other.call(CancelGoal, "train_expert/_action/cancel_goal", CancelGoal.Request())
        eventually(lambda: not (folder / "unfinished.json").exists(), "the end of it")
        assert "cancelled" in eventually(lambda: "cancelled" in again.said and again.said, "the sentence")


@pytest.mark.skipif(not WORKSHOP, reason="MILE_EDGE_WORKSHOP_PYTHON names no interpreter with torch")
def test_training_goes_on_from_its_checkpoint_after_both_the_node_and_the_training_were_killed(
    bench: Bench, start: Start, client: Any, tmp_path: Path, bundle: Path
) -> None:
    folder, data = tmp_path / "work", tmp_path / "mist"
    subprocess.run(
        [WORKSHOP, "-m", "mile_edge", "world", str(data), "--domain", "fog", "--frames", "4", "--size", "64x96"],
        check=True,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )
    given = {"train_python": WORKSHOP, "train_folder": str(folder), "train_nice": 0}
    robot = start(bundle=str(bundle), **given)
    assert Goal(bench, client, data=str(data), name="mist", steps=20).handle.accepted
    checkpoint = folder / "mist.safetensors.checkpoint"
    eventually(checkpoint.exists, "a checkpoint", 900)
    # Both at once, as a power cut does; the child's group is its own.
    child = next(pid for pid in _children(robot.process.pid) if b"train" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(robot.process.pid, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)
    robot.process.wait(10)
    with started_again(bench, tmp_path, bundle, given) as (other, again):
        eventually(lambda: "training goes on from step 1" in again.said, "the checkpoint", 600)
        eventually(lambda: "expert 'mist' is trained and added" in again.said, "the expert", 900)
        assert "mist" in other.ask("list_experts").experts
        assert not any(folder.glob("mist*")) and not (folder / "unfinished.json").exists()


def _children(parent: int) -> list[int]:
    return [
        int(status.parent.name)
        for status in Path("/proc").glob("[0-9]*/stat")
        if status.read_text().rpartition(")")[2].split()[1] == str(parent)
    ]
