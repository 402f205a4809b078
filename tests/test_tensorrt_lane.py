"""What a lane promises of its frames, its graph and the arrays it leaves on the device, on a CUDA of host memory."""

from __future__ import annotations

import gc
import logging
from collections import deque
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")

from host_cuda import HostCuda, HostEngine, on_host

from mile_edge.errors import BackendError
from mile_edge.runtime.tensorrt import device
from mile_edge.runtime.tensorrt.api import Api
from mile_edge.runtime.tensorrt.device import DeviceArray
from mile_edge.runtime.tensorrt.lane import Lane

BATCH, SIZE, ROWS = 2, (4, 6), 3
# As much of the gate as a lane reads.
STATE: Any = SimpleNamespace(
    names=("base", "night", None), prototypes=np.ones((ROWS, 1, 2), np.float32), whitening=np.eye(2, dtype=np.float32)
)
BIAS = np.array([[0, -1, -9], [-1, 0, -9]], np.float32)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> HostCuda:
    made = HostCuda(runtime)
    gc.collect()
    monkeypatch.setattr(device, "runtime", lambda: made)
    monkeypatch.setattr(device, "_FORGOTTEN", deque())
    return made


@pytest.fixture
def engine(cuda: HostCuda) -> HostEngine:
    return HostEngine(cuda, BATCH, SIZE, ROWS)


@pytest.fixture
def lane(engine: HostEngine) -> Iterator[Lane]:
    bank = DeviceArray((ROWS, 4), np.float32)
    made = Lane(Api("tensorrt", None, "10.3"), engine, bank, STATE, BATCH)
    yield made
    made.close()
    bank.close()


def frames(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (BATCH, *SIZE, 3), np.uint8)


def read(array: Any) -> np.ndarray:
    interface = array.__cuda_array_interface__
    return on_host(interface["data"][0], interface["shape"], np.dtype(interface["typestr"])).copy()


def check(found: tuple[Any, ...], seed: int) -> None:
    mask, confidence, expert, distance = found
    assert np.array_equal(mask, frames(seed)[..., 0])
    assert np.array_equal(confidence, frames(seed)[..., 1])
    assert expert.tolist() == [0, 1]
    assert np.array_equal(distance, BIAS)


def test_frames_after_the_capture_are_those_of_the_graph(lane: Lane, cuda: HostCuda) -> None:
    for seed in range(5):
        check(lane.run(frames(seed), STATE, BIAS, on_device=False), seed)
    assert cuda.calls.count("capture") == 1


def test_a_capture_that_fails_costs_no_frame_and_is_said_once(
    lane: Lane, engine: HostEngine, cuda: HostCuda, caplog: pytest.LogCaptureFixture
) -> None:
    engine.within = lambda: cuda.calls[-1] != "capture"
    with caplog.at_level(logging.WARNING, "mile_edge.tensorrt"):
        for seed in range(5):
            check(lane.run(frames(seed), STATE, BIAS, on_device=False), seed)
            cuda.calls.append("a frame")
    assert cuda.calls.count("capture") == 1, "it is not tried again"
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "frames go on without a CUDA graph, a little slower"
    ]


def test_a_pass_that_cannot_be_queued_is_still_an_error(lane: Lane, engine: HostEngine) -> None:
    engine.within = lambda: False
    with pytest.raises(BackendError, match="could not queue the network"):
        lane.run(frames(0), STATE, BIAS, on_device=False)


def test_frames_that_stay_on_the_device_reserve_no_memory_but_the_first_time(lane: Lane, cuda: HostCuda) -> None:
    held = [lane.run(frames(seed), STATE, BIAS, on_device=True)[:2] for seed in range(3)]
    cuda.calls.clear()
    for seed in range(3, 9):
        held.pop(0)
        held.append(lane.run(frames(seed), STATE, BIAS, on_device=True)[:2])
        for back, (mask, confidence) in enumerate(reversed(held)):
            assert np.array_equal(read(mask), frames(seed - back)[..., 0]), "what is held is not written"
            assert np.array_equal(read(confidence), frames(seed - back)[..., 1])
        del mask, confidence
    assert cuda.calls == []


def test_an_array_dropped_within_a_capture_does_not_break_it(
    lane: Lane, engine: HostEngine, cuda: HostCuda, caplog: pytest.LogCaptureFixture
) -> None:
    class Cycle:
        """Only the garbage collector takes it."""

        def __init__(self, *kept: Any) -> None:
            self.kept = (self, *kept)

    kept = lane.run(frames(0), STATE, BIAS, on_device=True), DeviceArray((3,), np.uint8)
    gc.disable()
    Cycle(*kept)
    del kept

    def collect() -> bool:
        if cuda.calls[-1] == "capture":
            gc.collect()
        return True

    engine.within = collect
    for seed in range(1, 4):
        check(lane.run(frames(seed), STATE, BIAS, on_device=False), seed)
    gc.enable()
    assert cuda.calls.count("capture") == 1
    assert not caplog.records


def test_an_array_outlives_its_lane_and_everything_is_given_back(lane: Lane, cuda: HostCuda) -> None:
    kept = lane.run(frames(7), STATE, BIAS, on_device=True)[0]
    lane.run(frames(8), STATE, BIAS, on_device=True)
    lane.close()
    lane.close()
    assert np.array_equal(read(kept), frames(7)[..., 0])
    del kept
    # The bank is not the lane's, and reserving anything gives back what was dropped.
    another = DeviceArray((1,), np.uint8)
    assert len(cuda.memory) == 2
    another.close()
    another.close()
    assert len(cuda.memory) == 1
