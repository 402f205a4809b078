"""What nav2's semantic segmentation layer needs of mask, confidence and labels, as its source has it.

It reads pixel `v * width + u`, so rows must have no padding; it looks classes up by the names in its own parameters;
it matches mask, confidence and cloud by stamp; it subscribes with best effort, and to the labels as latched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML
from sensor_msgs.msg import Image
from vision_msgs.msg import LabelInfo

from harness import BEST_EFFORT, LATCHED, REFERENCE, Bench, Robot, eventually, image, pixels_of, stamp_of
from mile_edge.bundle import Bundle

EXAMPLE = Path(__file__).parents[1] / "config" / "nav2_semantic_layer.yaml"
Start = Callable[..., Robot]


def layer() -> dict[str, Any]:
    """The layer's parameters in the example."""
    costmap = YAML(typ="safe", pure=True).load(EXAMPLE.read_text())["local_costmap"]["local_costmap"]
    found: dict[str, Any] = costmap["ros__parameters"]["semantic_layer"]
    return found


def class_types(source: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from (source[name] for name in source["class_types"])


def test_the_example_names_every_class_of_the_bundle_once() -> None:
    source = layer()["camera"]
    named = [name for kind in class_types(source) for name in kind["classes"]]
    assert sorted(named) == sorted(label.name for label in Bundle.open(REFERENCE).manifest.classes)
    for kind in class_types(source):
        assert 0 <= kind["base_cost"] <= kind["max_cost"] <= 254
        assert 0 <= kind["mark_confidence"] <= 255


def test_mask_confidence_and_labels_meet_the_layers_contract(
    bench: Bench, start: Start, frames: dict[str, np.ndarray]
) -> None:
    source = layer()["camera"]
    own = "/mile_edge/"
    topics = [source[f"{topic}_topic"] for topic in ("segmentation", "confidence", "labels")]
    assert all(topic.startswith(own) for topic in topics)
    mask, confidence = (bench.listen(topic.removeprefix(own), Image, BEST_EFFORT) for topic in topics[:2])
    labels = bench.listen(topics[2].removeprefix(own), LabelInfo, LATCHED)
    camera = bench.camera("image")
    start()
    labels.wait(1)
    number = 0

    def ten() -> bool:
        nonlocal number
        number += 1
        camera.publish(image(frames["clear"][:, :301], "rgb8", number * 10**8, "camera_optical", padding=5))
        return len(pairs()) >= 10

    def pairs() -> list[tuple[Image, Image]]:
        sure = {stamp_of(message): message for message in list(confidence.messages)}
        return [(each, sure[stamp_of(each)]) for each in list(mask.messages) if stamp_of(each) in sure]

    eventually(ten, "ten masks with the confidence of the same stamp")
    ids = {entry.class_name: entry.class_id for entry in labels.messages[-1].class_map}
    costs = {name for kind in class_types(source) for name in kind["classes"]}
    assert set(ids) <= costs, "the layer ignores classes that its parameters do not name"
    assert max(ids.values()) < 255
    for pixels, sure in pairs():
        assert pixels.encoding == sure.encoding == "mono8"
        assert (pixels.height, pixels.width) == (sure.height, sure.width) == (240, 301)
        assert pixels.step == pixels.width and sure.step == sure.width
        assert len(pixels.data) == pixels.height * pixels.width == len(sure.data)
        assert pixels.header == sure.header
        assert pixels.header.frame_id == "camera_optical"
        assert stamp_of(pixels) % 10**8 == 0
        assert set(np.unique(pixels_of(pixels))) <= {*ids.values(), 255}
    assert labels.times[0] < mask.times[0]
