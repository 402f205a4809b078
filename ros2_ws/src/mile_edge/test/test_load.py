"""More frames than the network can take: drops are counted, the newest is kept, memory stays."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import numpy as np
from mile_edge_interfaces.msg import Status

from harness import FULL, Bench, Inbox, Robot, eventually, image, settle, soon, until_flowing

Start = Callable[..., Robot]
Frames = dict[str, np.ndarray]
SENSORS = ("front", "rear", "left", "right")


def newest(inbox: Inbox, sec: int) -> Status:
    """The status of the very last frame, which is never dropped."""
    eventually(lambda: inbox.messages and inbox.messages[-1].header.stamp.sec == sec, "the newest frame")
    return inbox.messages[-1]


def test_four_sensors_at_thirty_hertz_on_a_slow_backend(bench: Bench, start: Start, frames: Frames) -> None:
    total = 10_000 if FULL else 1_000
    robot = start(
        sensors=list(SENSORS),
        # One thread and shared passes: a pass takes several camera periods.
        max_batch=4,
        **{f"{name}__topic": name for name in SENSORS},
        **{f"{name}__reliability": "reliable" for name in SENSORS},
        **{f"{name}__depth": 50 for name in SENSORS},
    )
    cameras = {name: bench.camera(name) for name in SENSORS}
    status = {name: bench.listen(f"{name}/status", Status) for name in SENSORS}
    message = image(frames["clear"], "rgb8", 0)
    for name in SENSORS:
        until_flowing(cameras[name], message, status[name])

    def full_pass() -> bool:
        for name in SENSORS:
            cameras[name].publish(message)
        return soon(lambda: any(each.messages[-1].batch == 4 for each in status.values()))

    eventually(full_pass, "a pass of all four, so that the network's own memory is all there")
    warm = {name: settle(cameras[name], message, status[name]) for name in SENSORS}
    for each in status.values():
        each.messages.clear()
    memory: list[int] = []
    due = time.monotonic()
    for number, name in zip(range(total), itertools.cycle(SENSORS)):
        message.header.stamp.sec = number + 1
        cameras[name].publish(message)
        if number + 1 in (500, total):
            memory.append(robot.memory)
        due += 1 / 120
        time.sleep(max(0.0, due - time.monotonic()))
    for index, name in enumerate(SENSORS):
        last = newest(status[name], total - len(SENSORS) + index + 1)
        published, dropped = last.published - warm[name].published, last.dropped - warm[name].dropped
        assert published + dropped == total // len(SENSORS), "every frame was segmented or is counted as dropped"
        assert dropped > 0, "the backend was slower than the sensors"
        stamps = [each.header.stamp.sec for each in status[name].messages]
        assert stamps == sorted(stamps), "an older frame never comes after a newer one"
    assert max(each.batch for name in SENSORS for each in status[name].messages) > 1, "what waits shares a pass"
    counts = [len(status[name].messages) for name in SENSORS]
    assert min(counts) > 0.5 * max(counts), f"no sensor starves: {counts}"
    assert memory[1] <= memory[0] * 1.02, memory
    assert "Traceback" not in robot.said
