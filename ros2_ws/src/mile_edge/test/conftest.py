"""One segmenter process per test, in a namespace of its own, over real DDS on loopback."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
# Another session's nodes must not be heard, whatever else runs on this machine.
os.environ.setdefault("ROS_DOMAIN_ID", str(20 + os.getpid() % 80))

from harness import ACTIVATE, CONFIGURE, REFERENCE, Bench, Robot

_numbers = itertools.count()


@pytest.fixture
def bench() -> Iterator[Bench]:
    """This process's node."""
    made = Bench(f"/t{os.getpid()}_{next(_numbers)}")
    yield made
    made.close()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the shipped bundle that a test may change."""
    return Path(shutil.copytree(REFERENCE, tmp_path / "bundle"))


@pytest.fixture
def start(bench: Bench, tmp_path: Path) -> Iterator[Callable[..., Robot]]:
    """Starts a segmenter with one camera on `image`; active unless `active=False`."""
    running: list[Robot] = []

    def begin(*, active: bool = True, prefix: tuple[str, ...] = (), **parameters: Any) -> Robot:
        given: dict[str, Any] = {"bundle": str(REFERENCE), "sensors": ["camera"], "camera.topic": "image", "threads": 1}
        given |= {name.replace("__", "."): value for name, value in parameters.items()}
        robot = Robot(bench.namespace, given, tmp_path / f"segmenter{len(running)}.log", prefix)
        running.append(robot)
        if active:
            assert bench.change(CONFIGURE), robot.said
            assert bench.change(ACTIVATE), robot.said
        return robot

    yield begin
    for robot in running:
        robot.end()


@pytest.fixture(scope="session")
def frames() -> dict[str, np.ndarray]:
    """Frames of one street, (240, 320, 3) uint8 by domain, and counts of depth and thermal, (240, 320) uint16."""
    from mile_edge.data.world import World

    views = World(4243).views(1.0, ("clear", "fog", "night", "snow"))
    found = {domain: view.rgb for domain, view in views.items()}
    return {**found, "depth": views["clear"].depth, "thermal": views["clear"].thermal}
