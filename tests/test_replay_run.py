"""A bag goes through a real bundle into a report that says what happened, damage and interruptions included."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REFERENCE
from recording import START, Recording, bag_file
from rosbags.highlevel import AnyReader

from mile_edge.bundle import Bundle
from mile_edge.cli.main import main
from mile_edge.data.bag_frames import BagFrames
from mile_edge.data.bags import UNPARSED, Bag
from mile_edge.data.class_map import identity_map
from mile_edge.data.sensors import SensorProfile
from mile_edge.data.topics import plan_topics
from mile_edge.errors import BagError, MileError
from mile_edge.replay import ReplayOptions, ReplayResult, replay
from mile_edge.replay.run import _profiles

STEP = 100_000_000
SIZE = (48, 64)
HOSTILE = '/a"><script>alert(1)</script>/image'


@pytest.fixture(scope="session")
def bundle() -> Path:
    """The shipped bundle; no test of this file changes it."""
    path = Path(os.environ.get("MILE_EDGE_BUNDLE", REFERENCE))
    if not path.is_dir():
        pytest.skip(f"there is no bundle at {path} (MILE_EDGE_BUNDLE names another)")
    return path


@pytest.fixture(scope="session")
def domain(bundle: Path) -> str:
    """A domain in which the bundle has a right expert for a camera."""
    return next(name for e in Bundle.open(bundle).experts() if "camera" in e.sensors for name in e.domains)


def pixels(index: int, shape: tuple[int, ...] = (*SIZE, 3)) -> np.ndarray:
    coarse = np.random.default_rng(index).integers(0, 255, (shape[0] // 8, shape[1] // 8, *shape[2:]))
    return coarse.repeat(8, axis=0).repeat(8, axis=1).astype(np.uint8)


def drive(path: Path, domain: str, frames: int = 4, kind: str = "mcap-zstd") -> Path:
    """Three sensors in an odd set of encodings, labels for the camera, the domain named after the first frame."""
    label = np.zeros(SIZE, np.uint8)
    label[:8] = 255
    label[24:] = 1
    with Recording(path, kind) as recording:
        for index in range(frames):
            stamp = START + index * STEP
            recording.image("/camera/image_raw", stamp, "bgr8", pixels(index), padding=5, frame_id="front")
            recording.image("/camera/label", stamp, "mono8", label)
            if index == 0:
                recording.text("/truth/domain", stamp, domain)
            counts = pixels(index, SIZE).astype(np.uint16) * 100 + 400
            recording.image("/depth/image", stamp + 1, "16UC1", counts, big=True)
            recording.image("/ir/image", stamp + 2, "mono16", counts + 20000)
    return path


def run(bundle: Path, bag: Path, out: Path, **options: Any) -> ReplayResult:
    result = replay(bundle, bag, ReplayOptions(out=out, threads=1, **options))
    assert json.loads((out / "report.json").read_text()) == result.report
    assert not [left for left in out.iterdir() if left.name.startswith(".")]
    return result


def test_the_report_holds_every_figure_and_counts_every_frame(bundle: Path, domain: str, tmp_path: Path) -> None:
    result = run(bundle, drive(tmp_path / "bag", domain), tmp_path / "out")
    report = result.report
    assert report["frames"] == 12
    assert report["frames_per_second"] > 0
    assert report["stopped"] is None
    latency = report["latency_ms"]
    assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]
    assert set(report["stages_ms"]) == {"decode", "map", "resize", "network", "restore", "total"}
    topics = report["topics"]
    assert {name: (topic["kind"], topic["frames"], topic["labelled"]) for name, topic in topics.items()} == {
        "/camera/image_raw": ("camera", 4, 4),
        "/depth/image": ("depth", 4, 0),
        "/ir/image": ("thermal", 4, 0),
    }
    experts = [expert.name for expert in Bundle.open(bundle).experts()]
    assert list(report["experts"]) == experts
    assert sum(expert["frames"] for expert in report["experts"].values()) == 12
    gate = report["gate"]
    judged = gate["frames"] + sum(gate["unknown_domain"].values()) + gate["no_truth"]
    assert judged == 12
    assert gate["no_truth"] == 1
    hits = sum(row.get(right, 0) for right, row in gate["confusion"].items())
    assert gate["accuracy"] == round(hits / gate["frames"], 4)
    assert 0 <= report["miou"] <= 1
    assert set(report["miou_by_domain"]) == {domain, "(no domain)"}
    assert report["skipped"] == {}
    assert [path.name for path in result.files] == ["report.html", "report.json", "predictions.mcap"]


def test_predictions_keep_stamp_and_frame_and_say_what_ids_mean(bundle: Path, domain: str, tmp_path: Path) -> None:
    run(bundle, drive(tmp_path / "bag", domain, 2), tmp_path / "out")
    names = [label.name for label in Bundle.open(bundle).manifest.classes]
    counts: Counter[str] = Counter()
    with AnyReader([tmp_path / "out" / "predictions.mcap"]) as reader:
        for connection, recorded, raw in reader.messages():
            message: Any = reader.deserialize(raw, connection.msgtype)
            counts[connection.topic] += 1
            if connection.topic == "/camera/mask":
                stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
                assert stamp == recorded == START + (counts["/camera/mask"] - 1) * STEP
                assert message.header.frame_id == "front"
                assert (message.encoding, message.height, message.width, message.step) == ("mono8", *SIZE, SIZE[1])
                assert set(message.data) <= set(range(len(names)))
            elif connection.topic == "/camera/label_info":
                assert [(each.class_id, each.class_name) for each in message.class_map] == list(enumerate(names))
    assert counts["/camera/label_info"] == 1
    assert all(counts[f"/{place}/{name}"] == 2 for place in ("camera", "depth", "ir") for name in ("mask", "overlay"))


def test_damage_unknown_encodings_and_missing_topics_are_named_and_the_rest_is_scored(
    bundle: Path, domain: str, tmp_path: Path
) -> None:
    path = tmp_path / "bag"
    with Recording(path, "mcap") as recording:
        recording.text("/truth/domain", START, domain)
        for index in range(3):
            stamp = START + index * STEP
            recording.image("/camera/image_raw", stamp, "rgb8", pixels(index))
            recording.image("/rear/image_raw", stamp, "bayer_rggb8", pixels(index, SIZE))
            recording.write_raw("/side/image_raw", "sensor_msgs/msg/Image", stamp, b"\0\1\0\0broken")
        recording.image("/camera/label", START, "mono8", np.full(SIZE, 77, np.uint8))
        recording.image("/camera/label", START + STEP, "mono8", np.zeros(SIZE, np.uint8))
    report = run(bundle, path, tmp_path / "out", kinds={"/gone/image": "camera"}, labels=("/camera/label",)).report
    assert report["frames"] == 3
    assert report["labelled_frames"] == 1
    assert report["miou"] is not None
    assert report["skipped"] == {
        UNPARSED: 3,
        "encoding 'bayer_rggb8' of /rear/image_raw is not supported": 3,
        "label with ids outside the label space": 1,
        "named topic /gone/image is not in the bag, or not of the right type": 1,
    }
    assert "Bayer" in report["skipped_examples"]["encoding 'bayer_rggb8' of /rear/image_raw is not supported"]


@pytest.mark.parametrize("kind", ["mcap-zstd", "sqlite3"])
def test_a_bag_that_is_cut_short_is_replayed_as_far_as_it_goes(
    bundle: Path, domain: str, kind: str, tmp_path: Path
) -> None:
    whole = bag_file(drive(tmp_path / "bag", domain, 8, kind))
    cut = tmp_path / f"cut{whole.suffix}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    report = run(bundle, cut, tmp_path / "out", limit=9).report
    assert 0 < report["frames"] <= 9
    assert report["notes"] or report["stopped"] == "limit"


def test_a_ros1_bag_replays_like_any_other(bundle: Path, domain: str, tmp_path: Path) -> None:
    report = run(bundle, drive(tmp_path / "old.bag", domain, 2, "ros1-lz4"), tmp_path / "out").report
    assert report["frames"] == 6
    assert report["labelled_frames"] == 2


def test_without_truth_there_is_no_figure_but_a_reason(bundle: Path, tmp_path: Path) -> None:
    with Recording(tmp_path / "bag") as recording:
        recording.image("/camera/image_raw", START, "rgb8", pixels(0))
    report = run(bundle, tmp_path / "bag", tmp_path / "out").report
    assert report["gate"]["accuracy"] is None
    assert "no true domain" in report["gate"]["reason"]
    assert report["miou"] is None
    assert report["miou_reason"] == "no frame has a label"
    assert report["miou_by_domain"] == {}


def test_the_page_needs_nothing_else_and_shows_hostile_names_as_text(bundle: Path, tmp_path: Path) -> None:
    with Recording(tmp_path / "bag") as recording:
        for index in range(3):
            recording.text("/truth/domain", START + index * STEP, f"<img src=x onerror=alert({index})>")
            recording.image(HOSTILE, START + index * STEP, "rgb8", pixels(index))
    run(bundle, tmp_path / "bag", tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script" not in page
    assert "<img src=x" not in page
    assert not re.search(r"""(?:src|href)=["'](?!data:image/jpeg;base64,|#)""", page)
    assert not re.search(r"https?://|@import|url\(", page)
    assert "alert(1)" in page


