"""The worker: what waits shares one pass, each frame keeps its own header and size, and nothing ends the thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mile_edge_node.latest import LatestFrames
from mile_edge_node.pixels import fill_image
from mile_edge_node.sensor import Sensor
from mile_edge_node.worker import Masked, Worker

from mile_edge.data.sensors import DEFAULT_PROFILES
from mile_edge.runtime import Segmenter

REFERENCE = Path(__file__).parents[2] / "bundles" / "reference"


class Heard:
    """What the worker handed on, and a way to wait for it."""

    def __init__(self) -> None:
        self.masked: list[Masked] = []
        self.refused: list[tuple[str, str]] = []
        self._more = threading.Condition()

    def on_masked(self, masked: Masked) -> None:
        with self._more:
            self.masked.append(masked)
            self._more.notify_all()

    def on_refused(self, sensor: str, reason: str) -> None:
        with self._more:
            self.refused.append((sensor, reason))
            self._more.notify_all()

    def until(self, done: Callable[[], bool]) -> None:
        with self._more:
            assert self._more.wait_for(done, timeout=60)


def sensor(name: str, kind: str = "camera") -> Sensor:
    return Sensor(name, f"/{name}/image_raw", "", DEFAULT_PROFILES[kind])


def message(pixels: np.ndarray, encoding: str, header: Any = None) -> SimpleNamespace:
    return fill_image(SimpleNamespace(), pixels, encoding, header)


@pytest.fixture
def stage() -> Any:
    """A worker on the shipped bundle with a camera and a depth sensor, not started yet."""
    with Segmenter.open(REFERENCE, threads=1, hysteresis=0) as segmenter:
        queue, heard = LatestFrames(["front", "depth"]), Heard()
        sensors = {"front": sensor("front"), "depth": sensor("depth", "depth")}
        worker = Worker(segmenter, sensors, queue, heard.on_masked, heard.on_refused)
        yield SimpleNamespace(segmenter=segmenter, queue=queue, heard=heard, worker=worker)
        worker.stop()


def test_sensors_of_different_sizes_share_a_pass_and_get_masks_of_their_own_size(
    stage: Any, street_frames: dict[str, np.ndarray]
) -> None:
    from mile_edge.data.world import World

    view = World(4243).views(1.0, ("fog",))["fog"]
    tall = np.ascontiguousarray(street_frames["fog"].repeat(2, axis=0))
    stage.queue.put("front", message(tall, "rgb8", "header of front"))
    stage.queue.put("depth", message(view.depth, "16UC1", "header of depth"))
    stage.worker.start()
    stage.heard.until(lambda: len(stage.heard.masked) == 2)
    front, depth = stage.heard.masked
    assert (front.batch, depth.batch) == (2, 2)
    assert (front.message.header, depth.message.header) == ("header of front", "header of depth")
    assert front.mask.shape == front.confidence.shape == tall.shape[:2]
    assert depth.mask.shape == view.depth.shape
    assert (front.expert, depth.expert) == ("fog", "depth")
    alone = stage.segmenter(depth.frame)
    np.testing.assert_array_equal(depth.mask, alone.mask[0])
    assert depth.distance == pytest.approx(float(alone.distance[0, depth.expert_id]), rel=1e-4)
    assert set(front.timings) == {"wait", "decode", "resize", "network", "restore"}
    assert all(value >= 0 for value in front.timings.values())


def test_masks_may_stay_at_the_networks_size(stage: Any, street_frames: dict[str, np.ndarray]) -> None:
    stage.worker.at_network_size = True
    stage.queue.put("front", message(street_frames["fog"].repeat(2, axis=1), "rgb8"))
    stage.worker.start()
    stage.heard.until(lambda: bool(stage.heard.masked))
    network = stage.segmenter.manifest.network
    assert stage.heard.masked[0].mask.shape == (network.height, network.width)
    assert stage.heard.masked[0].frame.shape == (network.height, network.width, 3)


def test_a_message_that_is_no_image_is_refused_and_its_neighbours_frame_is_segmented(
    stage: Any, street_frames: dict[str, np.ndarray]
) -> None:
    stage.queue.put("front", message(street_frames["clear"], "bayer_rggb8"))
    stage.queue.put("depth", message(np.full((10, 12), 4000, np.uint16), "16UC1"))
    stage.worker.start()
    stage.heard.until(lambda: bool(stage.heard.masked and stage.heard.refused))
    assert stage.heard.masked[0].sensor == "depth"
    assert stage.heard.masked[0].batch == 1
    assert stage.heard.refused[0][0] == "front"
    assert "debayer" in stage.heard.refused[0][1]


def test_the_thread_outlives_a_message_without_fields_and_a_closed_backend(
    stage: Any, street_frames: dict[str, np.ndarray]
) -> None:
    stage.queue.put("front", SimpleNamespace())
    stage.worker.start()
    stage.heard.until(lambda: len(stage.heard.refused) == 1)
    stage.queue.put("front", message(street_frames["clear"], "rgb8"))
    stage.heard.until(lambda: len(stage.heard.masked) == 1)
    stage.segmenter.close()
    stage.queue.put("front", message(street_frames["clear"], "rgb8"))
    stage.heard.until(lambda: len(stage.heard.refused) == 2)
    assert "closed" in stage.heard.refused[1][1]


def test_stopping_finishes_the_pass_in_flight_and_a_second_stop_is_harmless(
    stage: Any, street_frames: dict[str, np.ndarray]
) -> None:
    stage.queue.put("front", message(street_frames["clear"], "rgb8"))
    stage.worker.start()
    stage.heard.until(lambda: bool(stage.heard.masked))
    stage.worker.stop()
    stage.worker.stop()
    stage.queue.put("front", message(street_frames["clear"], "rgb8"))
    assert len(stage.heard.masked) == 1
