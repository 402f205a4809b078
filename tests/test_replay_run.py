"""A bag goes through a real bundle into a report that says what happened, damage included."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from recording import START, Recording, bag_file
from replays import SIZE, STEP, drive, pixels, run

from mile_edge.bundle import Bundle
from mile_edge.cli.main import main
from mile_edge.data.bag_frames import BagFrames
from mile_edge.data.bags import UNPARSED, Bag
from mile_edge.data.class_map import identity_map
from mile_edge.data.sensors import SensorProfile
from mile_edge.data.topics import plan_topics
from mile_edge.errors import BagError, MileError
from mile_edge.replay import ReplayOptions, replay
from mile_edge.replay.run import _profiles


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


def test_a_bag_without_images_says_what_to_record(bundle: Path, tmp_path: Path) -> None:
    with Recording(tmp_path / "bag") as recording:
        recording.text("/truth/domain", START, "fog")
    with pytest.raises(BagError, match="only /truth/domain; record a topic of sensor_msgs/msg/Image"):
        run(bundle, tmp_path / "bag", tmp_path / "out")


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
