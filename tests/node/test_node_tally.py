"""What diagnostics say of a sensor, and what a parameter may be."""

from __future__ import annotations

import time

import pytest
from mile_edge_node.parameters import NODE, SENSOR, known
from mile_edge_node.tally import ERROR, OK, WARN, SensorTally, Verdict


def verdict(tally: SensorTally, *, subscribed: bool = True, publishers: int = 1) -> Verdict:
    return tally.verdict(subscribed=subscribed, publishers=publishers, dropped=3, limited=2, stale_after=2.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_sensor_that_delivers_is_fine_and_its_numbers_are_told(clock: list[float]) -> None:
    tally = SensorTally()
    for _ in range(21):
        tally.add("fog", 3.25, False, 0.04)
        clock[0] += 0.1
    told = verdict(tally)
    assert (told.level, told.message) == (OK, "segmenting with expert fog")
    assert told.values["rate (Hz)"] == "10.0"
    assert told.values["stamp age (s)"] == "0.040"
    assert (told.values["dropped"], told.values["rate limited"], told.values["published"]) == ("3", "2", "21")


def test_a_sensor_that_stops_is_a_warning_that_names_the_likely_cause(clock: list[float]) -> None:
    tally = SensorTally()
    tally.add("fog", 3.0, False, 0.0)
    clock[0] += 5
    assert verdict(tally, publishers=0) == Verdict(
        WARN, "no frame for 5.0 s: nobody publishes its topic", verdict(tally, publishers=0).values
    )
    assert "QoS" in verdict(tally).message
    assert verdict(tally).values["rate (Hz)"] == "0.0"
    assert verdict(tally, subscribed=False).level == OK, "nobody listens, so nothing is missing"
    tally.add("fog", 3.0, False, 0.0)
    assert verdict(tally).level == OK


def test_a_sensor_that_never_came_is_a_warning_too(clock: list[float]) -> None:
    tally = SensorTally()
    clock[0] += 3
    assert verdict(tally, publishers=0).level == WARN


def test_refused_messages_are_an_error_until_good_ones_are_back(clock: list[float]) -> None:
    tally = SensorTally()
    assert tally.refuse("Bayer is not supported")
    assert not tally.refuse("Bayer is not supported"), "the same reason is logged once"
    assert tally.refuse("another")
    assert verdict(tally).level == ERROR
    assert verdict(tally).message == "another"
    clock[0] += 3
    tally.add("fog", 1.0, False, 0.0)
    assert verdict(tally).level == OK
    assert verdict(tally).values["refused"] == "3"


def test_a_domain_that_no_expert_knows_is_a_warning(clock: list[float]) -> None:
    tally = SensorTally()
    for index in range(10):
        tally.add("clear", 50.0, index > 2, 0.0)
    assert verdict(tally).level == WARN
    assert "unknown domain: 70%" in verdict(tally).message


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("backend", "caffe", "use one of onnx"),
        ("overlay_opacity", 1.5, "give 0 to 1"),
        ("overlay_opacity", float("nan"), "give 0 to 1"),
        ("max_batch", -1, "give 0 to 64"),
        ("max_batch", "many", "give 0 to 64"),
        ("max_batch", True, "give 0 to 64"),
        ("front.kind", "radar", "use one of camera, depth, thermal"),
        ("front.depth", 0, "give 1 to 100"),
    ],
)
def test_a_wrong_value_is_refused_with_the_reason(name: str, value: object, reason: str) -> None:
    parameter = known(name)
    assert parameter is not None
    assert reason in str(parameter.problem(value))
    assert parameter.problem(parameter.default) is None


def test_every_parameter_is_described_and_every_number_has_a_range() -> None:
    assert known("use_sim_time") is None
    assert known("diagnostic_updater.period") is None
    for parameter in (*NODE, *SENSOR):
        assert parameter.description.endswith(".")
        assert "may change" in parameter.constraints
        if type(parameter.default) in (int, float):
            assert parameter.low is not None, parameter.name
            assert parameter.problem(parameter.default) is None
