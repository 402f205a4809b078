"""What other processes do to the bundle, novel frames that are kept, and labels that grow: seen by a running node."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from mile_edge_interfaces.msg import Status
from sensor_msgs.msg import Image
from vision_msgs.msg import LabelInfo

from harness import CONFIGURE, LATCHED, Bench, Robot, eventually, image, pixels_of, settle, until_flowing
from mile_edge.bundle import Bundle, ClassLabel, write_expert
from mile_edge.data.bags import Bag
from test_experts import BASE, Player

Start = Callable[..., Robot]
Frames = dict[str, np.ndarray]


def elsewhere(*words: object) -> None:
    """Run ``mile-edge experts`` in a process of its own."""
    line = [sys.executable, "-m", "mile_edge", "experts", *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_experts_that_another_process_removes_and_rolls_back_are_taken_over_without_losing_a_frame(
    bench: Bench, start: Start, frames: Frames, bundle: Path
) -> None:
    robot = start(bundle=str(bundle), camera__reliability="reliable", camera__depth=50)
    status, camera = bench.listen("camera/status", Status), bench.camera("image")
    message = image(frames["fog"], "rgb8", 0)
    until_flowing(camera, message, status)
    assert bench.set(expert="fog")[0].successful
    first = settle(camera, message, status)
    status.messages.clear()
    player = Player(camera, message, 5.0)
    elsewhere("remove", bundle, "fog")
    eventually(lambda: list(bench.ask("list_experts").experts) == [n for n in BASE if n != "fog"], "the removal")
    elsewhere("rollback", bundle)
    eventually(lambda: "fog" in bench.ask("list_experts").experts, "the rollback")
    player.stop()
    eventually(lambda: status.messages and status.messages[-1].header.stamp.sec == player.sent, "the last frame")
    last = status.messages[-1]
    assert last.published - first.published + last.dropped - first.dropped == player.sent
    assert last.refused == 0
    assert "the bundle was changed by another process and is taken over: fog went" in robot.said
    # The pin went with the expert, also from the parameter.
    assert not last.pinned
    (bundle / "manifest.json").write_bytes(b"{")
    eventually(lambda: "the change is not taken over" in robot.said, "the refusal")
    until_flowing(camera, message, status)
    time.sleep(1.2)
    assert robot.said.count("the change is not taken over") == 1


def test_labels_grow_before_the_first_mask_of_an_expert_with_new_classes(
    bench: Bench, start: Start, frames: Frames, bundle: Path, tmp_path: Path
) -> None:
    start(bundle=str(bundle))
    labels, mask = bench.listen("camera/label_info", LabelInfo, LATCHED), bench.listen("camera/mask", Image)
    camera, fog = bench.camera("image"), image(frames["fog"], "rgb8", 1)
    until_flowing(camera, fog, mask)
    (before,) = labels.wait(1)
    known = {each.class_id: each.class_name for each in before.class_map}
    like = next(expert for expert in Bundle.open(bundle).experts() if expert.name == "fog")
    # A crane in every pixel: its bias is out of reach for the others.
    crane = replace(
        like,
        name="cranes",
        classes=(*like.classes, ClassLabel("crane", (1, 2, 3))),
        classifier_weight=np.concatenate([like.classifier_weight, np.zeros_like(like.classifier_weight[:1])]),
        classifier_bias=np.append(like.classifier_bias, np.float32(9e3)).astype(np.float32),
    )
    write_expert(tmp_path / "cranes.safetensors", crane)
    answer = bench.ask("add_expert", path=str(tmp_path / "cranes.safetensors"))
    assert answer.success, answer.message
    after = labels.wait(2)[-1]
    grown = {each.class_id: each.class_name for each in after.class_map}
    assert known.items() < grown.items()
    (number,) = grown.keys() - known.keys()
    assert grown[number] == "crane"
    assert bench.set(expert="cranes")[0].successful
    eventually(lambda: (pixels_of(until_flowing(camera, fog, mask)) == number).all(), "a mask with the new class")
    late = bench.listen("camera/label_info", LabelInfo, LATCHED)
    assert {each.class_id: each.class_name for each in late.wait(1)[0].class_map} == grown
    assert bench.ask("remove_expert", name="cranes").success
    until_flowing(camera, fog, mask)
    assert len(labels.messages) == 2, "ids keep their meaning, so nothing shrinks"


def test_novel_frames_are_kept_in_a_ring_and_diagnostics_tell_how_full_it_is(
    bench: Bench, start: Start, frames: Frames, tmp_path: Path
) -> None:
    ring = tmp_path / "ring"
    # Beyond the smallest distance everything is novel.
    robot = start(record_novel=str(ring), record_mb=20.0, novelty_threshold=1e-6)
    said: list[Any] = bench.listen("/diagnostics", DiagnosticArray).messages
    status, camera = bench.listen("camera/status", Status), bench.camera("image")
    for second, domain in enumerate(("clear", "fog", "night", "snow"), 1):
        until_flowing(camera, image(frames[domain], "rgb8", second * 10**9), status)
    assert status.messages[-1].novel

    def told(key: str) -> str:
        lines = [line for array in said for line in array.status if line.name.endswith("segmenter")]
        mine = [line for line in lines if line.hardware_id == f"{bench.namespace}/mile_edge"]
        return next((each.value for each in mine[-1].values if each.key == key), "") if mine else ""

    eventually(lambda: told("novel frames kept") == "4", "four frames kept")
    assert told("novel frames (MB)").endswith("of 20")
    assert told("novel frames dropped") == "0"
    assert robot.end() == 0
    with Bag.open(ring) as bag:
        topic = f"{bench.namespace}/image/compressed"
        assert bag.topics[topic].count == 4
        assert [each.value.header.stamp.sec for each in bag.messages([topic])] == [1, 2, 3, 4]


def test_a_ring_that_cannot_be_written_stops_the_node_at_configure(bench: Bench, start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    robot = start(active=False, record_novel=str(tmp_path / "file"))
    assert not bench.change(CONFIGURE)
    eventually(lambda: "novel frames cannot be kept in" in robot.said, "the reason")
