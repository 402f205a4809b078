"""Which sensor leads the fused mask, when one is due, and whose header it takes."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mile_edge_node.fusing import Moment

FRAME = np.zeros((4, 4, 3), np.uint8)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds, as the moment sees them."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def message(seconds: float) -> Any:
    sec = int(seconds // 1)
    return SimpleNamespace(header=SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=round((seconds - sec) * 1e9))))


def put(moment: Moment, clock: list[float], name: str, seconds: float) -> None:
    clock[0] = 100.0 + seconds
    moment.put(name, message(seconds), FRAME, clock[0])


def test_a_mask_is_due_with_every_frame_of_the_first_sensor_in_whatever_order_the_frames_come(
    clock: list[float],
) -> None:
    moment, due = Moment(["camera", "depth"]), []
    moment.tolerance = 0.01
    for step in range(10):
        for name, delay in (("depth", 0.0), ("camera", 0.005)):
            put(moment, clock, name, step * 0.1)
            clock[0] += delay
            if moment.due({name}, moment.frames()):
                due.append((name, moment.header_of(name) is not None))
    # The very first frame has no camera beside it; the camera's own of that stamp would be the second with it.
    assert due[0] == ("depth", True)
    assert due[1:] == [("camera", False), *[("camera", True)] * 9]


def test_the_next_sensor_leads_while_the_first_is_dead_and_gives_back_when_it_returns(clock: list[float]) -> None:
    moment, leads = Moment(["camera", "depth"]), []
    for step in range(30):
        put(moment, clock, "depth", step * 0.1)
        if not 8 <= step < 20:
            put(moment, clock, "camera", step * 0.1)
        leads.append(moment.lead(moment.frames()))
    assert leads[:9] == ["camera"] * 9
    assert leads[11:20] == ["depth"] * 9
    assert leads[20:] == ["camera"] * 10
    assert moment.silent(moment.frames()) == {}


def test_a_silent_sensor_is_named_and_has_no_say_after_time_jumps_back(clock: list[float]) -> None:
    moment = Moment(["camera", "depth"])
    put(moment, clock, "camera", 1000.0)
    put(moment, clock, "depth", 1000.0)
    assert moment.header_of("depth") is not None
    clock[0] += 5.0
    moment.put("depth", message(1.0), FRAME, clock[0])
    frames = moment.frames()
    assert moment.silent(frames) == {"camera": "silent"}
    assert moment.due({"depth"}, frames)
    assert moment.header_of("depth").header.stamp.sec == 1
    assert moment.header_of("depth") is None
