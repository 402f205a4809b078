"""Calibration tells what the runtime will do: thresholds, false alarms, novelty, for every kind of gate."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from mile_edge.bundle import Bundle
from mile_edge.calibration.frames import Seen
from mile_edge.calibration.gate import calibrate_gate
from mile_edge.calibration.novelty import fit_novelty, scores
from mile_edge.calibration.reader import GateReader, GateView
from mile_edge.calibration.roc import auroc, detected_at, make_roc
from mile_edge.calibration.tail import high_quantile, share_interval, tolerance_limit
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


def test_the_figures_follow_from_the_limit(tiny_bundle: Path, folders: dict[str, FolderDataset]) -> None:
    bundle = Bundle.open(tiny_bundle)
    loose = calibrate_gate(bundle, list(folders.values()), false_alarms=0.5, alike=1)
    strict = calibrate_gate(bundle, list(folders.values()), false_alarms=0.001, alike=1)
    assert loose.novelty.limit < strict.novelty.limit
    assert loose.false_alarms > strict.false_alarms == 0.0
    assert strict.accuracy == strict.detected == strict.auroc == 1.0
    assert strict.frames == (12, 6)
    assert strict.novelty.groups == 12
    assert set(strict.by_expert) == {"fog", "night"}
    assert strict.interval is not None and strict.interval[0] <= (strict.false_alarms_unseen or 0) <= strict.interval[1]


def test_frames_of_one_place_are_one_sample(tiny_bundle: Path, folders: dict[str, FolderDataset]) -> None:
    found = calibrate_gate(Bundle.open(tiny_bundle), [folders["fog"], folders["night"]], alike=3)
    assert found.novelty.groups == 4
    assert found.auroc is None and found.detected is None


def test_what_is_calibrated_is_what_the_segmenter_says(tiny_bundle: Path, folders: dict[str, FolderDataset]) -> None:
    found = calibrate_gate(Bundle.open(tiny_bundle), [folders["fog"], folders["night"]], false_alarms=0.001)
    bundle = Bundle.open(tiny_bundle)
    bundle = bundle.set_gate(found.applied_to(bundle.manifest.gate))
    assert bundle.manifest.gate.novelty is not None and {"fog", "night"} <= set(bundle.manifest.gate.novelty.experts)
    with Segmenter(bundle) as segmenter:
        alone = [segmenter(sample.frame, stream=sample.name) for sample in folders["fog"]]
        assert not any(result.novel[0] for result in alone)
        assert all(segmenter(sample.frame, stream=("static", sample.name)).novel[0] for sample in folders["static"])
    with np.errstate(all="raise"):
        reader = GateReader(bundle)
        view = GateView(reader, bundle.experts(), bundle.manifest.gate)
        seen = np.stack([reader.see(sample.frame) for sample in folders["fog"]])
    distance = view.distances(seen)
    told = view.model.score(distance, view.model.nearest(distance)) / view.model.limit
    assert [float(result.frame_novelty[0]) for result in alone] == pytest.approx(told.tolist(), abs=1e-3)


def test_a_gate_without_the_expert_is_what_its_left_out_frames_meet(
    tiny_bundle: Path, folders: dict[str, FolderDataset]
) -> None:
    bundle = Bundle.open(tiny_bundle)
    reader = GateReader(bundle)
    features = np.stack([reader.see(sample.frame) for sample in folders["fog"]])
    view = GateView(reader, [expert for expert in bundle.experts() if expert.name != "fog"], bundle.manifest.gate)
    without = bundle.remove("fog")
    with Segmenter(without, hysteresis=0) as segmenter:
        rows = segmenter.rows
        for sample, told in zip(folders["fog"], view.distances(features), strict=True):
            distance = segmenter(sample.frame).distance[0]
            assert [distance[rows[name]] for name in rows] == pytest.approx(
                [told[view.rows[name]] for name in rows], 1e-4
            )


def test_without_a_known_domain_nothing_can_be_calibrated(tiny_bundle: Path, folders: dict[str, FolderDataset]) -> None:
    with pytest.raises(DataError, match="static"):
        calibrate_gate(Bundle.open(tiny_bundle), [folders["static"]])


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
    command = ["calibrate", "gate", str(tiny_bundle), "--data", *data, "--domain", "fog,night,hail", "--alike", "1"]
    assert main([*command, "--json", "--dry-run", "--out", str(picture)]) == 0
    account = json.loads(capsys.readouterr().out)
    assert (tiny_bundle / "manifest.json").read_bytes() == before
    curves = {(curve["unknown"], curve["left_out"]): curve for curve in account["roc"]}
    assert set(curves) == {("hail", False), ("fog", True), ("night", True)}
    assert curves["hail", False]["at_1"] == 1.0
    assert curves["fog", True]["frames"] == [6, 6]
    assert 0 <= account["false_alarms"] <= account["false_alarms_unseen"] <= 1
    assert account["novelty"]["experts"].keys() == {"fog", "night"}
    drawn = ElementTree.fromstring(picture.read_text())
    assert len(drawn.findall("{http://www.w3.org/2000/svg}polyline")) == 3
    assert "hail: 1.000, 100 %, 100 %" in picture.read_text()
    assert [note[:36] for note in account["notes"]] == ["frames of hail count as unknown, for"]


def test_the_command_says_that_one_place_is_few(
    tiny_bundle: Path, folders: dict[str, FolderDataset], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", "gate", str(tiny_bundle), "--data", str(folders["fog"].path), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert told.count("note: ") == 1
    assert "of one place (groups: 1)" in told


def test_the_limit_holds_its_share_on_average_over_sets_of_streets() -> None:
    random = np.random.default_rng(3)
    exceeded, plain = [], []

    def beyond(limit: float) -> float:
        return 0.5 * math.erfc(limit / math.sqrt(1.25) / math.sqrt(2))

    for _ in range(60):
        streets = random.normal(size=40)
        scores = (streets[:, None] + 0.5 * random.normal(size=(40, 5))).ravel()
        exceeded.append(beyond(tolerance_limit(scores, np.repeat(np.arange(40), 5), 0.01)))
        plain.append(beyond(high_quantile(scores, 0.01)))
    assert np.mean(exceeded) <= 0.01 < np.mean(plain)
    assert np.mean(np.array(exceeded) <= 0.01) > 0.6 > 0.5 > np.mean(np.array(plain) <= 0.01)
    assert high_quantile(np.array([3.0]), 0.01) == 3.0
    low, high = share_interval(np.arange(100) < 20, np.arange(100))
    assert low < 0.2 < high


def test_a_dozen_streets_hold_the_share_though_the_same_frames_set_the_scales(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    gate = bundle.manifest.gate
    view = GateView(GateReader(bundle, threads=1), bundle.experts(), gate)
    random = np.random.default_rng(0)

    def streets(count: int) -> dict[str, Seen]:
        """Three frames a street for every expert, spread as its statistics say."""
        found = {}
        for place, expert in enumerate(bundle.experts()):
            covariance = np.asarray(expert.scatter) / (expert.count - 1) + 1e-6 * np.eye(gate.dim)
            drawn = 0.8 * random.normal(size=(count, 1, gate.dim)) + 0.6 * random.normal(size=(count, 3, gate.dim))
            values = np.asarray(expert.mean) + drawn.reshape(-1, gate.dim) @ np.linalg.cholesky(covariance).T
            found[expert.name] = Seen(values, np.repeat(np.arange(count) + place * count, 3))
        return found

    def alarms(known: dict[str, Seen]) -> float:
        told = scores(view, gate, fit_novelty(view, gate, known, 0.01), new)
        return float((np.concatenate(list(told.values())) > 1).mean())

    new = streets(500)
    found = np.array([alarms(streets(12)) for _ in range(10)])
    assert 0.0005 < found.mean() <= 0.01
    assert (found <= 0.01).mean() >= 0.9


def test_the_hysteresis_may_stay_as_it_is(tiny_bundle: Path, folders: dict[str, FolderDataset]) -> None:
    bundle = Bundle.open(tiny_bundle)
    bundle.set_gate(replace(bundle.manifest.gate, hysteresis=0.125))
    data = [str(folders[name].path) for name in ("fog", "night")]
    assert main(["calibrate", "gate", str(tiny_bundle), "--data", *data, "--keep-hysteresis"]) == 0
    gate = Bundle.open(tiny_bundle).manifest.gate
    assert gate.hysteresis == 0.125 and gate.novelty is not None
    assert main(["calibrate", "gate", str(tiny_bundle), "--data", *data]) == 0
    assert Bundle.open(tiny_bundle).manifest.gate.hysteresis != 0.125


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "roc.png"], "roc.png"),
        (["--false-alarms", "0"], "--false-alarms is 0"),
        (["--alike", "0"], "--alike is 0"),
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
