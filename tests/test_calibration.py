"""Calibration tells what the runtime will do: thresholds, false alarms, novelty, for every kind of gate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from mile_edge.bundle import Bundle
from mile_edge.calibration.gate import calibrate_gate
from mile_edge.calibration.roc import auroc, detected_at, make_roc
from mile_edge.cli.main import main
from mile_edge.data.folder import FolderDataset
from mile_edge.data.sensors import DEFAULT_PROFILES
from mile_edge.data.world import World
from mile_edge.errors import DataError
from mile_edge.runtime import Segmenter


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FolderDataset]:
    """A few frames of fog and night, and of a domain that no expert knows."""
    made = {}
    root = tmp_path_factory.mktemp("frames")
    noise = np.random.default_rng(0)
    for domain in ("fog", "night", "static"):
        (root / domain / "images").mkdir(parents=True)
        for index in range(6):
            frame = noise.integers(0, 256, (240, 320, 3), np.uint8)
            if domain != "static":
                frame = World(500 + index).view(2.0, domain, "camera")[0]
            Image.fromarray(frame).save(root / domain / "images" / f"{index}.png")
        made[domain] = FolderDataset(root / domain)
    return made


def test_thresholds_lie_at_the_percentile_and_the_figures_follow_from_them(
    tiny_bundle: Path, folders: dict[str, FolderDataset]
) -> None:
    with Segmenter.open(tiny_bundle, hysteresis=0) as segmenter:
        half = calibrate_gate(segmenter, list(folders.values()), percentile=50)
        most = calibrate_gate(segmenter, list(folders.values()), percentile=100)
    assert half.accuracy == 1.0
    assert half.false_alarms == pytest.approx(0.5)
    assert most.false_alarms == 0.0
    assert half.detected == most.detected == 1.0
    assert half.auroc == 1.0
    assert half.frames == (12, 6)


def test_what_is_calibrated_is_what_the_segmenter_says(tiny_bundle: Path, folders: dict[str, FolderDataset]) -> None:
    with Segmenter.open(tiny_bundle, hysteresis=0) as segmenter:
        found = calibrate_gate(segmenter, [folders["fog"], folders["night"]], percentile=100)
    bundle = Bundle.open(tiny_bundle)
    thresholds = {**bundle.manifest.gate.thresholds, **found.thresholds}
    bundle = bundle.set_gate(replace(bundle.manifest.gate, thresholds=thresholds, hysteresis=found.hysteresis))
    with Segmenter(bundle) as segmenter:
        assert not any(segmenter(sample.frame, stream=sample.name).novel[0] for sample in folders["fog"])
        assert all(segmenter(sample.frame, stream=sample.name).novel[0] for sample in folders["static"])


def test_without_a_known_domain_nothing_can_be_calibrated(tiny_bundle: Path, folders: dict[str, FolderDataset]) -> None:
    with Segmenter.open(tiny_bundle) as segmenter, pytest.raises(DataError, match="static"):
        calibrate_gate(segmenter, [folders["static"]])


def test_auroc_is_the_chance_of_a_right_order() -> None:
    assert auroc(np.array([1.0, 2.0]), np.array([3.0])) == 1.0
    assert auroc(np.array([1.0, 2.0]), np.array([1.5])) == 0.5
    assert auroc(np.array([1.0]), np.array([1.0])) == 0.5


def test_thermal_frames_of_an_unseen_street_go_to_thermal(tiny_bundle: Path) -> None:
    view = World(501).frame(2.0, "fog")
    with Segmenter.open(tiny_bundle, hysteresis=0) as segmenter:
        assert segmenter(DEFAULT_PROFILES["thermal"].to_frame(view.thermal, "mono16")).expert == ("thermal",)


def test_detection_is_read_at_the_promised_share_of_false_alarms() -> None:
    known = np.arange(100, dtype=float)
    curve = make_roc("fog", False, known, np.array([98.5, 94.5, 10.0]))
    assert curve.at_1 == pytest.approx(1 / 3, abs=1e-4)
    assert curve.at_5 == pytest.approx(2 / 3, abs=1e-4)
    assert detected_at(0.0, known, np.array([99.0, 99.5])) == 0.5
    assert curve.frames == (100, 3)


def test_the_area_under_the_drawn_curve_is_the_reported_one() -> None:
    random = np.random.default_rng(0)
    known, unknown = random.normal(size=400).round(1), random.normal(1, 1, size=300).round(1)
    curve = make_roc("fog", False, known, unknown)
    alarms, detected = np.array(curve.curve).T
    assert (np.diff(alarms) >= 0).all() and (np.diff(detected) >= 0).all()
    assert curve.curve[0] == (0.0, 0.0) and curve.curve[-1] == (1.0, 1.0)
    area = float(((detected[1:] + detected[:-1]) / 2 * np.diff(alarms)).sum())
    assert curve.auc == pytest.approx(area, abs=1e-4)


def test_the_command_reports_each_experts_frames_as_unknown_and_draws_the_curves(
    tiny_bundle: Path, folders: dict[str, FolderDataset], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [str(folder.path) for folder in folders.values()]
    before = (tiny_bundle / "manifest.json").read_bytes()
    picture = tmp_path / "roc.svg"
    # The third folder calls itself static: what the command line says goes first.
    command = ["calibrate", "gate", str(tiny_bundle), "--data", *data, "--domain", "fog,night,hail", "--json"]
    assert main([*command, "--dry-run", "--out", str(picture)]) == 0
    account = json.loads(capsys.readouterr().out)
    assert (tiny_bundle / "manifest.json").read_bytes() == before
    curves = {(curve["unknown"], curve["left_out"]): curve for curve in account["roc"]}
    assert set(curves) == {("hail", False), ("fog", True), ("night", True)}
    assert curves["hail", False]["at_1"] == 1.0
    assert curves["fog", True]["frames"] == [6, 6]
    assert 0 <= account["false_alarms"] <= account["false_alarms_unseen"] <= 1
    drawn = ElementTree.fromstring(picture.read_text())
    assert len(drawn.findall("{http://www.w3.org/2000/svg}polyline")) == 3
    assert "hail: 1.000, 100 %, 100 %" in picture.read_text()


def test_an_expert_without_a_threshold_does_not_hide_what_the_others_notice(
    tiny_bundle: Path, folders: dict[str, FolderDataset]
) -> None:
    bundle = Bundle.open(tiny_bundle)
    bundle = bundle.set_gate(replace(bundle.manifest.gate, thresholds={}))
    with Segmenter(bundle, hysteresis=0) as segmenter:
        found = calibrate_gate(segmenter, [folders["fog"], folders["night"]])
    assert set(found.thresholds) == {"fog", "night"}
    assert [(curve.unknown, curve.auc) for curve in found.roc] == [("fog", 1.0), ("night", 1.0)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "roc.png"], "roc.png"),
        (["--percentile", "20"], "--percentile is 20"),
        (["--domain", "fog"], "1 domains for 2 folders"),
        (["--domain", "hail,sleet"], "hail, sleet"),
    ],
)
def test_what_the_gate_cannot_be_calibrated_with_is_one_sentence(
    options: list[str],
    words: str,
    tiny_bundle: Path,
    folders: dict[str, FolderDataset],
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = [str(folders[name].path) for name in ("fog", "night")]
    assert main(["calibrate", "gate", str(tiny_bundle), "--data", *data, *options]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
