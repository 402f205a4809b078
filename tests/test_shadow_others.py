"""A shadow run speaks of one candidate: another that took its place meanwhile is not settled by it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_shadow import PATIENCE_S, candidate_file

from mile_edge.bundle import Bundle, ShadowPlan
from mile_edge.errors import BundleError
from mile_edge.runtime import Segmenter


def swapped(bundle: Path, folder: Path, name: str, plan: ShadowPlan) -> None:
    """What another process does meanwhile: the candidate goes, another comes."""
    Bundle.open(bundle).withdraw().add(candidate_file(bundle, folder, name), shadow=plan)


def compare_one(segmenter: Segmenter, path: Path, frame: np.ndarray) -> None:
    """One frame of a long shadow run."""
    segmenter.add_expert(path, shadow=ShadowPlan(1000, every=1))
    segmenter(frame)
    assert segmenter.wait_for_shadow(PATIENCE_S)


def told_last(bundle: Path) -> dict[str, Any]:
    """The change that the journal's last line tells of."""
    change: dict[str, Any] = json.loads((bundle / "journal.jsonl").read_text().splitlines()[-1])["change"]
    return change


def last_change(bundle: Path) -> tuple[str, str]:
    told = told_last(bundle)
    return told["action"], told["expert"]


@pytest.mark.parametrize("frames", [2, 3])
def test_a_candidate_that_was_never_compared_does_not_go_live_by_another_s_run(
    tiny_bundle: Path, tmp_path: Path, street_frames: dict[str, np.ndarray], frames: int
) -> None:
    with Segmenter.open(tiny_bundle, hysteresis=0) as segmenter:
        segmenter.add_expert(candidate_file(tiny_bundle, tmp_path), shadow=ShadowPlan(frames, every=1))
        for place in range(frames):
            if place == frames - 1:
                swapped(tiny_bundle, tmp_path, "haze", ShadowPlan(1000, every=1))
            segmenter(street_frames["fog"])
            assert segmenter.wait_for_shadow(PATIENCE_S)
        assert last_change(tiny_bundle) == ("shadow", "haze")
        candidate = Bundle.open(tiny_bundle).manifest.candidate
        assert candidate is not None and candidate.name == "haze"
        assert not {"mist", "haze"} & set(segmenter.experts)
        # What lies in the folder is taken over, and compared by its own plan from its first frame on.
        segmenter(street_frames["fog"])
        assert segmenter.wait_for_shadow(PATIENCE_S)
        report = segmenter.shadow
        assert report is not None
        assert (report.name, report.compared, report.outcome) == ("haze", 1, "running")


def test_the_same_expert_under_another_plan_is_another_candidate(
    tiny_bundle: Path, tmp_path: Path, street_frames: dict[str, np.ndarray]
) -> None:
    with Segmenter.open(tiny_bundle, hysteresis=0) as segmenter:
        segmenter.add_expert(candidate_file(tiny_bundle, tmp_path), shadow=ShadowPlan(1, every=1))
        swapped(tiny_bundle, tmp_path, "mist", ShadowPlan(50, every=1))
        segmenter(street_frames["fog"])
        assert segmenter.wait_for_shadow(PATIENCE_S)
        assert last_change(tiny_bundle) == ("shadow", "mist")
        assert "mist" not in segmenter.experts


def test_promoting_by_hand_is_about_the_candidate_that_the_segmenter_tells_of(
    tiny_bundle: Path, tmp_path: Path, street_frames: dict[str, np.ndarray]
) -> None:
    with Segmenter.open(tiny_bundle, hysteresis=0) as segmenter:
        compare_one(segmenter, candidate_file(tiny_bundle, tmp_path), street_frames["fog"])
        swapped(tiny_bundle, tmp_path, "haze", ShadowPlan(1000, every=1))
        for settle in (segmenter.promote, segmenter.withdraw):
            with pytest.raises(BundleError, match="'haze' in shadow now and no longer 'mist'"):
                settle()
        assert last_change(tiny_bundle) == ("shadow", "haze")
        assert segmenter.refresh()
        segmenter.promote()
        assert segmenter.experts[-1] == "haze"
        told = told_last(tiny_bundle)
        assert (told["expert"], told["detail"]["compared"]) == ("haze", 0), "of its own run, which saw no frame"


def test_a_candidate_for_novel_frames_is_judged_on_them_though_the_base_serves_them(
    tiny_bundle: Path, tmp_path: Path, street_frames: dict[str, np.ndarray]
) -> None:
    frame, bundle = street_frames["fog"], Bundle.open(tiny_bundle)
    # Nobody knows anything: every frame lies beyond.
    thresholds = {expert.name: 0.0 for expert in bundle.experts()}
    bundle.set_gate(replace(bundle.manifest.gate, novelty=None, thresholds=thresholds))
    with Segmenter.open(tiny_bundle, hysteresis=0, fallback="base") as segmenter:
        segmenter.add_expert(candidate_file(tiny_bundle, tmp_path), shadow=ShadowPlan(1000, every=1))
        segmenter.remove_expert("fog")
        for _ in range(3):
            result = segmenter(frame, stream="a")
            assert segmenter.wait_for_shadow(PATIENCE_S)
        assert result.novel[0] and result.expert == (segmenter.experts[0],)
        report = segmenter.shadow
        assert report is not None
        assert (report.compared, report.picked) == (3, 3)


def test_what_an_earlier_run_found_is_not_told_of_a_later_candidate(
    tiny_bundle: Path, tmp_path: Path, street_frames: dict[str, np.ndarray]
) -> None:
    with Segmenter.open(tiny_bundle, hysteresis=0) as segmenter:
        compare_one(segmenter, candidate_file(tiny_bundle, tmp_path), street_frames["fog"])
        segmenter.withdraw()
        Bundle.open(tiny_bundle).add(candidate_file(tiny_bundle, tmp_path, "haze"), shadow=ShadowPlan(1000))
        segmenter.promote()
        told = told_last(tiny_bundle)
        assert (told["expert"], told["detail"]) == ("haze", {})
