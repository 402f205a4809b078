"""What was done to a bundle is written down before it is done, and can be undone; kill -9 and torn lines included."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from bundle_checks import assert_swept, whole_state
from bundle_makers import CAR, ROAD, SKY, expected_tree, make_bundle, make_expert, make_manifest, tree, write_file
from forks import events_until_done, killed_at_line
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mile_edge.bundle import Bundle, ShadowPlan, remove_expert, verify_bundle
from mile_edge.bundle.history import STATES, states
from mile_edge.bundle.journal import JOURNAL, Journal, read_journal
from mile_edge.errors import BundleError, MileError


def names(bundle: Bundle) -> list[str]:
    return [entry.name for entry in bundle.manifest.experts]


def present(folder: Path) -> str:
    return hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()


def journal(folder: Path) -> Journal:
    return read_journal(folder, present(folder))


def told(folder: Path) -> list[tuple[str, str, str]]:
    return [(each.change.action, each.change.expert, each.outcome) for each in journal(folder).records]


def test_every_change_is_told_with_who_when_what_and_hash(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, make_expert("fog"))
    bundle = bundle.set_gate(bundle.manifest.gate).remove("fog").rollback()
    assert told(bundle.path) == [
        (each, name, "done")
        for each, name in zip(("add", "gate", "remove", "rollback"), ("fog", "", "fog", ""), strict=True)
    ]
    first = journal(bundle.path).records[0]
    assert first.who["pid"] == os.getpid()
    assert {"user", "host", "program"} <= set(first.who)
    assert first.time.startswith("20") and first.time.endswith("Z")
    assert first.change.sha256 == bundle.manifest.entry("fog").sha256
    assert [each.number for each in journal(bundle.path).records] == [1, 2, 3, 4]


def test_rollback_brings_back_experts_and_gate_and_lets_classes_and_ids_be(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, make_expert("fog"))
    old = bundle.path / bundle.manifest.entry("fog").file
    inode, state = old.stat().st_ino, present(bundle.path)
    bundle = bundle.remove("fog").add(write_file(tmp_path, make_expert("rain", classes=(SKY, ROAD, CAR))))
    bundle = bundle.rollback(state[:8])
    assert names(bundle) == ["base", "fog"] == names(Bundle.open(bundle.path))
    assert bundle.manifest.classes == (SKY, ROAD, CAR)
    assert old.stat().st_ino == inode, "the file was there all the time"
    assert names(bundle.rollback()) == ["base", "rain"], "a rollback can be rolled back"
    assert verify_bundle(bundle.path) == []
    with pytest.raises(BundleError, match="is not one of those kept"):
        bundle.rollback("abc")


def test_the_last_states_are_kept_and_no_file_that_none_of_them_names(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    with pytest.raises(BundleError, match="keeps no earlier state"):
        bundle.rollback()
    for number in range(STATES + 3):
        bundle = bundle.add(write_file(tmp_path, make_expert("fog", seed=number)), replaces=True)
        assert len(states(bundle.path)) == min(number + 1, STATES)
        assert set(tree(bundle.path)) == expected_tree(bundle.path)
    assert len(list((bundle.path / "experts").iterdir())) == 1 + 1 + STATES
    oldest = states(bundle.path)[0].path
    assert oldest.stat().st_nlink == 1
    oldest.write_bytes(oldest.read_bytes()[:-1])
    with pytest.raises(BundleError, match="is damaged; roll back to another"):
        bundle.rollback(oldest.name.split("-")[1][:10])


def test_a_bundle_exported_anew_does_not_go_back_to_another_network_s_experts(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, make_expert("fog"))
    manifest = json.loads((bundle.path / "manifest.json").read_bytes())
    manifest["base"]["sha256"] = "cd" * 32
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="exported anew since"):
        bundle.rollback()
    assert make_manifest().base.sha256 != "cd" * 32


def test_killed_before_any_line_of_a_rollback_it_is_old_or_new_and_the_journal_knows_which(
    memory_path: Path,
) -> None:
    bundle = make_bundle(memory_path, make_expert("fog"), make_expert("rain")).remove("rain")
    seen: set[tuple[bool, bool]] = set()
    for _ in events_until_done(lambda number: killed_at_line(number, Bundle.open(bundle.path).rollback)):
        state = whole_state(bundle.path)
        assert state in (["base", "fog"], ["base", "fog", "rain"])
        kept = journal(bundle.path)
        assert (kept.torn, kept.broken) == (0, ())
        last = kept.records[-1]
        came_back = "rain" in state
        # Either it was written down, and then also whether it was done, or nothing has happened yet.
        assert last.outcome == ("done" if came_back or last.change.action != "rollback" else "not done")
        assert not came_back or last.change.action == "rollback"
        seen.add((came_back, last.change.action == "rollback"))
        remove_expert(bundle.path, "rain") if came_back else Bundle.open(bundle.path).set_gate(bundle.manifest.gate)
        assert_swept(bundle.path)
    assert seen == {(False, False), (False, True), (True, True)}
    undone = [each for each in journal(bundle.path).records if each.outcome == "not done"]
    assert undone
    assert all(each.outcome in ("done", "not done") for each in journal(bundle.path).records)


@given(cut=st.integers(0, 400), garbage=st.binary(max_size=60))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_torn_last_line_is_recognised_and_hides_no_other(
    tmp_path_factory: pytest.TempPathFactory, cut: int, garbage: bytes
) -> None:
    bundle = make_bundle(tmp_path_factory.mktemp("torn"), make_expert("fog"), make_expert("rain"))
    path = bundle.path / JOURNAL
    whole = path.read_bytes()
    kept = len(whole.splitlines()[-1]) + 1
    torn = whole[: len(whole) - min(cut, kept)] + garbage
    path.write_bytes(torn)
    assert told(bundle.path)[:1] == [("add", "fog", told(bundle.path)[0][2])]
    count = len(journal(bundle.path).records)
    bundle.remove("rain")
    assert path.read_bytes().startswith(torn), "only ever appended"
    assert told(bundle.path)[-1] == ("remove", "rain", "done")
    assert len(journal(bundle.path).records) == count + 1


def test_a_change_with_a_long_story_is_told_without_it(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, make_expert("fog")).add(
        write_file(tmp_path, make_expert("rain", 1)), shadow=ShadowPlan(5)
    )
    story = {"frames": 5, "per_class": {f"ö{number}" * 8: 0.5 for number in range(400)}}
    bundle.promote(story)
    told_of = journal(bundle.path)
    assert told_of.torn == 0
    assert (told_of.records[-1].change.action, told_of.records[-1].change.detail) == ("live", {"frames": 5})
    Bundle.open(bundle.path).remove("rain")
    assert journal(bundle.path).broken == ()


def test_lines_that_were_altered_or_taken_out_are_noticed(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, *(make_expert(f"e{number}") for number in range(4)))
    path = bundle.path / JOURNAL
    lines = path.read_bytes().splitlines(keepends=True)
    assert journal(bundle.path).broken == ()
    path.write_bytes(b"".join([lines[0], *lines[2:]]))
    assert journal(bundle.path).broken == (3,)
    path.write_bytes(b"".join([lines[0], lines[1].replace(b'"expert":"e1"', b'"expert":"e9"'), *lines[2:]]))
    assert journal(bundle.path).broken == (3,)
    path.write_bytes(b"".join(lines[1:]))
    assert journal(bundle.path).broken == (2,)


def test_a_journal_that_is_no_file_of_ours_stops_changes_and_is_not_touched(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    (tmp_path / "elsewhere").write_text("precious")
    (bundle.path / JOURNAL).symlink_to(tmp_path / "elsewhere")
    before = tree(bundle.path / "experts")
    with pytest.raises(BundleError):
        bundle.add(write_file(tmp_path, make_expert("fog")))
    assert (tmp_path / "elsewhere").read_text() == "precious"
    assert tree(bundle.path / "experts") == before
    assert names(Bundle.open(bundle.path)) == ["base"]


def test_a_detail_that_is_no_number_costs_the_detail_and_never_the_record(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path).add(write_file(tmp_path, make_expert("fog")), shadow=ShadowPlan(9))
    bundle = bundle.promote({"compared": 9, "per_class": {"road": float("nan")}})
    bundle.add(write_file(tmp_path, make_expert("rain", 1)), shadow=ShadowPlan(9)).withdraw({"share": float("inf")})
    kept = journal(bundle.path)
    assert (kept.torn, kept.broken) == (0, ())
    assert [record.change.action for record in kept.records] == ["shadow", "live", "shadow", "withdraw"]
    assert [record.change.detail for record in kept.records[1::2]] == [{"compared": 9}, {}]


CHANGES = st.lists(
    st.tuples(st.sampled_from(["add", "remove", "back", "shadow", "live"]), st.integers(0, 2)), max_size=8
)


@given(changes=CHANGES)
@settings(max_examples=25, deadline=None)
def test_any_row_of_changes_leaves_a_whole_bundle_whose_journal_tells_them_all(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("row")
    bundle, done = make_bundle(folder), 0
    earlier: list[tuple[str, list[str]]] = []
    for what, which in changes:
        before = (present(bundle.path), names(bundle))
        file = write_file(folder, make_expert(f"e{which}", seed=which))
        try:
            if what == "add":
                bundle = bundle.add(file)
            elif what == "remove":
                bundle = bundle.remove(f"e{which}")
            elif what == "back":
                bundle = bundle.rollback()
                assert names(bundle) == next(kept for state, kept in reversed(earlier) if state != before[0])
            elif what == "shadow":
                bundle = bundle.add(file, shadow=ShadowPlan(9))
            else:
                bundle = bundle.promote()
        except MileError:
            assert present(bundle.path) == before[0]
        else:
            done += 1
            earlier.append(before)
        assert Bundle.open(bundle.path) == bundle
    assert len(journal(bundle.path).records) == done
    assert verify_bundle(bundle.path) == []
    assert set(tree(bundle.path)) == expected_tree(bundle.path)
