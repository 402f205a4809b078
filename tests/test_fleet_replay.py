"""Many bags become one report, whatever kills, interrupts or repeats the run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import REFERENCE, REPOSITORY
from recording import START, Recording

from mile_edge.errors import BagError, TransferError
from mile_edge.fleet import list_bags, many, replay_fleet
from mile_edge.fleet.part import PART
from mile_edge.fleet.transfer import fetch_bag
from mile_edge.replay import ReplayOptions, replay

SIZE = (24, 32)
STEP = 100_000_000


def record(path: Path, seed: int, frames: int = 2, kind: str = "mcap") -> Path:
    """A camera with labels and a domain."""
    pixels = np.random.default_rng(seed).integers(0, 255, (frames, *SIZE, 3), np.uint8)
    with Recording(path, kind) as bag:
        bag.text("/truth/domain", START, "fog")
        for index in range(frames):
            stamp = START + seed * 10**12 + (index + 1) * STEP
            bag.image("/camera/image_raw", stamp, "rgb8", pixels[index])
            bag.image("/camera/label", stamp, "mono8", pixels[index, :, :, 0] % 3)
    return path


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("bags")
    return [str(record(folder / f"drive-{seed}", seed)) for seed in range(3)]


def options(out: Path) -> ReplayOptions:
    return ReplayOptions(out=out, threads=1, predictions=False)


def test_the_merged_report_is_what_one_replay_of_all_would_count(bags: list[str], tmp_path: Path) -> None:
    single = [replay(REFERENCE, bag, options(tmp_path / "single" / Path(bag).name)).report for bag in bags]
    result = replay_fleet(REFERENCE, bags, options(tmp_path / "out"), workers=2)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report == json.loads(json.dumps(result.report))
    assert report["frames"] == sum(each["frames"] for each in single) == 6
    assert set(single[0]) < set(report)
    for index, row in enumerate(report["bags"]):
        assert (row["state"], row["frames"], row["miou"]) == ("done", 2, single[index]["miou"])
        assert (tmp_path / "out" / row["report"]).is_file()
        assert json.loads((tmp_path / "out" / row["report"]).with_suffix(".json").read_text())["miou"] == row["miou"]
    topic = report["topics"]["/camera/image_raw"]
    assert (topic["frames"], topic["labelled"], topic["hz"]) == (6, 6, 10.0)
    assert report["gate"]["frames"] == 6 and report["gate"]["confusion"].keys() == {"fog"}
    # All pixels of all bags were added up, not the means averaged.
    assert min(each["miou"] for each in single) <= report["miou"] <= max(each["miou"] for each in single)
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(f'href="{row["report"]}"' in page for row in report["bags"])
    low, high = (f(each["latency_ms"]["p50"] for each in single) for f in (min, max))
    assert report["latency_ms"]["p50"] > 0 and low > 0 and high > 0


def test_a_topic_of_several_encodings_is_merged_with_all_of_them(bags: list[str], tmp_path: Path) -> None:
    with Recording(tmp_path / "grey", "mcap") as recording:
        recording.image("/camera/image_raw", START, "mono8", np.zeros(SIZE, np.uint8))
    report = replay_fleet(REFERENCE, [bags[0], str(tmp_path / "grey"), bags[1]], options(tmp_path / "out")).report
    assert report["topics"]["/camera/image_raw"]["encoding"] == "mono8, rgb8"


def test_a_second_run_replays_only_what_is_new_or_changed(
    bags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = [shutil.copytree(bag, tmp_path / Path(bag).name) for bag in bags]
    given = [str(path) for path in mine]
    replayed: list[str] = []
    real = many.replay_next
    monkeypatch.setattr(many, "replay_next", lambda s, bag, *a, **k: replayed.append(bag.name) or real(s, bag, *a, **k))
    first = replay_fleet(REFERENCE, given[:2], options(tmp_path / "out"))
    assert replayed == ["drive-0", "drive-1"]
    second = replay_fleet(REFERENCE, given, options(tmp_path / "out")).report
    assert replayed[2:] == ["drive-2"] and second["bags_resumed"] == 2 and second["frames"] == 6
    assert second["bags"][0] == first.report["bags"][0]
    next(mine[0].glob("*.mcap")).touch()
    (next((tmp_path / "out" / "bags").glob("drive-1-*")) / PART).write_text('{"torn": ')
    replay_fleet(REFERENCE, given, options(tmp_path / "out"))
    assert replayed[3:] == ["drive-0", "drive-1"]
    replay_fleet(REFERENCE, given[:1], ReplayOptions(out=tmp_path / "out", threads=1, predictions=False, limit=1))
    replay_fleet(REFERENCE, given[:1], options(tmp_path / "out"), fresh=True)
    assert replayed[5:] == ["drive-0", "drive-0"]


def test_a_bag_that_cannot_be_replayed_is_a_row_and_the_others_are_done(bags: list[str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.mcap"
    broken.write_bytes(b"\x89MCAP0\r\n" + bytes(100))
    report = replay_fleet(
        REFERENCE, [str(broken), bags[0], str(tmp_path / "nowhere")], options(tmp_path / "out")
    ).report
    assert [row["state"] for row in report["bags"]] == ["failed", "done", "failed"]
    assert "holds no topics" in report["bags"][0]["error"] and "does not exist" in report["bags"][2]["error"]
    assert (report["bags_done"], report["bags_failed"], report["bags_to_do"]) == (1, 2, 0)
    assert "holds no topics" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user who may not read its own bag")
def test_a_bag_that_may_not_be_read_is_a_row_and_the_others_are_done(bags: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in ("open", "closed"):
            shutil.copytree(bags[0], folder / kind)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o666)
        (folder / "closed").chmod(0)
        os.seteuid(65534)
        try:
            given = [str(folder / "closed"), str(folder / "closed" / "drive-0.mcap"), str(folder / "open")]
            report = replay_fleet(REFERENCE, given, options(folder / "out")).report
        finally:
            os.seteuid(0)
    assert [row["state"] for row in report["bags"]] == ["failed", "failed", "done"]
    assert all("permission denied" in row["error"] for row in report["bags"][:2])


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_or_interrupted_goes_on_where_it_was(
    tmp_path: Path, signal_number: signal.Signals
) -> None:
    given = [str(record(tmp_path / f"drive-{seed}", seed)) for seed in range(3)]
    out = tmp_path / "out"
    command = [sys.executable, "-m", "mile_edge", "replay", str(REFERENCE), *given, "--out", str(out), "--workers", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True)
    # On a busy machine a worker takes minutes to load its network.
    deadline = time.monotonic() + 1200
    while not list(out.glob(f"bags/*/{PART}")):
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.01)
    os.kill(first.pid, signal_number)
    told = first.communicate()[1]
    assert first.returncode == (130 if signal_number == signal.SIGINT else -signal.SIGKILL), told
    done = len(list(out.glob(f"bags/*/{PART}")))
    if signal_number == signal.SIGINT:
        report = json.loads((out / "report.json").read_text())
        assert (report["stopped"], report["bags_done"], report["bags_to_do"]) == ("interrupted", done, 3 - done)
        assert "the same command goes on with the other" in " ".join(told.split())
    second = subprocess.run([*command, "--json"], cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    report = json.loads(second.stdout)
    assert (report["frames"], report["bags_done"], report["stopped"]) == (6, 3, None)
    assert report["bags_resumed"] >= done >= 1
    assert not [path for path in out.rglob("*") if path.name.startswith(".replay-")]


def test_bags_come_from_lists_patterns_and_folders(bags: list[str], tmp_path: Path) -> None:
    folder = Path(bags[0]).parent
    (folder / "week.yaml").write_text("bags:\n  - drive-1\n  - drive-[02]\n  - s3://robot/a.mcap\n")
    (folder / "week.txt").write_text("# monday\ndrive-2\n\n/else/where.bag\n")
    assert list_bags([str(folder / "week.yaml")]) == [bags[1], bags[0], bags[2], "s3://robot/a.mcap"]
    assert list_bags([str(folder / "week.txt"), bags[2]]) == [bags[2], "/else/where.bag"]
    assert list_bags([str(folder / "drive-*")]) == bags
    for wrong, told in (("a: 1", "holds no list"), ("- 1", "holds no list"), ("[", "cannot be read")):
        (tmp_path / "list.yaml").write_text(wrong)
        with pytest.raises(BagError, match=told):
            list_bags([str(tmp_path / "list.yaml")])
    with pytest.raises(BagError, match="matches"):
        list_bags([str(tmp_path / "*.mcap")])


def test_bags_at_urls_are_read_through_a_local_copy_that_can_be_resumed(bags: list[str], tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.put(bags[0], "/robot/week/drive-0", recursive=True)
    memory.put_file(str(record(tmp_path / "one.bag", 7, kind="ros1")), "/robot/week/one.bag")
    sources = list_bags(["memory://robot/week/*"])
    assert sources == ["memory:///robot/week/drive-0", "memory:///robot/week/one.bag"]
    report = replay_fleet(REFERENCE, [*sources, Path(bags[1]).as_uri()], options(tmp_path / "out")).report
    assert [row["state"] for row in report["bags"]] == ["done"] * 3 and report["frames"] == 6
    assert not [path for path in (tmp_path / "out" / "cache").rglob("*") if path.is_file()]

    class CutOffError(Exception):
        pass

    def cut_off() -> None:
        raise CutOffError

    with pytest.raises(CutOffError):
        fetch_bag(sources[1], tmp_path / "cache", cut_off)
    (partial,) = [path for path in (tmp_path / "cache").rglob(".*") if path.is_file()]
    whole = memory.cat_file("/robot/week/one.bag")
    partial.write_bytes(whole[:100])
    local = fetch_bag(sources[1], tmp_path / "cache")
    assert local.read_bytes() == whole and not partial.exists()
    with pytest.raises(BagError, match="does not exist"):
        fetch_bag("memory://robot/nothing.bag", tmp_path / "cache")
    with pytest.raises(TransferError):
        fetch_bag("nonsense-scheme://robot/a.bag", tmp_path / "cache")
