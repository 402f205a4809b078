"""A bag becomes frames with labels and domains; what cannot is counted by reason, and the rest comes through."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recording import START, Recording

from mile_edge.data.bag_frames import (
    BAD_IMAGE,
    BAD_LABEL,
    OUTSIDE_LABEL,
    STRAY_LABEL,
    UNFIT_IMAGE,
    UNPARSED,
    BagFrame,
    BagFrames,
)
from mile_edge.data.bags import Bag
from mile_edge.data.class_map import identity_map
from mile_edge.data.sensors import DEFAULT_PROFILES
from mile_edge.data.topics import plan_topics

STEP = 100_000_000
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 255, (12, 16, 3)).astype(np.uint8)
RGBA = RNG.integers(0, 255, (12, 16, 4)).astype(np.uint8)
GREY = RNG.integers(0, 255, (12, 16)).astype(np.uint8)
COUNTS = RNG.integers(300, 60000, (12, 16)).astype(np.uint16)
METRES = (COUNTS / 1000).astype(np.float32)
LABEL = (RNG.integers(0, 4, (12, 16)) % 4).astype(np.uint8)


def frames_of(path: Path, classes: int = 4, **plan: object) -> tuple[list[BagFrame], Counter[str]]:
    with Bag.open(path) as bag:
        frames = BagFrames(bag, plan_topics(bag.topics, **plan), DEFAULT_PROFILES, identity_map(classes))
        return list(frames), frames.skipped + bag.losses


@pytest.mark.parametrize("kind", ["mcap-zstd", "sqlite3", "ros1"])
@pytest.mark.parametrize("big", [False, True])
def test_every_encoding_comes_out_of_a_bag_as_its_frame(kind: str, big: bool, tmp_path: Path) -> None:
    path = tmp_path / "drive.bag"
    written = {
        "/a/rgb8": ("rgb8", RGB, RGB),
        "/a/bgr8": ("bgr8", RGB, RGB),
        "/a/rgba8": ("rgba8", RGBA, RGBA[..., :3]),
        "/a/bgra8": ("bgra8", RGBA, RGBA[..., :3]),
        "/a/mono8": ("mono8", GREY, np.stack([GREY] * 3, -1)),
        "/depth/counts": ("16UC1", COUNTS, DEFAULT_PROFILES["depth"].to_frame(COUNTS)),
        "/depth/metres": ("32FC1", METRES, DEFAULT_PROFILES["depth"].to_frame(METRES)),
        "/ir/counts": ("mono16", COUNTS, DEFAULT_PROFILES["thermal"].to_frame(COUNTS)),
    }
    with Recording(path, kind) as recording:
        for place, (topic, (encoding, pixels, _)) in enumerate(written.items()):
            recording.image(topic, START + place, encoding, pixels, padding=place * 3, big=big)
    frames, skipped = frames_of(path)
    assert not skipped
    assert {frame.topic for frame in frames} == set(written)
    for frame in frames:
        np.testing.assert_array_equal(frame.frame, written[frame.topic][2], err_msg=frame.topic)
        assert frame.frame_id == "optical"


def test_compressed_pictures_and_labels_come_out_too(tmp_path: Path) -> None:
    def packed(pixels: np.ndarray, kind: str) -> bytes:
        sink = io.BytesIO()
        Image.fromarray(pixels).save(sink, kind)
        return sink.getvalue()

    with Recording(tmp_path / "bag") as recording:
        recording.compressed("/camera/image_raw/compressed", START, "rgb8; png compressed", packed(RGB, "PNG"))
        recording.compressed("/camera/label", START, "png", packed(LABEL, "PNG"))
        recording.compressed(
            "/depth/image/compressedDepth", START, "16UC1; compressedDepth png", bytes(12) + packed(COUNTS, "PNG")
        )
        recording.compressed("/thermal/image/compressed", START, "mono16; png compressed", packed(COUNTS, "PNG"))
        recording.compressed("/camera/image_raw/compressed", START + STEP, "jpeg", b"\xff\xd8broken")
        recording.compressed("/camera/label", START + 2 * STEP, "jpeg", packed(LABEL, "JPEG"))
    frames, skipped = frames_of(tmp_path / "bag")
    by_topic = {frame.topic: frame for frame in frames}
    np.testing.assert_array_equal(by_topic["/camera/image_raw/compressed"].frame, RGB)
    np.testing.assert_array_equal(by_topic["/camera/image_raw/compressed"].label, LABEL)
    assert by_topic["/depth/image/compressedDepth"].kind == "depth"
    assert by_topic["/thermal/image/compressed"].kind == "thermal"
    assert skipped == {f"{BAD_IMAGE}, on /camera/image_raw/compressed": 1, BAD_LABEL: 1}


def test_the_domain_holds_from_its_message_on(tmp_path: Path) -> None:
    with Recording(tmp_path / "bag") as recording:
        recording.image("/camera/image", START, "rgb8", RGB)
        for index, domain in enumerate(["day", "dusk"], start=1):
            recording.text("/truth/domain", START + index * STEP, domain)
            recording.image("/camera/image", START + index * STEP, "rgb8", RGB)
        recording.text("/weather", START, "fog")
    assert [frame.domain for frame in frames_of(tmp_path / "bag")[0]] == [None, "day", "dusk"]
    assert {frame.domain for frame in frames_of(tmp_path / "bag", domains="/weather")[0]} <= {"fog", None}


@pytest.mark.parametrize("kind", ["mcap", "sqlite3"])
def test_messages_of_another_type_under_one_topic_are_what_they_say_or_counted(kind: str, tmp_path: Path) -> None:
    sink = io.BytesIO()
    Image.fromarray(RGB).save(sink, "PNG")
    with Recording(tmp_path / "bag", kind) as recording:
        recording.text("/truth/domain", START, "day")
        recording.image("/camera/image", START, "rgb8", RGB)
        recording.compressed("/camera/image", START + STEP, "rgb8; png compressed", sink.getvalue())
        recording.text("/camera/image", START + 2 * STEP, "no image")
        recording.image("/truth/domain", START + 3 * STEP, "rgb8", RGB)
    frames, skipped = frames_of(tmp_path / "bag")
    assert [frame.domain for frame in frames] == ["day", "day"]
    for frame in frames:
        np.testing.assert_array_equal(frame.frame, RGB)
    assert skipped == {UNPARSED: 2}


def test_labels_of_another_size_are_fitted_and_noted(tmp_path: Path) -> None:
    with Recording(tmp_path / "bag") as recording:
        recording.image("/camera/image", START, "rgb8", RGB)
        recording.image("/camera/label", START, "mono8", LABEL.repeat(2, axis=0).repeat(2, axis=1))
    (frame,), _ = frames_of(tmp_path / "bag")
    assert frame.label_resized
    np.testing.assert_array_equal(frame.label, LABEL)


def test_what_cannot_become_a_frame_or_a_label_is_counted_and_the_rest_comes_through(tmp_path: Path) -> None:
    with Recording(tmp_path / "bag") as recording:
        for index in range(4):
            recording.image("/camera/image", START + index * STEP, "rgb8", RGB)
        recording.image("/camera/label", START, "mono8", LABEL)
        recording.image("/camera/label", START + STEP, "mono8", LABEL + 200)
        recording.image("/camera/label", START + 2 * STEP, "32FC1", METRES)
        recording.image("/camera/label", START + 3 * STEP + 5_000_000, "mono8", LABEL)
        recording.image("/rear/image", START, "bayer_rggb8", GREY)
        recording.image("/rear/image", START + STEP, "mono8", GREY)
        recording.image("/depth/image", START, "rgb8", RGB)
    frames, skipped = frames_of(tmp_path / "bag", kinds={"/depth/image": "depth"})
    assert Counter(frame.topic for frame in frames) == {"/camera/image": 4, "/rear/image": 1}
    assert [frame.label is not None for frame in frames if frame.topic == "/camera/image"] == [
        True,
        False,
        False,
        False,
    ]
    assert skipped == {
        OUTSIDE_LABEL: 1,
        BAD_LABEL: 1,
        STRAY_LABEL: 1,
        "encoding 'bayer_rggb8' of /rear/image is not supported": 1,
        f"{UNFIT_IMAGE}, on /depth/image": 1,
    }


def test_pictures_that_do_not_decode_are_told_topic_by_topic(tmp_path: Path) -> None:
    with Recording(tmp_path / "bag") as recording:
        for place in range(70):
            recording.compressed(f"/camera_{place:02}/image/compressed", START + place, "jpeg", b"\xff\xd8broken")
        recording.compressed("/a/depth/compressedDepth", START - 1, "16UC1; compressedDepth rvl", bytes(40))
    with Bag.open(tmp_path / "bag") as bag:
        frames = BagFrames(bag, plan_topics(bag.topics), DEFAULT_PROFILES, identity_map(4))
        assert list(frames) == []
    assert "republish it as 16UC1" in frames.examples[f"{BAD_IMAGE}, on /a/depth/compressedDepth"]
    assert "/camera_00" in frames.examples[f"{BAD_IMAGE}, on /camera_00/image/compressed"]
    assert len(frames.skipped) == 65 and frames.skipped[BAD_IMAGE] == 71 - 64


def test_labels_are_lost_with_their_frames_and_not_ahead_of_them(tmp_path: Path) -> None:
    with Recording(tmp_path / "bag") as recording:
        for index in range(8):
            recording.image("/camera/image", START + index * STEP, "rgb8", RGB)
            recording.image("/camera/label", START + index * STEP, "mono8", LABEL + 200)
    with Bag.open(tmp_path / "bag") as bag:
        frames = BagFrames(bag, plan_topics(bag.topics), DEFAULT_PROFILES, identity_map(4))
        for done, frame in enumerate(frames, start=1):
            assert frame.label is None
            assert frames.skipped == {OUTSIDE_LABEL: done}
        assert "/camera/label" in frames.examples[OUTSIDE_LABEL]


def test_an_image_type_wins_over_another_type_that_came_first_under_its_topic(tmp_path: Path) -> None:
    with Recording(tmp_path / "bag") as recording:
        recording.text("/camera/image", START, "no image")
        recording.image("/camera/image", START + STEP, "rgb8", RGB)
        recording.image("/truth/domain", START, "rgb8", RGB)
        recording.text("/truth/domain", START, "day")
    frames, skipped = frames_of(tmp_path / "bag")
    assert [(frame.topic, frame.domain) for frame in frames] == [("/camera/image", "day")]
    assert skipped == {UNPARSED: 2}


def test_a_driver_that_never_sets_stamps_is_matched_by_the_moment_of_recording(tmp_path: Path) -> None:
    with Recording(tmp_path / "bag") as recording:
        for index in range(3):
            recording.image("/camera/image", 0, "rgb8", RGB, at=START + index * STEP)
            recording.image("/camera/label", 0, "mono8", np.full_like(LABEL, index), at=START + index * STEP)
    frames, skipped = frames_of(tmp_path / "bag")
    assert [int(frame.label.max()) for frame in frames if frame.label is not None] == [0, 1, 2]
    assert not skipped


def test_the_recorded_bags_give_every_frame_and_label(real_data: Path) -> None:
    expected = {
        "street_mcap": ({"/camera/image_raw/compressed": 100, "/thermal/image_raw": 32}, 64),
        "street_sqlite3_bgr8_padded": ({"/camera/image_raw": 16, "/thermal/image_raw": 4}, 8),
    }
    for name, (counts, labels) in expected.items():
        frames, skipped = frames_of(real_data / "bags" / name, classes=11)
        found = Counter(frame.topic for frame in frames)
        assert found == {**counts, "/depth/image_rect": 4, "/depth/image_rect_raw": 4}
        assert {frame.topic: frame.kind for frame in frames}["/depth/image_rect"] == "depth"
        assert sum(frame.label is not None for frame in frames) == labels
        assert {frame.domain for frame in frames} == {"day", "dusk", "flir", "orchard"}
        assert not skipped
