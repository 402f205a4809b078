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
        ((f"bundle:={REFERENCE}", "camera:=/image", "threads:=many"), "threads:=many is no number"),
        ((f"bundle:={REFERENCE}", "camera:=/image", "log_level:=loud"), "log level"),
        (("bundle:=/no/such/bundle", "camera:=/image"), "could not be configured"),
        ((f"bundle:={REFERENCE}", "camera:=/no blanks"), "must not contain characters"),
    ],
)
def test_what_cannot_work_ends_the_launch_with_a_sentence_and_a_status(words: tuple[str, ...], reason: str) -> None:
    done = launch("segment.launch.py", *words)
    assert reason in done.stdout + done.stderr
    assert done.returncode == 1
    assert "[segmenter-1] Traceback" not in done.stdout


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sensors: [front", "Couldn't parse params file"),
        ("sensors: 5", "sensors is 5; give a list of texts"),
        ("sensors: front", "give a list of texts"),
        ("sensors: ['../x']", "use letters, digits and _"),
        ("sensors: [front]", "has no topic"),
        ("{sensors: [front], front: {topic: 7}}", "front.topic"),
        ("{sensors: [front], front: {topic: /a, depth: 1000}}", "out of range"),
        ("{sensors: [front], front: {topic: /a, kind: sonar}}", "use one of camera, depth, thermal"),
        ("{sensors: [front], front: {topic: /a, camera_info: 'b c'}}", "has camera_info 'b c'"),
        ("{sensors: [front], front: {topic: /a, profile: /no/such.yaml}}", "give a YAML file"),
    ],
)
def test_a_sensors_file_that_cannot_work_is_one_sentence(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "sensors.yaml").write_text(f"/**:\n  ros__parameters: {text}\n")
    if not text.startswith("{"):
        (tmp_path / "sensors.yaml").write_text(f"/**:\n  ros__parameters:\n    {text}\n")
    done = launch("segment.launch.py", f"bundle:={REFERENCE}", f"sensors:={tmp_path / 'sensors.yaml'}")
    assert reason in done.stdout + done.stderr
    assert done.returncode == 1
    assert "[segmenter-1] Traceback" not in done.stdout


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("bag:=/no/such/bag",), "does not exist"),
        (("bag:=.", "out:=masks", "rate:=0"), "must be more than 0"),
        (("bag:=.", "out:=masks", "delay:=0.5"), "ros2 bag play ended with status 1"),
        (("bag:=.", "out:=/proc/masks", "delay:=60"), "ros2 bag record ended"),
    ],
)
def test_a_replay_that_cannot_work_does_not_end_as_if_it_had(
    words: tuple[str, ...], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = launch("replay.launch.py", f"bundle:={REFERENCE}", "camera:=/image", *words)
    assert reason in done.stdout + done.stderr
    assert done.returncode == 1
