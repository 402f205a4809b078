"""The queue between subscriptions and the worker: the newest frame wins, and nothing is lost silently."""

from __future__ import annotations

import threading
import time

import pytest
from mile_edge_node.latest import Arrival, LatestFrames


def _taken_after_waiting(queue: LatestFrames, message: str) -> Arrival:
    """What a worker takes that waits, whether or not a frame lies there, until this message is put."""
    taken: list[Arrival] = []
    worker = threading.Thread(target=lambda: taken.extend(queue.take(1)))
    worker.start()
    worker.join(0.05)
    assert worker.is_alive(), "the worker did not wait"
    queue.put("front", message)
    worker.join(5)
    (arrival,) = taken
    return arrival


def test_the_newest_frame_takes_the_place_of_the_older_one_and_the_drop_is_counted() -> None:
    queue = LatestFrames(["front", "rear"])
    for number in range(5):
        queue.put("front", number)
    queue.put("rear", "only")
    taken = queue.take(8)
    assert [(arrival.sensor, arrival.message) for arrival in taken] == [("front", 4), ("rear", "only")]
    assert (queue.dropped("front"), queue.dropped("rear")) == (4, 0)


def test_every_sensor_gets_its_turn_when_passes_take_fewer_frames_than_wait() -> None:
    queue = LatestFrames(["a", "b", "c"])
    turns = []
    for round_ in range(6):
        for sensor in "abc":
            queue.put(sensor, round_)
        turns += [arrival.sensor for arrival in queue.take(1)]
    assert turns == ["a", "b", "c", "a", "b", "c"]


def test_the_worker_waits_for_a_frame_and_wakes_for_it() -> None:
    queue = LatestFrames(["front"])
    arrival = _taken_after_waiting(queue, "frame")
    assert arrival.message == "frame"
    assert 0 <= time.monotonic() - arrival.received < 5


def test_closing_wakes_the_worker_with_nothing_and_takes_nothing_more() -> None:
    queue, taken = LatestFrames(["front"]), []
    waiting = threading.Thread(target=lambda: taken.append(queue.take(1)))
    waiting.start()
    queue.close()
    waiting.join(5)
    queue.put("front", "late")
    assert taken == [[]]
    assert queue.take(1) == []


def test_a_rate_limit_holds_frames_back_and_counts_them_apart_from_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    queue, accepted = LatestFrames(["front"]), 0
    queue.max_rate = 10.0
    for _ in range(300):  # 30 frames per second for ten seconds
        queue.put("front", clock[0])
        accepted += len(queue.take(1)) if "front" in queue._slots else 0
        clock[0] += 1 / 30
    assert accepted == pytest.approx(100, abs=1)
    assert queue.limited("front") == 300 - accepted
    assert queue.dropped("front") == 0
    queue.max_rate = 0.0
    queue.put("front", 0)
    assert len(queue.take(1)) == 1
    assert queue.max_rate == 0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds, as the queue sees them."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def _once_a_minute(queue: LatestFrames, clock: list[float], frames: int) -> None:
    """The worker takes every frame but the last."""
    for number in range(frames):
        queue.put("front", number)
        if number < frames - 1:
            queue.take(1)
            clock[0] += 60.0


def test_a_frame_almost_one_period_old_waits_for_the_next_one(clock: list[float]) -> None:
    queue = LatestFrames(["front"], due_within=10.0)
    _once_a_minute(queue, clock, 6)
    clock[0] += 58.0
    assert _taken_after_waiting(queue, "next").message == "next"
    assert queue.dropped("front") == 1


def test_a_next_frame_that_does_not_come_is_not_waited_for_longer_than_that(clock: list[float]) -> None:
    queue = LatestFrames(["front"], due_within=0.05)
    _once_a_minute(queue, clock, 6)
    clock[0] += 59.98
    assert [arrival.message for arrival in queue.take(1)] == [5]


def test_what_a_pass_costs_beyond_the_network_counts_towards_the_age_of_its_mask(clock: list[float]) -> None:
    queue = LatestFrames(["front"], due_within=1.0)
    queue.passed(8.0)
    _once_a_minute(queue, clock, 6)
    clock[0] += 55.0
    assert _taken_after_waiting(queue, "next").message == "next"
    for _ in range(30):
        queue.passed(0.0)
    _once_a_minute(queue, clock, 6)
    clock[0] += 55.0
    began = time.perf_counter()
    assert [arrival.message for arrival in queue.take(1)] == [5]
    assert time.perf_counter() - began < 0.5, "a cost of long ago is forgotten"


def test_a_late_frame_is_waited_for_and_a_lost_one_or_a_pause_changes_no_period(clock: list[float]) -> None:
    queue = LatestFrames(["front"], due_within=1.0, lateness=10.0)
    _once_a_minute(queue, clock, 6)
    for pause in (120.0, 500.0):
        queue.take(1)
        clock[0] += pause
        queue.put("front", "after a pause")
    clock[0] += 65.0
    assert _taken_after_waiting(queue, "late").message == "late"  # five seconds late, of ten that are allowed


def test_a_young_frame_and_one_long_overdue_are_taken_at_once(clock: list[float]) -> None:
    queue = LatestFrames(["front"], due_within=600.0)
    for age in (5.0, 3000.0):
        _once_a_minute(queue, clock, 6)
        clock[0] += age
        assert [arrival.message for arrival in queue.take(1)] == [5]
        clock[0] += 60.0
