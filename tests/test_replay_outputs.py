"""What a replay leaves behind: a page, masks, one run's files and never two's, also where it is stopped."""

from __future__ import annotations

import json
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from recording import START, Recording, bag_file
from replays import SIZE, STEP, drive, pixels, run
from rosbags.highlevel import AnyReader

from mile_edge.bundle import Bundle
from mile_edge.cli.main import main
from mile_edge.errors import BagError, RecipeError
from mile_edge.fleet import replay_fleet
from mile_edge.replay import ReplayOptions, replay

HOSTILE = '/a"><script>alert(1)</script>/image'


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


def test_outputs_among_what_a_replay_reads_are_refused(bundle: Path, domain: str, tmp_path: Path) -> None:
    bag = drive(tmp_path / "bag", domain, 1)
    before = sorted(path.name for path in (*bundle.iterdir(), *bag.iterdir()))
    for given, out, word in (
        (bag, bundle, "a bundle"),
        (bag, bundle / "experts" / "new", "a bundle"),
        (bag, bag, "the bag"),
        (bag_file(bag), bag / "out", "the bag"),
    ):
        with pytest.raises(RecipeError, match=f"lies inside {word}"):
            replay(bundle, given, ReplayOptions(out=out))
        with pytest.raises(RecipeError, match=f"lies inside {word}"):
            replay_fleet(bundle, [str(given)], ReplayOptions(out=out))
    assert sorted(path.name for path in (*bundle.iterdir(), *bag.iterdir())) == before


def test_control_characters_of_names_are_not_shown(bundle: Path, tmp_path: Path) -> None:
    with Recording(tmp_path / "bag") as recording:
        recording.text("/truth/domain", START, "\x1b[31mred\u202e")
        recording.image("/cam\x1b/image_raw", START, "rgb8", pixels(0))
        recording.image("/rear\x1b/image_raw", START, "no\x1bne", pixels(1))
        recording.compressed("/side\x1b/image_raw/compressed", START, "jpeg\x1b", b"no picture")
    report = run(bundle, tmp_path / "bag", tmp_path / "out").report
    assert report["frames"] == 1
    assert set(report["miou_by_domain"]) == set()
    shown = [*report["skipped"], *report["skipped_examples"].values(), (tmp_path / "out" / "report.html").read_text()]
    assert len(report["skipped"]) == 2
    for text in shown:
        assert "\x1b" not in text and "\u202e" not in text and "\N{REPLACEMENT CHARACTER}" in text


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


def test_a_replay_without_a_frame_is_not_called_complete(bundle: Path, tmp_path: Path) -> None:
    with Recording(tmp_path / "bag") as recording:
        recording.announce("/camera/image_raw", "sensor_msgs/msg/Image")
        recording.text("/truth/domain", START, "fog")
    assert run(bundle, tmp_path / "bag", tmp_path / "out").report["frames"] == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "no frame replayed" in page
    assert "nothing was lost" not in page and ">complete<" not in page and "read and used" not in page


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
    assert "1 x image that does not decode, on /camera/image_raw/compressed (first: " in told
    assert "/camera/image_raw/compressed: A compressed image" in told


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
