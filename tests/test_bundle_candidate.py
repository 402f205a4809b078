"""A bundle with a candidate stays one that opens: whatever else comes must leave room for what it brings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from bundle_checks import names, refusal
from bundle_makers import ROAD, SKY, make_bundle, make_expert, write_file

from mile_edge.bundle import Bundle, ClassLabel, ShadowPlan, roll_back, verify_bundle, withdraw_candidate
from mile_edge.bundle.commit import change
from mile_edge.bundle.journal import Change
from mile_edge.cli.main import main

PLAN = ShadowPlan(9)
BOAT, TRAM, MOOSE, CRANE = (
    ClassLabel(name, (number, 1, 1)) for number, name in enumerate(("boat", "tram", "moose", "crane"))
)
PLENTY = (SKY, ROAD, ClassLabel("wall", (9, 9, 9)), ClassLabel("kerb", (8, 8, 8)))


def with_classes(folder: Path, name: str, classes: Sequence[ClassLabel]) -> Path:
    return write_file(folder, make_expert(name, classes=tuple(classes)))


def shadowed(folder: Path) -> Bundle:
    """Room for six classes, four used, and a candidate that brings two."""
    return make_bundle(folder, make_expert("full", classes=PLENTY)).add(
        with_classes(folder, "mist", (SKY, BOAT, TRAM)), shadow=PLAN
    )


def unopenable(folder: Path) -> Bundle:
    """As an older version could leave it: another expert took the places that the candidate's classes need."""
    bundle = shadowed(folder)
    assert bundle.manifest.candidate is not None
    candidate, without = bundle.manifest.candidate, bundle.withdraw()
    grown = without.add(with_classes(folder, "haze", (SKY, MOOSE, CRANE)))
    change(bundle.path, replace(grown.manifest, candidate=candidate), {}, Change("shadow", "mist"))
    return grown


def test_what_comes_beside_a_candidate_leaves_room_for_its_classes(tmp_path: Path) -> None:
    bundle = shadowed(tmp_path)
    haze = with_classes(tmp_path, "haze", (SKY, MOOSE, CRANE))
    assert "adds 2 classes to 6" in refusal(tmp_path, lambda: bundle.add(haze))
    # A colour that the candidate brings under another name, and a name that it brings in another colour.
    for wrong in (ClassLabel("moose", BOAT.color), ClassLabel("boat", (7, 7, 7))):
        file = with_classes(tmp_path, "haze", (SKY, wrong))
        assert "in colour" in refusal(tmp_path, lambda file=file: bundle.add(file))
    # The very classes that the candidate brings cost nothing more.
    bundle = bundle.add(with_classes(tmp_path, "haze", (SKY, BOAT, TRAM)))
    assert names(Bundle.open(bundle.path).promote()) == ["base", "full", "haze", "mist"]
    assert verify_bundle(bundle.path) == []


def test_a_state_comes_back_only_if_its_candidate_fits_the_classes_of_the_present(tmp_path: Path) -> None:
    bundle = shadowed(tmp_path)
    Bundle.open(bundle.path).withdraw().add(with_classes(tmp_path, "haze", (SKY, MOOSE, CRANE)))
    state = sorted((bundle.path / "history").iterdir())[-2].name.split("-")[1][:12]
    # Also in the eyes of one that holds the candidate already and need not read it again.
    assert "adds 2 classes to 6" in refusal(tmp_path, lambda: bundle.rollback(state))
    assert names(Bundle.open(bundle.path)) == ["base", "full", "haze"]


def test_a_candidate_that_does_not_fit_can_be_withdrawn_or_rolled_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = unopenable(tmp_path)
    assert "withdraw it" in refusal(tmp_path, lambda: Bundle.open(bundle.path))
    for number, act in enumerate(
        (
            lambda path: withdraw_candidate(path),
            lambda path: roll_back(path),
            lambda path: replace(bundle, path=path).withdraw(),
            lambda path: main(["experts", "withdraw", str(path)]),
            lambda path: main(["experts", "rollback", str(path)]),
        )
    ):
        copy = tmp_path / f"copy-{number}"
        shutil.copytree(bundle.path, copy)
        act(copy)
        mended = Bundle.open(copy)
        assert names(mended) == ["base", "full", "haze"]
        assert mended.manifest.candidate is None
        told = json.loads((copy / "journal.jsonl").read_text().splitlines()[-1])["change"]["action"]
        assert told in ("withdraw", "rollback")
    assert "error" not in capsys.readouterr().out
