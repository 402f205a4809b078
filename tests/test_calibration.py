"""Calibration tells what the runtime will do: thresholds, false alarms, novelty, for every kind of gate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mile_edge.bundle import Bundle
from mile_edge.calibration.gate import auroc, calibrate_gate
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
