"""Novel frames reach the ring from a thread of their own; a disk that is behind or refuses costs them, and no mask."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mile_edge_node.pixels import fill_image
from mile_edge_node.recorder import WAITING, Recorder
from mile_edge_node.sensor import Sensor

from mile_edge.data.bags import Bag
from mile_edge.data.sensors import DEFAULT_PROFILES
from mile_edge.errors import BagError

SENSORS = {name: Sensor(name, name, "", DEFAULT_PROFILES[name]) for name in ("camera", "thermal")}
TOPICS = {"camera": "/front/image_raw", "thermal": "/thermal/image_raw"}


def message(second: int, pixels: np.ndarray, encoding: str) -> SimpleNamespace:
    stamp = SimpleNamespace(sec=1000 + second, nanosec=5)
    return fill_image(SimpleNamespace(), pixels, encoding, SimpleNamespace(stamp=stamp, frame_id="front"))


def colours(seed: int) -> np.ndarray:
    ground = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return np.kron(ground, np.ones((24, 32, 1), np.uint8))


def test_frames_of_several_sensors_lie_in_the_ring_under_their_own_topics(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "ring", 10, SENSORS, TOPICS)
    counts = np.random.default_rng(0).integers(20_000, 40_000, (96, 128)).astype(np.uint16)
    recorder.offer("camera", message(0, colours(0), "bgr8"), "fog", 1.5)
    recorder.offer("thermal", message(0, counts, "mono16"), "thermal", float("nan"))
    recorder.close()
    assert (recorder.frames, recorder.dropped, recorder.problem) == (2, 0, "")
    assert 0 < recorder.megabytes < 10
    with Bag.open(tmp_path / "ring") as bag:
        assert {"/front/image_raw/compressed", "/thermal/image_raw"} <= set(bag.topics)
        (kept,) = [each.value for each in bag.messages(["/thermal/image_raw"])]
        assert bytes(kept.data) == counts.tobytes()
        assert (kept.encoding, kept.header.stamp.sec, kept.header.frame_id) == ("mono16", 1000, "front")
    again = Recorder(tmp_path / "ring", 10, SENSORS, TOPICS)
    again.close()
    assert again.frames == 2


def test_what_the_disk_has_no_time_for_is_counted_and_nobody_waits(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "ring", 50, SENSORS, TOPICS)
    large = [np.repeat(np.repeat(colours(seed), 8, axis=0), 8, axis=1) for seed in range(4)]
    messages = [message(second, large[second % 4], "rgb8") for second in range(100)]
    for each in messages:
        recorder.offer("camera", each, "fog", 2.0)
    recorder.close()
    assert recorder.dropped > 0
    assert 1 <= recorder.frames <= len(messages) - recorder.dropped
    assert len(messages) - recorder.dropped >= WAITING


def test_a_disk_that_refuses_is_told_once_and_a_mended_one_is_used_again(tmp_path: Path) -> None:
    said: list[str] = []
    recorder = Recorder(tmp_path / "ring", 10, SENSORS, TOPICS, said.append)
    shutil.rmtree(tmp_path / "ring")
    (tmp_path / "ring").write_text("in the way")
    for second in range(3):
        recorder.offer("camera", message(second, colours(second), "rgb8"), "fog", 2.0)
    recorder.drain()
    assert recorder.problem
    (tmp_path / "ring").unlink()
    (tmp_path / "ring").mkdir()
    recorder.offer("camera", message(10, colours(10), "rgb8"), "fog", 2.0)
    recorder.close()
    (sentence,) = said
    assert "novel frames cannot be kept in" in sentence
    assert recorder.problem == ""
    assert recorder.frames >= 1


def test_a_message_that_is_no_image_costs_itself(tmp_path: Path) -> None:
    said: list[str] = []
    recorder = Recorder(tmp_path / "ring", 10, SENSORS, TOPICS, said.append)
    recorder.offer("camera", message(0, colours(0), "nonsense"), "fog", 2.0)
    recorder.offer("camera", message(1, colours(1), "rgb8"), "fog", 2.0)
    recorder.close()
    assert recorder.frames == 1
    assert len(said) == 1


def test_a_ring_that_cannot_be_is_refused_before_a_thread_begins(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BagError, match="cannot be kept"):
        Recorder(tmp_path / "file", 10, SENSORS, TOPICS)