def test_a_limit_and_a_wish_to_stop_end_early_with_a_valid_report(bundle: Path, domain: str, tmp_path: Path) -> None:
    bag = drive(tmp_path / "bag", domain)
    assert run(bundle, bag, tmp_path / "a", limit=5).report["frames"] == 5
    seen: list[tuple[int, int | None]] = []
    result = replay(
        bundle,
        bag,
        ReplayOptions(out=tmp_path / "b", threads=1),
        progress=lambda done, total: seen.append((done, total)),
        stop=lambda: len(seen) >= 2,
    )
    assert seen == [(1, 12), (2, 12)]
    assert (result.report["frames"], result.report["stopped"]) == (2, "interrupted")
    with AnyReader([tmp_path / "b" / "predictions.mcap"]) as reader:
        assert sum(1 for connection, *_ in reader.messages() if connection.topic.endswith("/mask")) == 2


def test_outputs_replace_older_ones_and_leave_no_stale_masks(bundle: Path, domain: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bag = drive(tmp_path / "bag", domain, 1)
    killed = out / ".replay-999999999-x"
    killed.mkdir(parents=True)
    run(bundle, bag, out)
    assert sorted(path.name for path in out.iterdir()) == ["predictions.mcap", "report.html", "report.json"]
    result = run(bundle, bag, out, predictions=False, limit=1)
    assert result.report["frames"] == 1
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.json"]


def test_a_failed_replay_leaves_the_older_outputs_alone(bundle: Path, domain: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(bundle, drive(tmp_path / "bag", domain, 1), out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with Recording(tmp_path / "words") as recording:
        recording.text("/chatter", START, "no image here")
    with pytest.raises(BagError, match="/chatter"):
        replay(bundle, tmp_path / "words", ReplayOptions(out=out))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_disk_that_fills_leaves_the_outputs_of_one_run_and_not_of_two(
    bundle: Path, domain: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(bundle, drive(tmp_path / "new", domain, 3), out)
    masks, page = ((out / name).stat().st_size for name in ("predictions.mcap", "report.html"))
    assert masks < page
    run(bundle, drive(tmp_path / "old", domain, 1), out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    # Room for the masks, and none for the page that comes after them.
    limit = (masks + page) // 2
    done = subprocess.run(
        [sys.executable, "-m", "mile_edge", "replay", bundle, tmp_path / "new", "--out", out, "--threads", "1"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "cannot be written" in done.stderr
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("which", ["bundle", "bag", "class map", "out", "sensor profile", "threads"])
def test_what_cannot_be_used_is_refused_in_one_sentence(
    which: str, bundle: Path, domain: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = drive(tmp_path / "bag", domain, 1)
    (tmp_path / "file").write_text("not: a map of classes\n")
    arguments = {
        "bundle": [str(tmp_path / "none"), str(bag)],
        "bag": [str(bundle), str(tmp_path / "none")],
        "class map": [str(bundle), str(bag), "--class-map", str(tmp_path / "file")],
        "out": [str(bundle), str(bag), "--out", str(tmp_path / "file")],
        "sensor profile": [str(bundle), str(bag), "--sensor-profile", str(tmp_path / "file")],
        "threads": [str(bundle), str(bag), "--threads", "0"],
    }[which]
    assert main(["replay", "--out", str(tmp_path / "out"), *arguments]) == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith("mile-edge: ")
    assert "\n" not in told
    assert "Traceback" not in told


def test_a_frame_larger_than_any_jpeg_costs_only_the_size_of_its_overlay(bundle: Path, tmp_path: Path) -> None:
    with Recording(tmp_path / "bag", "mcap") as recording:
        for index, shape in enumerate(((16, 66_000, 3), (66_000, 16, 3), (*SIZE, 3))):
            recording.image(f"/camera_{index}/image_raw", START + index * STEP, "rgb8", pixels(index, shape))
    result = run(bundle, tmp_path / "bag", tmp_path / "out")
    assert result.report["frames"] == 3
    (note,) = result.report["notes"]
    assert note.startswith("2 overlays in predictions.mcap are shrunk")
    with AnyReader([tmp_path / "out" / "predictions.mcap"]) as reader:
        found = {c.topic: reader.deserialize(raw, c.msgtype) for c, _, raw in reader.messages()}
    assert (found["/camera_0/mask"].height, found["/camera_0/mask"].width) == (16, 66_000)
    assert len(found["/camera_0/overlay"].data) > 100
    assert "are shrunk" in (tmp_path / "out" / "report.html").read_text()


def test_the_command_prints_json_for_machines(
    bundle: Path, domain: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = drive(tmp_path / "bag", domain, 2)
    options = [
        "--out",
        str(tmp_path / "out"),
        "--topic",
        "/ir/image=off",
        "--json",
        "--no-predictions",
        "--threads",
        "1",
    ]
    assert main(["replay", str(bundle), str(bag), *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["left_out"] == {"/ir/image": "switched off"}
    assert report["frames"] == 4


def test_the_summary_tells_why_an_image_does_not_decode(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Recording(tmp_path / "bag") as recording:
        recording.image("/camera/image_raw", START, "rgb8", pixels(0))
        recording.compressed("/camera/image_raw/compressed", START, "jpeg", b"no picture")
    topics = [f"--topic=/camera/image_raw{end}=camera" for end in ("", "/compressed")]
    assert main(["replay", str(bundle), str(tmp_path / "bag"), "--out", str(tmp_path / "out"), *topics]) == 0
    told = capsys.readouterr().err
    assert "1 on 1 topic, " in told
    assert "1 x image that does not decode (first: /camera/image_raw/compressed: A compressed image" in told


def test_a_sensor_of_another_scale_replays_under_its_own_profile(bundle: Path, domain: str, tmp_path: Path) -> None:
    bag = drive(tmp_path / "bag", domain, 1)
    profile = SensorProfile("depth", scale=0.01, offset=0.0, minimum=300.0, maximum=400.0)
    frames: list[np.ndarray] = []
    for profiles in ((), (profile,)):
        with Bag.open(bag) as opened:
            used = _profiles(Bundle.open(bundle), profiles)
            found = BagFrames(opened, plan_topics(opened.topics), used, identity_map(2))
            frames += [frame.frame for frame in found if frame.kind == "depth"]
    usual, shifted = frames
    assert usual.any()
    assert not shifted.any()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_a_wish_to_end_leave_a_valid_report_and_say_so(
    number: signal.Signals, bundle: Path, domain: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    bag = drive(tmp_path / "bag", domain, 400, "mcap")
    command = [sys.executable, "-m", "mile_edge.cli.main", "replay", str(bundle), str(bag), "--out", str(out)]
    command += ["--threads", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        deadline = time.monotonic() + 120
        while not list(out.glob(".replay-*/predictions/*.mcap")) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.0)
        process.send_signal(number)
        _, told = process.communicate(timeout=120)
    assert process.returncode == 128 + number, told
    assert "Interrupted" in told
    report = json.loads((out / "report.json").read_text())
    assert report["stopped"] == "interrupted"
    assert report["frames"] < 1200
    assert sorted(path.name for path in out.iterdir()) == ["predictions.mcap", "report.html", "report.json"]


def test_a_recorded_bag_replays_completely(bundle: Path, real_data: Path, tmp_path: Path) -> None:
    class_map = tmp_path / "map.yaml"
    class_map.write_text("{" + ", ".join(f"{number}: 255" for number in range(11)) + "}")
    bag = real_data / "bags" / "street_sqlite3_bgr8_padded"
    report = run(bundle, bag, tmp_path / "out", class_map=class_map).report
    assert {name: topic["frames"] for name, topic in report["topics"].items()} == {
        "/camera/image_raw": 16,
        "/depth/image_rect": 4,
        "/depth/image_rect_raw": 4,
        "/thermal/image_raw": 4,
    }
    assert report["skipped"] == {}
    assert report["labelled_frames"] == 8
    assert report["miou_reason"] == "the labels hold only void"


def test_errors_of_the_replay_are_of_the_family(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    (tmp_path / "bundle" / "segmenter.onnx").write_bytes(b"damaged")
    with pytest.raises(MileError):
        replay(tmp_path / "bundle", tmp_path, ReplayOptions(out=tmp_path / "out"))
