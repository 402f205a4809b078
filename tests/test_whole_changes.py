"""A change is made on the disk, in the bank and at the gate, or nowhere: with the segmenter and from the shell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bundle_checks import names
from bundle_makers import another, tree, write_file
from commands import run

from mile_edge.bundle import Bundle, Expert, ShadowPlan
from mile_edge.errors import BackendError, BundleError, ExpertError
from mile_edge.runtime import Segmenter


def flat(expert: Expert) -> Expert:
    """The same, as if no frame of it had ever varied."""
    return replace(expert, scatter=np.zeros_like(expert.scatter))


@pytest.fixture
def stiff_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that nothing shrinks, whose base never varied: all that has an inverse is the other expert's."""
    whole = Bundle.open(tiny_bundle)
    gate = replace(whole.manifest.gate, shrink=0.0, thresholds={}, novelty=None)
    manifest = replace(whole.manifest, experts=(), gate=gate, base_graph=None, fusion=None)
    base, fog = (next(each for each in whole.experts() if each.name == name) for name in ("clear", "fog"))
    bundle = Bundle.create(tmp_path / "stiff", manifest, whole.network_path.read_bytes(), None, flat(base))
    varied = replace(fog, scatter=np.eye(len(fog.mean), dtype=np.float32))
    return bundle.add(write_file(tmp_path, varied)).path


def test_a_change_that_the_gate_cannot_follow_never_comes_onto_the_disk(
    stiff_bundle: Path, tmp_path: Path, street_frames: dict[str, np.ndarray]
) -> None:
    still = write_file(tmp_path, flat(Bundle.open(stiff_bundle).experts()[1]), "still.safetensors")
    changes: tuple[Callable[[Segmenter], object], ...] = (
        lambda segmenter: segmenter.remove_expert("fog"),
        lambda segmenter: segmenter.rollback(),
        lambda segmenter: segmenter.add_expert(still, replaces=True),
        lambda segmenter: segmenter.add_expert(still, shadow=ShadowPlan(9)),
    )
    with Segmenter.open(stiff_bundle) as segmenter:
        before, held = segmenter(street_frames["fog"]).mask, tree(stiff_bundle)
        for change in changes:
            with pytest.raises(BundleError, match="no inverse"):
                change(segmenter)
            assert tree(stiff_bundle) == held
            assert segmenter.experts[1:] == ("fog",)
        assert np.array_equal(segmenter(street_frames["fog"]).mask, before)
    with Segmenter.open(stiff_bundle) as reopened:
        assert reopened.experts[1:] == ("fog",)


