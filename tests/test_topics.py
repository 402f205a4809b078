"""What each topic of a bag is for follows from types, encodings and names, and what a user names wins."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recording import START, Recording

from mile_edge.data.bags import Bag, BagTopic
from mile_edge.data.topics import COMPRESSED, RAW, TEXT, match_labels, plan_bag, plan_topics, sensor_kind
from mile_edge.errors import RecipeError


def bag(**topics: str) -> dict[str, BagTopic]:
    named = {name.replace("__", "/"): kind for name, kind in topics.items()}
    return {name: BagTopic(name, kind, 1) for name, kind in named.items()}


STREET = bag(
    __camera__image_raw=RAW,
    __camera__camera_info="sensor_msgs/msg/CameraInfo",
    __camera__label=RAW,
    __depth__image_rect_raw=RAW,
    __thermal__image_raw=RAW,
    __truth__domain=TEXT,
)


@pytest.mark.parametrize(
    ("topic", "encoding", "kind"),
    [
        ("/camera/image_raw", "rgb8", "camera"),
        ("/camera/image_raw", "mono8", "camera"),
        ("/depth/image_rect_raw", "16UC1", "depth"),
        ("/front/points_image", "32FC1", "depth"),
        ("/front/image", "16UC1", "depth"),
        ("/depth/image", "mono16", "depth"),
        ("/front/image", "mono16", "thermal"),
        ("/thermal/image_raw", "16UC1", "thermal"),
        ("/thermal/image_raw", "mono8", "thermal"),
        ("/lwir0/image", "8UC1", "thermal"),
        ("/ir/image", "mono8", "thermal"),
        ("/flir_boson/image_raw", "mono8", "thermal"),
        ("/flir_blackfly/image_raw", "rgb8", "camera"),
        ("/mirror/first/image", "mono8", "camera"),
    ],
)
def test_the_sensor_follows_from_encoding_and_name(topic: str, encoding: str, kind: str) -> None:
    assert sensor_kind(topic, encoding) == kind


def test_images_labels_and_domain_are_found_by_themselves() -> None:
    plan = plan_topics(STREET)
    assert set(plan.images) == {"/camera/image_raw", "/depth/image_rect_raw", "/thermal/image_raw"}
    assert plan.labels == {"/camera/image_raw": "/camera/label"}
    assert plan.domains == "/truth/domain"
    assert not plan.missing
    assert "/camera/camera_info" not in plan.all


def test_a_named_kind_wins_and_off_leaves_a_topic_out() -> None:
    plan = plan_topics(STREET, kinds={"/camera/image_raw": "thermal", "/depth/image_rect_raw": "off"})
    assert plan.images == {"/camera/image_raw": "thermal", "/thermal/image_raw": None}
    assert plan.left_out == {"/depth/image_rect_raw": "switched off"}


def test_named_topics_that_are_absent_or_of_another_type_are_told_and_the_rest_remains() -> None:
    plan = plan_topics(
        STREET,
        kinds={"/rear/image": "camera", "/camera/camera_info": "camera"},
        labels=["/no/label"],
        domains="/weather",
    )
    assert set(plan.missing) >= {"/rear/image", "/camera/camera_info", "/no/label", "/weather"}
    assert "/camera/image_raw" in plan.images
    assert plan.domains is None


def test_a_kind_that_does_not_exist_is_refused() -> None:
    with pytest.raises(RecipeError, match="radar"):
        plan_topics(STREET, kinds={"/camera/image_raw": "radar"})


def test_the_same_pictures_are_not_replayed_twice_unless_named() -> None:
    topics = bag(__camera__image_raw=RAW, __camera__image_raw__compressed=COMPRESSED)
    assert set(plan_topics(topics).images) == {"/camera/image_raw"}
    assert "/camera/image_raw/compressed" in plan_topics(topics).left_out
    named = plan_topics(topics, kinds={"/camera/image_raw/compressed": "camera"})
    assert set(named.images) == set(topics)


def test_a_segmenters_own_outputs_are_left_out() -> None:
    topics = bag(__camera__image_raw=RAW, __camera__mask=RAW, __camera__confidence=RAW, __camera__overlay=COMPRESSED)
    plan = plan_topics(topics)
    assert set(plan.images) == {"/camera/image_raw"}
    assert set(plan.left_out) == {"/camera/mask", "/camera/confidence", "/camera/overlay"}


@pytest.mark.parametrize(
    ("images", "labels", "matches"),
    [
        (["/camera/image_raw/compressed"], ["/camera/label"], {"/camera/image_raw/compressed": "/camera/label"}),
        (
            ["/car/front/image", "/car/rear/image"],
            ["/car/front/label"],
            {"/car/front/image": "/car/front/label"},
        ),
        (
            ["/front/image", "/rear/image"],
            ["/front/label", "/rear/label"],
            {"/front/image": "/front/label", "/rear/image": "/rear/label"},
        ),
        (
            ["/camera/color/image", "/camera/depth/image"],
            ["/camera/label"],
            {"/camera/color/image": "/camera/label", "/camera/depth/image": "/camera/label"},
        ),
        (["/image"], ["/label"], {"/image": "/label"}),
        (["/image", "/other"], ["/label"], {}),
        (["/cam/image"], ["/annotator/label"], {"/cam/image": "/annotator/label"}),
        (["/cam/image", "/two/image"], ["/annotator/label"], {}),
    ],
)
def test_a_label_topic_serves_the_images_nearest_to_it(
    images: list[str], labels: list[str], matches: dict[str, str]
) -> None:
    assert match_labels(images, labels) == matches


def test_a_named_label_topic_serves_images_of_any_namespace() -> None:
    plan = plan_topics(bag(__a__image=RAW, __b__image=RAW, __c__truth=RAW), labels=["/c/truth"])
    assert plan.labels == {"/a/image": "/c/truth", "/b/image": "/c/truth"}
    assert set(plan.images) == {"/a/image", "/b/image"}


JPEG = io.BytesIO()
Image.fromarray(np.full((12, 16, 3), 99, np.uint8)).save(JPEG, "JPEG")


@pytest.mark.parametrize("kind", ["mcap-zstd", "sqlite3"])
@pytest.mark.parametrize("encoding", ["", "bayer_rggb8"])
def test_a_raw_topic_that_gives_no_picture_gives_way_to_its_compressed_twin(
    encoding: str, kind: str, tmp_path: Path
) -> None:
    raw = "/camera/image_raw"
    with Recording(tmp_path / "bag", kind) as recording:
        recording.announce(raw, RAW)
        if encoding:
            recording.image(raw, START, encoding, np.zeros((12, 16), np.uint8))
        recording.compressed(f"{raw}/compressed", START, "jpeg", JPEG.getvalue())
    with Bag.open(tmp_path / "bag") as opened:
        plan = plan_bag(opened)
        named = plan_bag(opened, kinds={raw: "camera"})
        assert not opened.losses
    assert set(plan.images) == {f"{raw}/compressed"}
    assert (f"{encoding!r} is not" if encoding else "no messages") in plan.left_out[raw]
    assert set(named.images) == {raw, f"{raw}/compressed"}


def test_a_raw_topic_that_is_read_keeps_its_twin_out(tmp_path: Path) -> None:
    with Recording(tmp_path / "bag") as recording:
        recording.image("/camera/image_raw", START, "rgb8", np.zeros((12, 16, 3), np.uint8))
        recording.compressed("/camera/image_raw/compressed", START, "jpeg", JPEG.getvalue())
    with Bag.open(tmp_path / "bag") as opened:
        assert set(plan_bag(opened).images) == {"/camera/image_raw"}
