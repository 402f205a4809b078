"""The launch files as a user meets them: documented arguments, and a sentence where something is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness import REFERENCE

HERE = Path(__file__).parent


def launch(*words: str, patience: float = 60.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ros2", "launch", "mile_edge", *words], capture_output=True, text=True, timeout=patience)


def test_launch_testing_brings_the_node_to_active_and_down_again() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "launch_testing.launch_test", str(HERE / "launch_segment.py")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize(
    ("file", "arguments"),
    [
        (
            "segment.launch.py",
            ("bundle", "sensors", "camera", "depth", "thermal", "backend", "namespace", "use_sim_time"),
        ),
        ("replay.launch.py", ("bag", "out", "bundle", "rate")),
        ("view.launch.py", ("sensor", "node")),
    ],
)
def test_every_argument_is_documented(file: str, arguments: tuple[str, ...]) -> None:
    done = launch(file, "--show-args")
    assert done.returncode == 0, done.stderr
    for name in arguments:
        assert f"'{name}':" in done.stdout
    assert "No description given" not in done.stdout


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("camera:=/image",), "give bundle:=FOLDER"),
        ((f"bundle:={REFERENCE}",), "no sensor is given"),
        ((f"bundle:={REFERENCE}", "camera:=/image", "sensors:=/no/such.yaml"), "is no file"),
        (("bundle:=/no/such/bundle", "camera:=/image"), "could not be configured"),
    ],
)
def test_what_cannot_work_ends_the_launch_with_a_sentence(words: tuple[str, ...], reason: str) -> None:
    done = launch("segment.launch.py", *words)
    assert reason in done.stdout + done.stderr
    assert "Traceback" not in done.stdout
