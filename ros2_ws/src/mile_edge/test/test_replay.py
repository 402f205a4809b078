"""Real bags, played by `ros2 bag play` and recorded by `ros2 bag record` around the node."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from ament_index_python.packages import PackageNotFoundError, get_package_prefix

from harness import REFERENCE, REPOSITORY
from mile_edge.data.bags import Bag
from mile_edge.data.encodings import decode_compressed, decode_image
from mile_edge.data.sensors import DEFAULT_PROFILES
from mile_edge.runtime import Segmenter

BAGS = Path(os.environ.get("MILE_EDGE_DATA", REPOSITORY.parent / "shared" / "data")) / "bags"
CASES = {
    "street_mcap": ("compressed", "/camera/image_raw/compressed"),
    "street_sqlite3_bgr8_padded": ("raw", "/camera/image_raw"),
}
SENSORS = """/**:
  ros__parameters:
    sensors: [camera, thermal]
    camera: {{topic: {topic}, transport: {transport}}}
    thermal: {{topic: /thermal/image_raw, kind: thermal}}
"""


@pytest.mark.parametrize("name", CASES)
def test_a_bag_is_played_through_the_node_and_its_masks_are_recorded(name: str, tmp_path: Path) -> None:
    if not (BAGS / name).is_dir():
        pytest.skip(f"no bag {BAGS / name} (MILE_EDGE_DATA names another folder)")
    try:
        get_package_prefix("ros2bag")
    except PackageNotFoundError:
        pytest.skip("this ROS 2 has no ros2bag")
    transport, topic = CASES[name]
    out, params, sensors = tmp_path / "masks", tmp_path / "params.yaml", tmp_path / "sensors.yaml"
    # One expert, so that a mask can be compared with the library's whatever frames were dropped before it.
    params.write_text("/**:\n  ros__parameters:\n    expert: clear\n    threads: 1\n")
    words = ["ros2", "launch", "mile_edge", "replay.launch.py", f"bag:={BAGS / name}", f"bundle:={REFERENCE}"]
    sensors.write_text(SENSORS.format(transport=transport, topic=topic))
    words += [f"sensors:={sensors}"]
    words += [f"params:={params}", f"out:={out}", "delay:=3.0", "rate:=0.4"]
    log = tmp_path / "replay.log"
    with log.open("wb") as file:
        process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = process.wait(120)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
                process.wait(30)
    said = log.read_text(errors="replace")
    assert status == 0, said[-3000:]
    assert "Traceback" not in said
    sent = {}
    with Bag.open(BAGS / name) as bag:
        for message in bag.messages({topic}):
            header = message.value.header
            sent[header.stamp.sec, header.stamp.nanosec] = message.value
    masks, labels = [], 0
    with Bag.open(out) as bag:
        assert {"/mile_edge/camera/mask", "/mile_edge/camera/label_info", "/mile_edge/camera/status"} <= set(bag.topics)
        for message in bag.messages({"/mile_edge/camera/mask", "/mile_edge/camera/label_info"}):
            if message.topic.endswith("mask"):
                masks.append(message.value)
            else:
                labels += 1
    assert labels == 1
    assert len(masks) >= 5
    with Segmenter.open(REFERENCE, threads=1) as segmenter:
        segmenter.pin("clear")
        for index, mask in enumerate(masks):
            source = sent[mask.header.stamp.sec, mask.header.stamp.nanosec]
            assert mask.header.frame_id == source.header.frame_id
            if index % 10 == 0:
                if transport == "compressed":
                    pixels = decode_compressed(source.format, source.data)
                else:
                    pixels = decode_image(
                        *(
                            getattr(source, field)
                            for field in ("encoding", "height", "width", "step", "is_bigendian", "data")
                        )
                    )
                wanted = segmenter(np.ascontiguousarray(DEFAULT_PROFILES["camera"].to_frame(pixels))).mask[0]
                np.testing.assert_array_equal(mask.data.reshape(mask.height, mask.width), wanted)
