"""An expert in shadow: compared on some frames, published on none, and live after the frames its plan asks for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_makers import another
from recording import START, Recording

from mile_edge.bundle import Bundle, ClassLabel, Expert, ShadowPlan, write_expert
from mile_edge.cli.main import main
from mile_edge.data.world import write_folder
from mile_edge.errors import BundleError, RecipeError
from mile_edge.fleet import replay_fleet
from mile_edge.replay import ReplayOptions, replay
from mile_edge.runtime import Segmenter
from mile_edge.runtime.shadow import Sample, ShadowRun

PATIENCE_S = 120


def candidate_file(bundle: Path, folder: Path, name: str = "mist", like: str = "fog", **changes: object) -> Path:
    """A new expert that the gate takes for frames of `like`, on which it says something else."""
    known = next(expert for expert in Bundle.open(bundle).experts() if expert.name == like)
    values: dict[str, Any] = {"mean": known.mean, "scatter": known.scatter} | changes
    expert: Expert = replace(another(bundle, name), **values)
    path = folder / f"{name}.safetensors"
    write_expert(path, expert)
    return path


def test_frames_are_bit_identical_while_an_expert_runs_in_shadow(
    tiny_bundle: Path, tmp_path: Path, street_frames: dict[str, np.ndarray]
) -> None:
    file = candidate_file(tiny_bundle, tmp_path, mean=np.zeros_like(Bundle.open(tiny_bundle).experts()[0].mean))
    with Segmenter.open(tiny_bundle) as segmenter:
        before = {name: segmenter(frame) for name, frame in street_frames.items()}
        assert segmenter.add_expert(file, shadow=ShadowPlan(100, every=1)) == "mist"
        assert "mist" not in segmenter.experts
        for name, frame in street_frames.items():
            result = segmenter(frame)
            assert segmenter.wait_for_shadow(PATIENCE_S)
            assert (result.expert, result.mask.tobytes()) == (before[name].expert, before[name].mask.tobytes())
            rows = list(segmenter.rows.values())
            assert np.array_equal(result.distance[:, rows], before[name].distance[:, rows])
        report = segmenter.shadow
        assert report is not None
        assert (report.compared, report.outcome, report.problem) == (len(street_frames), "running", "")


def test_the_comparison_is_what_the_expert_would_say_if_it_were_live(
    tiny_bundle: Path, tmp_path: Path, street_frames: dict[str, np.ndarray]
) -> None:
    file = candidate_file(tiny_bundle, tmp_path)
    network = Bundle.open(tiny_bundle).manifest.network
    frames = {name: np.resize(frame, (network.height, network.width, 3)) for name, frame in street_frames.items()}
    with Segmenter.open(tiny_bundle, hysteresis=0) as segmenter:
        live = {name: segmenter(frame).mask for name, frame in frames.items()}
        segmenter.add_expert(file, shadow=ShadowPlan(len(frames), every=1))
        for frame in frames.values():
            segmenter(frame)
            assert segmenter.wait_for_shadow(PATIENCE_S)
        report = segmenter.shadow
        assert report is not None
        assert report.outcome == "live"
        assert "mist" in segmenter.experts
        picked = [name for name, frame in frames.items() if segmenter(frame).expert == ("mist",)]
        assert report.picked == len(picked)
        segmenter.pin("mist")
        equal = {name: (segmenter(frame).mask == live[name]).mean() for name, frame in frames.items()}
    assert report.agreement == pytest.approx(np.mean(list(equal.values())), abs=1e-3)
    assert set(report.milliseconds) == {"p50", "p95"}
    assert all(0 <= share <= 1 for share in report.per_class.values())
    assert [entry.name for entry in Bundle.open(tiny_bundle).manifest.experts][-1] == "mist"
    told = json.loads((tiny_bundle / "journal.jsonl").read_text().splitlines()[-1])["change"]
    assert (told["action"], told["expert"], told["detail"]["compared"]) == ("live", "mist", len(frames))


def test_one_frame_in_n_is_compared(tiny_bundle: Path, tmp_path: Path, street_frames: dict[str, np.ndarray]) -> None:
    with Segmenter.open(tiny_bundle) as segmenter:
        segmenter.add_expert(candidate_file(tiny_bundle, tmp_path), shadow=ShadowPlan(100, every=3))
        for _ in range(7):
            segmenter(street_frames["clear"])
            assert segmenter.wait_for_shadow(PATIENCE_S)
        report = segmenter.shadow
        assert report is not None
        assert (report.compared, report.skipped) == (2, 0)


def test_an_expert_that_does_not_show_what_was_asked_is_withdrawn(
    tiny_bundle: Path, tmp_path: Path, street_frames: dict[str, np.ndarray]
) -> None:
    with Segmenter.open(tiny_bundle, hysteresis=0) as segmenter:
        plan = ShadowPlan(2, every=1, max_picked=0.4)
        known = next(expert for expert in segmenter.bundle.experts() if expert.name == "fog")
        # It says that it knows fog, and better than the one who does.
        file = candidate_file(tiny_bundle, tmp_path, mean=known.mean, name="fog")
        segmenter.add_expert(file, shadow=plan)
        for _ in range(2):
            segmenter(street_frames["fog"])
            assert segmenter.wait_for_shadow(PATIENCE_S)
        report = segmenter.shadow
        assert report is not None
        assert (report.picked, report.outcome) == (2, "withdrawn")
        assert segmenter.bundle.manifest.candidate is None
        assert segmenter.bundle.experts()[segmenter.experts.index("fog")] == known


def test_a_newer_fog_takes_the_older_one_s_place_when_it_goes_live_and_rollback_brings_it_back(
    tiny_bundle: Path, tmp_path: Path, street_frames: dict[str, np.ndarray]
) -> None:
    with Segmenter.open(tiny_bundle) as segmenter:
        experts, old = segmenter.experts, segmenter(street_frames["fog"]).mask.tobytes()
        segmenter.add_expert(candidate_file(tiny_bundle, tmp_path, name="fog"), shadow=1000)
        segmenter.promote()
        assert segmenter.experts == experts
        segmenter.pin("fog")
        assert segmenter(street_frames["fog"]).mask.tobytes() != old
        segmenter.auto()
        segmenter.rollback()
        segmenter.withdraw()
        assert segmenter.experts == experts
        assert segmenter(street_frames["fog"]).mask.tobytes() == old
        with pytest.raises(BundleError, match="no expert in shadow"):
            segmenter.promote()


def test_a_shadow_run_survives_a_restart_and_a_new_class_comes_with_it(
    tiny_bundle: Path, tmp_path: Path, street_frames: dict[str, np.ndarray]
) -> None:
    boat = ClassLabel("boat", (1, 2, 3))
    known = next(expert for expert in Bundle.open(tiny_bundle).experts() if expert.adapter == "low_rank")
    file = candidate_file(tiny_bundle, tmp_path, classes=(*known.classes[:-1], boat))
    Bundle.open(tiny_bundle).add(file, shadow=ShadowPlan(1, every=1))
    with Segmenter.open(tiny_bundle) as segmenter:
        assert boat not in segmenter.classes
        segmenter(street_frames["clear"])
        assert segmenter.wait_for_shadow(PATIENCE_S)
        assert segmenter.experts[-1] == "mist"
        assert segmenter.classes[-1] == boat


def test_what_measures_leaves_the_candidate_in_shadow_and_the_bundle_as_it_is(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Bundle.open(tiny_bundle).add(candidate_file(tiny_bundle, tmp_path), shadow=ShadowPlan(2, every=1))
    with Recording(tmp_path / "drive") as recording:
        for index in range(4):
            frame = np.random.default_rng(index).integers(0, 255, (48, 64, 3)).astype(np.uint8)
            recording.image("/camera/image_raw", START + index * 100_000_000, "rgb8", frame)
    write_folder(tmp_path / "fog", [0], 3, "fog", size=(48, 64))
    before = (tiny_bundle / "manifest.json").read_bytes()
    out = ReplayOptions(out=tmp_path / "out", threads=1)
    (note,) = replay(tiny_bundle, tmp_path / "drive", out).report["notes"]
    assert note.startswith("expert mist stays in shadow") and "--shadow" in note
    assert main(["evaluate", str(tiny_bundle), str(tmp_path / "fog")]) == 0
    assert (tiny_bundle / "manifest.json").read_bytes() == before
    with pytest.raises(RecipeError, match="--shadow"):
        replay_fleet(tiny_bundle, [str(tmp_path / "drive")], replace(out, shadow=True))
    (note,) = replay(tiny_bundle, tmp_path / "drive", replace(out, shadow=True)).report["notes"]
    assert note.startswith("expert mist is now live: 2 of 2 frames compared")
    assert "mist" in [entry.name for entry in Bundle.open(tiny_bundle).manifest.experts]
    (note,) = replay(tiny_bundle, tmp_path / "drive", replace(out, shadow=True)).report["notes"]
    assert "no expert in shadow" in note


def test_one_candidate_at_a_time_and_only_where_there_is_a_row_for_it(tiny_bundle: Path, tmp_path: Path) -> None:
    with Segmenter.open(tiny_bundle) as segmenter:
        segmenter.add_expert(candidate_file(tiny_bundle, tmp_path), shadow=5)
        with pytest.raises(BundleError, match="in shadow already"):
            segmenter.add_expert(candidate_file(tiny_bundle, tmp_path, "haze"), shadow=5)
        free = segmenter.manifest.capacity + 1 - len(segmenter.experts)
        for number in range(free - 1):
            segmenter.add_expert(candidate_file(tiny_bundle, tmp_path, f"more-{number}"))
        with pytest.raises(BundleError, match="is full"):
            segmenter.add_expert(candidate_file(tiny_bundle, tmp_path, "too-much"))
        segmenter.promote()
        with pytest.raises(BundleError, match="a shadow run needs a row"):
            segmenter.add_expert(candidate_file(tiny_bundle, tmp_path, "mist"), shadow=5)
    for wrong in ({"frames": 0}, {"frames": 5, "every": 0}, {"frames": 5, "min_agreement": 2.0}):
        with pytest.raises(RecipeError, match="of a shadow run is"):
            ShadowPlan(**wrong)


def test_a_comparison_that_fails_in_a_way_nobody_foresaw_ends_the_run_and_says_so() -> None:
    def exhausted(sample: Sample) -> None:
        raise MemoryError("no memory for a second pass")

    run = ShadowRun("mist", ShadowPlan(10, every=1), ("sky", "road"), exhausted, lambda report: "live")
    frame = np.zeros((1, 4, 4, 3), np.uint8)
    run.offer(frame, frame[..., 0], np.zeros((1, 3), np.float32))
    assert run.wait(PATIENCE_S)
    report = run.report()
    assert report.outcome == "left" and "no memory" in report.problem
    run.offer(frame, frame[..., 0], np.zeros((1, 3), np.float32))
    assert run.wait(PATIENCE_S), "nobody waits for a run that is over"
    run.join()
