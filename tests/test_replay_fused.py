"""A bag's sensors replayed together: moments by stamp, fused masks scored beside each sensor's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the bundle of these tests is exported by torch")

from recording import START, Recording

from mile_edge.cli.main import main
from mile_edge.data.bag_frames import BagFrame
from mile_edge.data.bags import Bag
from mile_edge.data.grouping import moments, stamp_of
from mile_edge.errors import FusionError
from mile_edge.replay import ReplayOptions, replay
from mile_edge.replay.scores import confusion, mean_iou

SIZE = (64, 96)
STEP = 100_000_000
CAMERA, DEPTH, THERMAL = "/camera/image_raw", "/depth/image_rect_raw", "/thermal/image_raw"


def frame(topic: str, stamp: int, time: int | None = None) -> BagFrame:
    pixels = np.zeros((2, 2, 3), np.uint8)
    at = (stamp // 10**9, stamp % 10**9)
    return BagFrame(
        topic, "camera", "rgb8", stamp if time is None else time, at, "", pixels, None, False, None, 0, 0, pixels
    )


def grouped(*frames: BagFrame, tolerance: int = 5) -> list[list[tuple[str, int]]]:
    return [[(each.topic, stamp_of(each)) for each in moment] for moment in moments(frames, ("a", "b"), tolerance)]


def test_frames_within_the_tolerance_are_one_moment_whatever_their_order() -> None:
    assert grouped(frame("a", 100), frame("b", 104), frame("b", 198), frame("a", 200)) == [
        [("a", 100), ("b", 104)],
        [("a", 200), ("b", 198)],
    ]


def test_a_slower_sensor_is_missing_from_some_moments_and_no_frame_is_lost() -> None:
    found = grouped(*(frame("a", stamp) for stamp in (100, 200, 300)), frame("b", 301))
    assert found == [[("a", 100)], [("a", 200)], [("a", 300), ("b", 301)]]


def test_a_sensor_that_fell_silent_is_not_waited_for_longer_than_a_label() -> None:
    second = 10**9
    frames = [frame("b", second), *(frame("a", number * second) for number in range(1, 9))]
    given: list[int] = []

    def stream():
        for each in frames:
            given.append(each.stamp[0])
            yield each

    came = {}
    for moment in moments(stream(), ("a", "b"), 5):
        came[stamp_of(moment[0]) // second] = given[-1]
    assert len(came) == 8
    assert came[2] - 2 == 3, "a second frame waits for the sensor until 2.5 s of bag time are over"


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight moments of three sensors; thermal is dead in two of them, depth missing from one."""
    path = tmp_path_factory.mktemp("drive") / "bag"
    rng = np.random.default_rng(0)
    with Recording(path, "mcap") as recording:
        recording.text("/truth/domain", START, "fog")
        for step in range(8):
            time = START + step * STEP
            label = np.zeros(SIZE, np.uint8)
            label[32:] = 1
            rgb = rng.integers(0, 256, (8, 12, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
            recording.image(CAMERA, time, "rgb8", rgb)
            recording.image("/camera/label", time, "mono8", label)
            if step != 7:
                depth = rng.integers(500, 60_000, SIZE).astype(np.uint16)
                recording.image(DEPTH, time + 3_000_000, "16UC1", depth)
            warm = np.full(SIZE, 100) if step in (3, 4) else rng.integers(0, 256, SIZE)
            recording.image(THERMAL, time + 9_000_000, "mono8", warm.astype(np.uint8))
    return path


def test_fused_masks_are_reported_scored_and_written(fusing_bundle: Path, drive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["replay", str(fusing_bundle), str(drive), "--fuse", "--out", str(out), "--threads", "1"]) == 0
    report = json.loads((out / "report.json").read_text())
    fused = report["fused"]
    assert (report["frames"], fused["moments"], fused["complete"], fused["labelled"]) == (23, 8, 5, 8)
    assert fused["sensors"][THERMAL]["absent"] == {"constant image": 2}
    assert fused["sensors"][DEPTH]["absent"] == {"no frame within the tolerance": 1}
    assert fused["sensors"][CAMERA]["moments"] == 8
    assert set(fused["miou_by_domain"]) == {"fog"}
    assert fused["sensors"][CAMERA]["miou"] == report["miou_by_topic"][CAMERA]
    page = (out / "report.html").read_text()
    assert "Sensors fused" in page
    assert "fused: " in page
    with Bag.open(out / "predictions.mcap") as bag:
        assert bag.topics["/fused/mask"].count == 8
        masks = [each.value.data.reshape(SIZE) for each in bag.messages(["/fused/mask"])]
        truth = np.repeat([[0], [1]], 32, axis=0).repeat(96, axis=1).astype(np.uint8)
        classes = len(report["classes"])
        counts = sum(confusion(truth, mask, classes) for mask in masks)
        assert fused["miou"] == fused["miou_by_domain"]["fog"] == round(float(mean_iou(counts)), 4)
        written = next(iter(bag.messages(["/fused/mask"])))
        assert (written.value.height, written.value.width, written.value.encoding) == (*SIZE, "mono8")
        stamp = written.value.header.stamp
        assert stamp.sec * 10**9 + stamp.nanosec == START
        assert bag.topics["/thermal/mask"].count == 8, "a dead sensor still has its own mask"


def test_a_tolerance_below_the_sensors_offset_pairs_none(fusing_bundle: Path, drive: Path, tmp_path: Path) -> None:
    options = ReplayOptions(tmp_path, fuse=True, tolerance_ns=1_000_000, predictions=False, threads=1, limit=6)
    found = replay(fusing_bundle, drive, options).report["fused"]
    assert (found["moments"], found["complete"]) == (6, 0)


def test_without_fusion_in_the_bundle_or_the_command_nothing_is_fused(
    workshop_bundle: Path, fusing_bundle: Path, drive: Path, tmp_path: Path
) -> None:
    with pytest.raises(FusionError, match="mile-edge train fusion"):
        replay(workshop_bundle, drive, ReplayOptions(tmp_path, fuse=True))
    report = replay(fusing_bundle, drive, ReplayOptions(tmp_path, threads=1, limit=3, predictions=False)).report
    assert "fused" not in report