def test_a_change_that_no_gate_could_follow_is_refused_on_the_command_line(
    stiff_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    still = write_file(tmp_path, flat(Bundle.open(stiff_bundle).experts()[1]), "still.safetensors")
    shadowed = Bundle.open(stiff_bundle).add(still, shadow=ShadowPlan(9))
    held = tree(stiff_bundle)
    for words in (("promote",), ("remove", "fog"), ("add", still, "--replace")):
        status, out, err = run(capsys, "experts", words[0], stiff_bundle, *words[1:])
        assert (status, out) == (2, "")
        assert "no inverse" in err
        assert tree(stiff_bundle) == held, words
    shadowed.withdraw()
    first = next((stiff_bundle / "history").glob("00000001-*.json")).name[9:17]
    held = tree(stiff_bundle)
    status, _, err = run(capsys, "experts", "rollback", stiff_bundle, "--to", first)
    assert status == 2
    assert "no inverse" in err
    assert tree(stiff_bundle) == held


def test_a_damaged_expert_is_removed_whatever_the_gate_would_say(
    stiff_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (stiff_bundle / Bundle.open(stiff_bundle).manifest.entry("fog").file).write_bytes(b"gone")
    assert run(capsys, "experts", "remove", stiff_bundle, "fog")[0] == 0
    assert len(Bundle.open(stiff_bundle).experts()) == 1


def test_an_expert_whose_row_was_lost_is_back_after_a_refresh_though_the_disk_has_not_changed(
    tiny_bundle: Path, tmp_path: Path, street_frames: dict[str, np.ndarray]
) -> None:
    bundle = Bundle.open(tiny_bundle)
    for number in range(bundle.manifest.capacity + 1 - len(bundle.experts())):
        bundle = bundle.add(write_file(tmp_path, another(tiny_bundle, f"new-{number}", number)))

    def lost(_: int) -> None:
        raise BackendError("the device is lost")

    with Segmenter.open(tiny_bundle) as segmenter:
        segmenter.refresh()
        mask = segmenter(street_frames["fog"], only=["fog"]).mask
        newer = write_file(tmp_path, another(tiny_bundle, "fog", 9))
        with pytest.raises(BackendError):
            bundle.add(newer, replaces=True, around=lambda new: segmenter._bank.publishing(new, lambda: None, lost))
        assert "fog" not in segmenter.rows
        assert segmenter.refresh()
        assert np.array_equal(segmenter(street_frames["fog"], only=["fog"]).mask, mask)
        assert not segmenter.refresh()


def test_an_expert_that_is_replaced_in_a_full_bundle_is_stood_in_for_by_the_base(
    tiny_bundle: Path, tmp_path: Path, street_frames: dict[str, np.ndarray]
) -> None:
    bundle = Bundle.open(tiny_bundle)
    for number in range(bundle.manifest.capacity + 1 - len(bundle.experts())):
        bundle = bundle.add(write_file(tmp_path, another(tiny_bundle, f"new-{number}", number)))
    frame, base = street_frames["fog"], bundle.experts()[0].name
    with Segmenter.open(tiny_bundle) as segmenter:
        segmenter.pin("fog", stream="pinned")
        meanwhile: list[str] = []

        def look(_: int) -> None:
            assert "fog" not in segmenter.rows
            meanwhile.extend(segmenter(frame, only=names).expert[0] for names in (["fog"], ["fog", "night"]))
            meanwhile.extend(segmenter(frame, stream="pinned").expert)
            segmenter.pin("fog", stream="other")
            with pytest.raises(ExpertError, match="not loaded"):
                segmenter(frame, only=["nobody"])

        newer = write_file(tmp_path, another(tiny_bundle, "fog", 9))
        bundle.add(newer, replaces=True, around=lambda new: segmenter._bank.publishing(new, lambda: None, look))
        assert meanwhile == [base, "night", base]
        assert segmenter(frame, only=["fog"]).expert == segmenter(frame, stream="pinned").expert == ("fog",)


def test_a_change_that_the_disk_refuses_leaves_the_segmenter_as_it_was(
    tiny_bundle: Path, tmp_path: Path, street_frames: dict[str, np.ndarray]
) -> None:
    mist = write_file(tmp_path, another(tiny_bundle, "mist"))
    with Segmenter.open(tiny_bundle) as segmenter:
        segmenter.add_expert(mist, shadow=ShadowPlan(9, every=1))
        before, loaded = segmenter(street_frames["fog"]), segmenter.experts
        assert segmenter.wait_for_shadow(60)
        (tiny_bundle / "history").rename(tiny_bundle / "earlier")
        (tiny_bundle / "history").write_bytes(b"no folder")
        for change in (segmenter.promote, segmenter.withdraw, lambda: segmenter.remove_expert("fog")):
            with pytest.raises(BundleError, match="history"):
                change()
            assert segmenter.experts == loaded
            assert segmenter.shadow is not None
            assert (segmenter.shadow.outcome, segmenter.shadow.compared) == ("running", 1), "what it has seen is kept"
        assert np.array_equal(segmenter(street_frames["fog"]).mask, before.mask)
        (tiny_bundle / "history").unlink()
        segmenter.promote()
        assert segmenter.experts == (*loaded, "mist")
    assert names(Bundle.open(tiny_bundle)) == [*loaded, "mist"]
