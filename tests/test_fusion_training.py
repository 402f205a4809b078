"""Aligned sensors in folders, and the small head that is trained on them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="the workshop side needs torch")

from bundle_makers import make_bundle

from mile_edge.bundle import Bundle, FusionLayout, read_head
from mile_edge.cli.main import main
from mile_edge.data.aligned import AlignedFolders
from mile_edge.data.world import write_drives, write_folder
from mile_edge.errors import DataError
from mile_edge.training.fusion import FusionSchedule, score_head, train_head
from mile_edge.training.fusion_features import FeatureCache

SIZE = (64, 96)


@pytest.fixture(scope="module")
def drives(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("drives")
    return [write_drives(folder / domain, [5, 6], 2, domain, SIZE) for domain in ("fog", "night")]


def test_the_world_shows_one_moment_to_all_sensors_as_it_shows_it_to_each(drives: list[Path], tmp_path: Path) -> None:
    for sensor in ("camera", "depth", "thermal"):
        alone = write_folder(tmp_path / sensor, [5, 6], 2, "fog", sensor, SIZE)
        for file in (path for path in alone.rglob("*") if path.is_file()):
            assert (drives[0] / sensor / file.relative_to(alone)).read_bytes() == file.read_bytes(), file


def test_moments_are_matched_by_file_name_and_what_one_sensor_lacks_is_left_out(
    drives: list[Path], tmp_path: Path
) -> None:
    shutil.copytree(drives[0], tmp_path / "drive")
    (tmp_path / "drive" / "depth" / "images" / "000002.png").unlink()
    drive = AlignedFolders(tmp_path / "drive")
    assert tuple(drive.folders) == ("camera", "depth", "thermal")
    assert [moment.name for moment in drive] == ["000000", "000001", "000003"]
    assert {frame.shape for frame in drive[2].frames.values()} == {(*SIZE, 3)}
    camera = drive.folders["camera"]
    assert np.array_equal(drive[2].frames["camera"], camera[3].frame)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda drive: [shutil.rmtree(drive / each) for each in ("camera", "depth", "thermal")], "no subfolder"),
        (
            lambda drive: [path.rename(path.with_stem("x" + path.stem)) for path in drive.glob("depth/*/*.png")],
            "common",
        ),
        (lambda drive: (drive / "depth/classes.yaml").write_text("sensor: depth\nclasses: []\n"), "classes"),
        (lambda drive: Image.new("L", (8, 8)).save(drive / "thermal/images/000001.png"), "is 96x64, its image 8x8"),
    ],
    ids=["empty", "other names", "other classes", "other size"],
)
def test_folders_that_are_not_aligned_are_refused(drives: list[Path], tmp_path: Path, spoil, said: str) -> None:
    shutil.copytree(drives[0], tmp_path / "drive")
    spoil(tmp_path / "drive")
    with pytest.raises(DataError, match=said):
        list(AlignedFolders(tmp_path / "drive"))


def trusting_cache(count: int, seed: int) -> FeatureCache:
    """Two sensors that contradict each other everywhere; a feature tells, pixel by pixel, which of them is right."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, (count, 6, 8))
    right = rng.integers(0, 2, (count, 6, 8))
    hidden = rng.normal(0, 0.1, (count, 2, 5, 6, 8))
    scores = np.full((count, 2, 6, 6, 8), -1e4)
    for sensor in (0, 1):
        trusted = right == sensor
        hidden[:, sensor, 0] += trusted
        says = np.where(trusted, truth, 1 - truth)
        scores[:, sensor, 0], scores[:, sensor, 1] = np.where(says == 0, 2.0, -2.0), np.where(says == 1, 2.0, -2.0)
    known = np.zeros((count, 2, 6), np.float32)
    known[:, :, :2] = 1
    labels = truth.repeat(4, axis=1).repeat(4, axis=2).astype(np.uint8)
    pooled = hidden.mean(axis=(3, 4)).astype(np.float32)
    arrays = hidden.astype(np.float16), scores.astype(np.float16), pooled, known, labels
    return FeatureCache(*arrays, ("a", "b"), ("day",) * count)


@pytest.mark.parametrize("kind", ["routed", "both-aux"])
def test_a_head_learns_whom_to_trust(tmp_path: Path, kind: str) -> None:
    layout = FusionLayout(kind, 16, 5, 6)
    bundle, data, unseen = make_bundle(tmp_path), trusting_cache(24, 0), trusting_cache(6, 1)
    head = train_head(bundle, layout, data, FusionSchedule(steps=150, lr=2e-2))
    before = score_head(layout, layout.empty(), unseen, ("a", "b"))
    after = score_head(layout, layout.pack(head, (0, 1)), unseen, ("a", "b"))
    assert before is not None
    assert after is not None
    assert before < 0.5, "sensors that contradict each other know nothing together until they are trained"
    assert after > before + 0.2
    alone = [score_head(layout, vector, unseen, ("a",)) for vector in (layout.empty(), layout.pack(head, (0, 1)))]
    assert alone[0] == alone[1], "one sensor alone is left to its own expert"


def test_training_and_scoring_from_the_command_line(
    fusing_bundle: Path, drives: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(fusing_bundle, tmp_path / "bundle")
    # The bundle knows sky, road and car; the street's other classes become void.
    command = ["train", "fusion", str(tmp_path / "bundle"), *map(str, drives), "--steps", "3", "--batch", "2"]
    out = tmp_path / "fusion.safetensors"
    assert main([*command, "--out", str(out), "--add", "--json"]) == 0
    account = json.loads(capsys.readouterr().out)
    assert (account["kind"], account["moments"], account["added"]) == ("both-aux", 8, True)
    before, after = Bundle.open(fusing_bundle), Bundle.open(tmp_path / "bundle")
    assert after.manifest.fusion is not None
    assert after.manifest.fusion.network == before.manifest.fusion.network, "the graph is the one it had"
    assert after.manifest.fusion.sha256 != before.manifest.fusion.sha256
    assert read_head(out).training["data"] == list(map(str, drives))
    assert main(["evaluate", str(tmp_path / "bundle"), "--fuse", *map(str, drives), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["moments"] == 8
    assert set(scores["gain"]) == {"fog", "night"}
    assert len(scores["fused"]) == 7
    for sensor, row in scores["own"].items():
        assert scores["fused"][sensor] == pytest.approx(row, abs=0.02)


def test_options_that_cannot_work_are_refused(fusing_bundle: Path, drives: list[Path], tmp_path: Path) -> None:
    for option, value in (("--steps", "0"), ("--lr", "nan"), ("--width", "0"), ("--cache", str(tmp_path / "none"))):
        command = ["train", "fusion", str(fusing_bundle), str(drives[0]), option, value]
        assert main([*command, "--out", str(tmp_path / "x.safetensors")]) == 2
    assert not (tmp_path / "x.safetensors").exists()
