"""The procedural world: what its frames, folders and bags promise."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.highlevel import AnyReader

from mile_edge.cli import world as command
from mile_edge.data.folder import FolderDataset
from mile_edge.data.world import (
    DOMAINS,
    SENSORS,
    WORLD_CLASSES,
    World,
    overhead,
    write_bag,
    write_folder,
    write_preview,
)
from mile_edge.data.world.bag import START_NS
from mile_edge.errors import DataError, MileError, RecipeError

SMALL = (96, 128)
IDS = {name: index for index, (name, _) in enumerate(WORLD_CLASSES)}


@pytest.fixture(scope="module")
def views() -> dict[int, dict]:
    return {seed: dict(World(seed, SMALL).views(3.0)) for seed in range(8)}


def _parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    return parser.parse_args(["world", *words])


def _stack(views: dict, domain: str, name: str) -> np.ndarray:
    return np.stack([getattr(of_seed[domain], name) for of_seed in views.values()])


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    t=st.floats(0, 5e4),
    domain=st.sampled_from(DOMAINS),
    size=st.tuples(st.integers(32, 90), st.integers(32, 90)),
)
def test_any_seed_time_domain_and_size_gives_a_valid_frame(
    seed: int, t: float, domain: str, size: tuple[int, int]
) -> None:
    frame = World(seed, size).frame(t, domain)
    assert frame.rgb.shape == (*size, 3) and frame.rgb.dtype == np.uint8
    assert frame.depth.shape == size and frame.depth.dtype == np.uint16
    assert frame.thermal.shape == size and frame.thermal.dtype == np.uint16
    assert frame.label.shape == size and frame.label.dtype == np.uint8
    assert frame.label.max() < len(WORLD_CLASSES)
    assert frame.thermal.min() > 22000 and frame.thermal.max() < 35000
    assert frame.domain == domain and frame.time == t


def test_a_frame_is_the_same_in_a_new_process_and_beside_other_domains() -> None:
    script = (
        "import hashlib; from mile_edge.data.world import World; f = World(5, (64, 80)).frame(2.5, 'rain');"
        "print(hashlib.sha256(b''.join(a.tobytes() for a in (f.rgb, f.depth, f.thermal, f.label))).hexdigest())"
    )
    root = Path(__file__).parents[1]
    runs = [
        subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    for t in (1.0, 2.0, 2.4, 3.0, 40.0):
        World(5, (48, 48)).views(t, ("clear", "rain"))
    alone, among = World(5, (64, 80)).frame(2.5, "rain"), World(5, (64, 80)).views(2.5, DOMAINS)["rain"]
    for name in ("rgb", "depth", "thermal", "label"):
        assert np.array_equal(getattr(alone, name), getattr(among, name))


def test_a_frame_does_not_depend_on_what_was_rendered_before() -> None:
    times, size = (24.0, 27.2, 29.0), (48, 64)
    forward = [World(7, size).frame(t).rgb for t in times]
    for cached in (overhead.heights, overhead.shadows, overhead.nearness, overhead.lamp_map):
        cached.cache_clear()
    backward = [World(7, size).frame(t).rgb for t in reversed(times)]
    assert all(np.array_equal(a, b) for a, b in zip(forward, reversed(backward), strict=True))


def test_one_sensor_alone_equals_the_whole_frame() -> None:
    frame = World(9, SMALL).frame(6.0, "dusk")
    for sensor, whole in zip(SENSORS, (frame.rgb, frame.depth, frame.thermal), strict=True):
        image, label = World(9, SMALL).view(6.0, "dusk", sensor)
        assert np.array_equal(image, whole) and np.array_equal(label, frame.label)


def test_other_seeds_are_other_streets_and_time_moves_the_camera(views: dict) -> None:
    labels = _stack(views, "clear", "label")
    assert all((labels[0] != other).mean() > 0.05 for other in labels[1:])
    later = World(0, SMALL).frame(4.5).label
    assert (labels[0] != later).mean() > 0.01


def test_labels_do_not_depend_on_the_weather(views: dict) -> None:
    for of_seed in views.values():
        assert all(np.array_equal(of_seed["clear"].label, frame.label) for frame in of_seed.values())


def test_every_class_appears_within_a_few_streets(views: dict) -> None:
    seen = set(np.unique(_stack(views, "clear", "label")).tolist())
    assert seen == set(range(len(WORLD_CLASSES)))


def test_depth_is_plausible_for_the_label_under_it(views: dict) -> None:
    label, depth = _stack(views, "clear", "label"), _stack(views, "clear", "depth")
    assert not depth[label == IDS["sky"]].any()
    returned = depth > 0
    assert returned[label == IDS["road"]].mean() > 0.7
    road = (label == IDS["road"]) & returned
    for seed in range(len(label)):
        rows = [np.median(depth[seed, r][road[seed, r]]) for r in range(SMALL[0]) if road[seed, r].sum() > 20]
        assert len(rows) < 10 or np.mean(np.diff(rows) < 0) > 0.9, (
            "the road comes nearer towards the bottom of the picture"
        )
    assert depth.max() <= 65535 and depth[returned].min() >= 250


def test_fog_takes_depth_returns_away(views: dict) -> None:
    lost = {domain: (_stack(views, domain, "depth") == 0).mean() for domain in DOMAINS}
    assert lost["fog"] > lost["clear"] + 0.05 and lost["rain"] > lost["clear"] + 0.02


def test_thermal_sky_is_cold_and_people_are_warm_in_every_domain(views: dict) -> None:
    label = _stack(views, "clear", "label")
    for domain in DOMAINS:
        kelvin = _stack(views, domain, "thermal") / 100.0
        mean = {name: kelvin[label == index].mean() for name, index in IDS.items()}
        assert mean["sky"] < mean["vegetation"] < mean["building"] and mean["sky"] < mean["road"]
        assert mean["person"] > mean["vegetation"] + 2.0


def test_the_camera_sees_each_domain_as_it_should(views: dict) -> None:
    label = _stack(views, "clear", "label")
    rgb = {domain: _stack(views, domain, "rgb").astype(float) for domain in DOMAINS}
    grey = {domain: image.mean(-1) for domain, image in rgb.items()}
    sky, ground = label == IDS["sky"], (label == IDS["road"]) | (label == IDS["sidewalk"])
    assert grey["night"].mean() < 0.75 * grey["clear"].mean()
    assert grey["snow"][ground].mean() > grey["clear"][ground].mean() + 25
    assert rgb["dusk"][sky][:, 0].mean() > rgb["dusk"][sky][:, 2].mean() + 15 > 0
    assert rgb["clear"][sky][:, 2].mean() > rgb["clear"][sky][:, 0].mean()
    assert grey["fog"].std() < 0.8 * grey["clear"].std()
    assert grey["rain"].std() < grey["clear"].std()


def test_fog_fades_contrast_with_true_distance() -> None:
    world = World(3, SMALL)
    clear, fog = world.frame(3.0, "clear"), world.frame(3.0, "fog")
    far = (clear.depth > 40000) & (clear.label != IDS["sky"])
    near = (clear.depth > 0) & (clear.depth < 8000)
    assert fog.rgb[far].std() < 0.6 * fog.rgb[near].std()


@pytest.mark.parametrize("sensor", SENSORS)
def test_a_written_folder_reads_back_as_the_frames_it_was_made_from(tmp_path: Path, sensor: str) -> None:
    done: list[tuple[int, int]] = []
    path = write_folder(tmp_path / "set", [3, 4], 2, "night", sensor, SMALL, progress=lambda a, b: done.append((a, b)))
    data = FolderDataset(path)
    assert len(data) == 4 and data.sensor == sensor and data.domain == "night"
    assert [(c.name, c.color) for c in data.classes] == list(WORLD_CLASSES)
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    image, label = World(4, SMALL).view(1.5, "night", sensor)
    read = data[3]
    assert np.array_equal(read.label, label)
    expected = data.profile.to_frame(image, "rgb8" if sensor == "camera" else "16UC1")
    if sensor == "camera":
        assert np.abs(read.frame.astype(int) - expected.astype(int)).mean() < 6
    else:
        assert np.array_equal(read.frame, expected)


def test_an_interrupted_folder_or_bag_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "set", [0], 3, "clear", "depth", SMALL, progress=stop)
    with pytest.raises(KeyboardInterrupt):
        write_bag(tmp_path / "bag", World(0, SMALL), [("clear", 1.0)], 3.0, progress=stop)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_bag_holds_every_sensor_label_and_domain_with_matching_stamps(tmp_path: Path, storage: str) -> None:
    world = World(7, SMALL)
    path = write_bag(tmp_path / "drive", world, [("clear", 0.3), ("clear", 0.2), ("fog", 0.3)], 10.0, storage=storage)
    messages: dict[str, list] = {}
    with AnyReader([path]) as reader:
        for connection, stamp, raw in reader.messages():
            messages.setdefault(connection.topic, []).append((stamp, reader.deserialize(raw, connection.msgtype)))
    assert [m.data for _, m in messages["/truth/domain"]] == ["clear", "clear", "fog"]
    assert [s for s, _ in messages["/truth/domain"]] == [START_NS, START_NS + 300_000_000, START_NS + 500_000_000]
    expected = {"/camera/image_raw": "rgb8", "/depth/image_rect_raw": "16UC1", "/thermal/image_raw": "mono16"}
    frame = world.frame(0.7, "fog")
    for (topic, encoding), whole in zip(expected.items(), (frame.rgb, frame.depth, frame.thermal), strict=True):
        labels = messages[f"/{topic.split('/')[1]}/label"]
        assert len(messages[topic]) == len(labels) == 8
        for (stamp, image), (label_stamp, label) in zip(messages[topic], labels, strict=True):
            assert stamp == label_stamp == image.header.stamp.sec * 10**9 + image.header.stamp.nanosec
            assert image.header == label.header and image.header.frame_id
            assert (image.encoding, label.encoding) == (encoding, "mono8")
            assert len(image.data) == image.step * image.height
        last = messages[topic][-1][1]
        assert last.data.tobytes() == whole.tobytes()
        assert labels[-1][1].data.tobytes() == frame.label.tobytes()
    info = messages["/camera/camera_info"][0][1]
    assert len(messages["/camera/camera_info"]) == 8
    assert (info.height, info.width) == SMALL and info.k[0] == pytest.approx(world.focal) and info.k[2] == 64.0


def test_bad_requests_are_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("mine")
    world = World(0, SMALL)
    requests = [
        lambda: World(-1),
        lambda: World(0, (8, 8)),
        lambda: world.frame(0.0, "hail"),
        lambda: world.frame(-1.0),
        lambda: world.frame(float("nan")),
        lambda: world.view(0.0, "clear", "radar"),
        lambda: write_folder(tmp_path / "a", [0], 1, "clear", "radar"),
        lambda: write_folder(tmp_path / "a", [], 1, "clear"),
        lambda: write_folder(tmp_path / "used", [0], 1, "clear", size=SMALL),
        lambda: write_folder(tmp_path / "used" / "file" / "b", [0], 1, "clear", size=SMALL),
        lambda: write_bag(tmp_path / "used", world, [("clear", 1.0)]),
        lambda: write_bag(tmp_path / "b", world, []),
        lambda: write_bag(tmp_path / "b", world, [("clear", -1.0)]),
        lambda: write_bag(tmp_path / "b", world, [("hail", 1.0)]),
        lambda: write_bag(tmp_path / "b", world, [("clear", 1.0)], 0.0),
        lambda: write_bag(tmp_path / "b", world, [("clear", 1.0)], storage="zip"),
        lambda: write_preview(tmp_path / "c.xyz", [0], size=SMALL),
        lambda: write_preview(tmp_path / "c.png", [], size=SMALL),
    ]
    for request in requests:
        with pytest.raises(DataError) as refused:
            request()
        assert "\n" not in str(refused.value)
    assert [p.name for p in tmp_path.iterdir()] == ["used"] and (tmp_path / "used" / "file").read_text() == "mine"


def test_the_command_makes_folders_bags_and_previews(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = ("--size", "48x64")
    folder = ("--domain", "fog,snow", "--frames", "5", "--per-street", "2")
    assert command.run(_parse(str(tmp_path / "f"), *folder, *size)) == 0
    assert len(FolderDataset(tmp_path / "f")) == 5
    capsys.readouterr()
    bag = ("--bag", "--domains", "clear,night", "--seconds", "0.2", "--json")
    assert command.run(_parse(str(tmp_path / "b"), *bag, *size)) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 4
    assert command.run(_parse("--preview", str(tmp_path / "p.png"), "--streets", "1", *size)) == 0
    assert (tmp_path / "p.png").stat().st_size > 10_000
    wrong = (("x", "--domain", "hail"), (), ("x", "--frames", "0"), ("x", "--preview", "y.png"))
    for words in wrong:
        with pytest.raises(RecipeError):
            command.run(_parse(*words))
    for text in ("48", "48x", "0x0", "ax64"):
        with pytest.raises(SystemExit):
            _parse("x", "--size", text)
    with pytest.raises(MileError):
        command.run(_parse(str(tmp_path / "f"), "--frames", "1", *size))
