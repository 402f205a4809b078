"""The ring of novel frames: within its budget, of many scenes, readable after anything; and an expert trained of it."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recording import Recording

from mile_edge.bundle import Bundle
from mile_edge.cli.main import main
from mile_edge.data.bag_frames import BagFrames
from mile_edge.data.bags import Bag
from mile_edge.data.class_map import identity_map
from mile_edge.data.labelled_bag import LabelledBag
from mile_edge.data.novelty_ring import NovelFrame, NoveltyRing
from mile_edge.data.sensors import DEFAULT_PROFILES
from mile_edge.data.topics import plan_topics
from mile_edge.data.world import World
from mile_edge.errors import BagError

START = 1_700_000_000_000_000_000


def frame_at(seconds: float, pixels: np.ndarray, expert: str = "fog", topic: str = "/camera/image_raw") -> NovelFrame:
    encoding = {"uint8": "rgb8", "uint16": "16UC1"}[pixels.dtype.name]
    return NovelFrame(topic, encoding, pixels, START + round(seconds * 1e9), "optical", expert, 1.5)


def picture(seed: int, size: tuple[int, int] = (96, 128)) -> np.ndarray:
    """Noise over a ground of its own, so that pictures of other seeds look different from afar."""
    random = np.random.default_rng(seed)
    ground = np.kron(random.integers(0, 200, (4, 4, 3)), np.ones((size[0] // 4, size[1] // 4, 1)))
    return (ground + random.integers(0, 50, (*size, 3))).astype(np.uint8)


def kept_in(ring: Path) -> list[tuple[str, int, np.ndarray]]:
    with Bag.open(ring) as bag:
        frames = BagFrames(bag, plan_topics(bag.topics), DEFAULT_PROFILES, identity_map(8))
        return [(frame.kind, frame.stamp[0], frame.frame) for frame in frames]


def test_what_the_ring_keeps_is_read_as_one_bag_by_kind_of_sensor(tmp_path: Path) -> None:
    ring = NoveltyRing(tmp_path / "ring")
    depth = np.random.default_rng(0).integers(500, 9000, (96, 128), np.uint16)
    assert ring.offer(frame_at(0, picture(0)))
    assert ring.offer(frame_at(0.1, depth, topic="/depth/image_rect_raw"))
    assert not ring.offer(frame_at(0.2, picture(1))), "two frames of a topic lie half a second apart"
    assert not ring.offer(frame_at(1, picture(0))), "the robot stands still"
    assert ring.offer(frame_at(2, picture(2)))
    found = kept_in(tmp_path / "ring")
    assert [kind for kind, *_ in found] == ["camera", "depth", "camera"]
    assert np.abs(found[0][2].astype(int) - picture(0)).mean() < 6
    assert np.array_equal(found[1][2], DEFAULT_PROFILES["depth"].to_frame(depth, "16UC1"))
    assert [path.suffix for path in (tmp_path / "ring").iterdir()] == [".mcap"]


def test_a_frame_larger_than_any_jpeg_is_kept(tmp_path: Path) -> None:
    wide = picture(0, (16, 66_000))
    assert NoveltyRing(tmp_path / "ring").offer(frame_at(0, wide))
    ((_, _, found),) = kept_in(tmp_path / "ring")
    assert np.array_equal(found, wide)


def test_the_budget_holds_and_a_long_scene_leaves_room_for_a_short_one(tmp_path: Path) -> None:
    ring = NoveltyRing(tmp_path / "ring", budget_mb=1)
    size = 192, 256
    short = [frame_at(step, picture(step, size), "night") for step in range(4)]
    # One wall with a little change, for long: by far more than the budget takes.
    wall = picture(99, size)
    long = [frame_at(60 + step, (wall * (1 - 0.015 * step)).astype(np.uint8)) for step in range(40)]
    assert all(ring.offer(frame) for frame in short)
    admitted = sum(ring.offer(frame) for frame in long)
    files = [file.stat().st_size for file in (tmp_path / "ring").iterdir()]
    assert sum(files) == ring.size <= 1_000_000
    assert ring.frames < admitted
    with Bag.open(tmp_path / "ring") as bag:
        told = [json.loads(message.value.data) for message in bag.messages(["/novelty/frame"])]
    assert Counter(each["expert"] for each in told)["night"] == 4
    assert len(kept_in(tmp_path / "ring")) == len(told) == ring.frames


def test_a_ring_is_continued_and_a_torn_segment_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    ring = NoveltyRing(path, budget_mb=1)
    for step in range(12):
        assert ring.offer(frame_at(step, picture(step, (192, 256))))
    files = sorted(path.iterdir())
    assert len(files) > 3
    files[-1].write_bytes(files[-1].read_bytes()[:-700])
    (path / ".part-killed").mkdir()
    again = NoveltyRing(path, budget_mb=1)
    assert not (path / ".part-killed").exists()
    assert len(kept_in(path)) >= 10
    for step in range(12, 40):
        again.offer(frame_at(step, picture(step, (192, 256))))
    assert again.size <= 1_000_000
    steps = [seconds - START // 10**9 for _, seconds, _ in kept_in(path)]
    assert min(steps) < 12 <= max(steps), "both runs are told of"


def test_what_a_ring_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BagError, match=r"0\.1 MB"):
        NoveltyRing(tmp_path / "ring", budget_mb=0.1)
    (tmp_path / "file").write_text("")
    with pytest.raises(BagError, match="file"):
        NoveltyRing(tmp_path / "file")


def test_drive_into_the_unknown_record_teach_the_gate_and_it_is_known(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loop the ring is for: replay, ring, train expert --gate-only --add, replay."""
    pytest.importorskip("torch", reason="the workshop side needs torch")
    bundle = Bundle.open(tiny_bundle).remove("night")
    # A limit as plain thresholds, whatever the shipped bundle is calibrated by, keeps this test about the loop.
    bundle.set_gate(replace(bundle.manifest.gate, novelty=None, thresholds={"clear": 9.5, "dusk": 10.0, "fog": 9.0}))
    worlds = [World(seed) for seed in range(31, 34)]
    for name, times in (("first", (1.0, 4.0, 7.0, 10.0)), ("second", (2.0, 12.0))):
        with Recording(tmp_path / name, "mcap-zstd") as bag:
            moments = [(world, t) for world in worlds for t in times]
            for step, (world, t) in enumerate(moments):
                pixels = world.view(t, "night", "camera")[0]
                bag.image("/camera/image_raw", START + step * 600_000_000, "rgb8", pixels)
    command = ["replay", str(tiny_bundle), "--no-predictions", "--threads", "1", "--json"]
    ring = tmp_path / "ring"
    assert main([*command, str(tmp_path / "first"), "--out", str(tmp_path / "a"), "--record-novel", str(ring)]) == 0
    before = json.loads(capsys.readouterr().out)
    assert before["novel"] > 0.8
    assert before["topics"]["/camera/image_raw"]["novel_spans_ns"]
    with pytest.raises(Exception, match="--gate-only"):
        LabelledBag(ring, bundle.manifest.classes)
    known = ["train", "expert", str(tiny_bundle), str(ring), "--name", "night", "--gate-only", "--add"]
    assert main([*known, "--out", str(tmp_path / "night.safetensors")]) == 0
    gate = Bundle.open(tiny_bundle)
    gate.set_gate(replace(gate.manifest.gate, thresholds={**gate.manifest.gate.thresholds, "night": 14.0}))
    capsys.readouterr()
    assert main([*command, str(tmp_path / "second"), "--out", str(tmp_path / "b")]) == 0
    after = json.loads(capsys.readouterr().out)
    assert after["experts"]["night"]["share"] == 1.0
    assert after["novel"] == 0.0
    shutil.rmtree(ring)
