"""A change of the bank is whole or none: no expert's name ever stands for another expert's numbers."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from bundle_checks import names
from bundle_makers import (
    BASE_ONNX,
    DIM,
    ONNX,
    ROAD,
    SKY,
    make_base,
    make_bundle,
    make_expert,
    make_manifest,
    write_file,
)

from mile_edge.bundle import Bundle, ClassLabel, Novelty, Scale, ShadowPlan
from mile_edge.bundle.journal import read_journal
from mile_edge.errors import BackendError, BundleError
from mile_edge.runtime.bank import Bank, GateState


def full(folder: Path) -> Bundle:
    return make_bundle(folder, *(make_expert(name, seed) for seed, name in enumerate(["fog", "rain", "snow", "dusk"])))


def right(bank: Bank, bundle: Bundle) -> bool:
    """Whether each expert's row holds its own numbers."""
    own = {
        expert.name: bundle.manifest.low_rank.pack(expert, bundle.manifest.class_ids(expert.classes))
        for expert in bundle.experts()
    }
    return bank.state.rows.keys() == own.keys() and all(
        np.array_equal(bank.rows[row], own[name]) for name, row in bank.state.rows.items()
    )


def lost(_: int) -> None:
    raise BackendError("the device is lost")


def test_a_row_that_cannot_be_written_leaves_every_expert_its_own_numbers(tmp_path: Path) -> None:
    bundle = full(tmp_path)
    bank = Bank(bundle)
    said: list[int] = []

    def once(row: int) -> None:
        said.append(row)
        if len(said) == 1:
            lost(row)

    newer = bundle.add(write_file(tmp_path, make_expert("rain", 9)), replaces=True)
    with pytest.raises(BackendError):
        bank.publish(newer, lambda: None, once)
    assert right(bank, bundle)
    bank.publish(bundle, lambda: None, said.append)
    assert right(bank, bundle)
    bank.publish(newer, lambda: None, said.append)
    assert right(bank, newer)


def test_an_expert_whose_row_cannot_even_be_put_back_is_closed_until_it_can(tmp_path: Path) -> None:
    bundle = full(tmp_path)
    bank = Bank(bundle)
    newer = bundle.add(write_file(tmp_path, make_expert("rain", 9)), replaces=True)
    with pytest.raises(BackendError):
        bank.publish(newer, lambda: None, lost)
    assert "rain" not in bank.state.rows
    assert not bank.whole
    bank.publish(bundle, lambda: None, lambda _: None)
    assert right(bank, bundle)
    assert bank.whole


def test_what_the_device_refuses_the_disk_never_has_and_what_others_change_meanwhile_stays(tmp_path: Path) -> None:
    boat = ClassLabel("boat", (1, 2, 3))
    bundle = make_bundle(tmp_path, make_expert("fog"))
    bank = Bank(bundle)
    snow = write_file(tmp_path, make_expert("snow", 2))
    other = threading.Thread(target=lambda: Bundle.open(bundle.path).add(snow))

    def refused(_: int) -> None:
        other.start()
        other.join(0.2)
        assert other.is_alive(), "it waits for its turn"
        lost(_)

    mine = write_file(tmp_path, make_expert("rain", 1, classes=(SKY, boat)))
    with pytest.raises(BackendError):
        bundle.add(mine, around=lambda new: bank.publishing(new, lambda: None, refused))
    other.join()
    now = Bundle.open(bundle.path)
    assert names(now) == ["base", "fog", "snow"]
    assert boat not in now.manifest.classes
    state = hashlib.sha256((bundle.path / "manifest.json").read_bytes()).hexdigest()
    assert [record.change.expert for record in read_journal(bundle.path, state).records] == ["fog", "snow"]
    bank.publish(now, lambda: None, lambda _: None)
    assert right(bank, now)


def test_what_the_disk_refuses_no_frame_ever_sees(tmp_path: Path) -> None:
    bundle = full(tmp_path)
    bank = Bank(bundle)
    (bundle.path / "history").rename(bundle.path / "earlier")
    (bundle.path / "history").write_bytes(b"no folder")
    newer = write_file(tmp_path, make_expert("rain", 9))
    for change in (partial(bundle.add, newer, replaces=True), partial(bundle.remove, "rain")):
        with pytest.raises(BundleError, match="history"):
            change(around=lambda new: bank.publishing(new, lambda: None, lambda _: None))
        assert right(bank, bundle)
        assert bank.state.manifest == bundle.manifest


def test_a_row_kept_for_a_candidate_stays_shut_while_a_full_bank_makes_room(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, *(make_expert(name, seed) for seed, name in enumerate(["fog", "rain", "snow"])))
    bundle = bundle.add(write_file(tmp_path, make_expert("dusk", 3)), shadow=ShadowPlan(9))
    bank = Bank(bundle)
    assert bank.state.shadow is not None
    row = bank.state.shadow.rows["dusk"]
    seen: list[GateState] = []
    newer = bundle.add(write_file(tmp_path, make_expert("rain", 9)), replaces=True)
    bank.publish(newer, lambda: None, lambda _: seen.append(bank.state))
    (meanwhile,) = seen
    assert set(meanwhile.rows) == {"base", "fog", "snow"}
    assert meanwhile.bias[row] < -1e29
    assert right(bank, newer)
    assert bank.state.shadow is not None
    assert bank.state.shadow.rows["dusk"] == row


def test_statistics_without_an_inverse_are_refused_before_any_row_is_written(tmp_path: Path) -> None:
    gate = replace(make_manifest().gate, shrink=0.0)
    still = np.zeros((DIM, DIM), np.float32)
    founded = Bundle.create(tmp_path / "b", make_manifest(gate=gate), ONNX, BASE_ONNX, make_base(scatter=still))
    bundle = founded.add(write_file(tmp_path, make_expert("fog")))
    bank, said = Bank(bundle), list[int]()
    before = bank.rows.copy()
    flat = write_file(tmp_path, make_expert("fog", 5, scatter=still))
    text = (bundle.path / "manifest.json").read_bytes()
    with pytest.raises(BundleError, match="no inverse"):
        bundle.add(flat, replaces=True, around=lambda new: bank.publishing(new, lambda: None, said.append))
    assert not said
    assert np.array_equal(bank.rows, before)
    assert (bundle.path / "manifest.json").read_bytes() == text


def test_a_candidate_whose_class_ids_moved_is_packed_again_after_a_change_that_failed(tmp_path: Path) -> None:
    boat, tram = ClassLabel("boat", (1, 2, 3)), ClassLabel("tram", (4, 5, 6))
    mist = write_file(tmp_path, make_expert("mist", 5, classes=(SKY, boat)))
    shadowed = make_bundle(tmp_path).add(mist, shadow=ShadowPlan(9))
    bank = Bank(shadowed)
    # It takes the next class id, which was to be the candidate's.
    grown = shadowed.add(write_file(tmp_path, make_expert("haze", 6, classes=(ROAD, tram))))
    with pytest.raises(BackendError):
        bank.publish(grown, lambda: None, lost)
    bank.publish(grown, lambda: None, lambda _: None)
    view = grown.as_if_live()
    assert view is not None
    assert bank.state.shadow is not None
    packed = view.manifest.low_rank.pack(view.experts()[-1], view.manifest.class_ids((SKY, boat)))
    assert np.array_equal(bank.rows[bank.state.shadow.rows["mist"]], packed)


def test_what_was_calibrated_for_an_expert_goes_with_it(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, make_expert("fog"), make_expert("rain", 1))
    scales = dict.fromkeys(("fog", "rain"), Scale(1.0, 0.1))
    gate = replace(bundle.manifest.gate, thresholds={"fog": 3.0}, novelty=Novelty(3.5, 0.01, 480, scales))
    newer = bundle.set_gate(gate).add(write_file(tmp_path, make_expert("fog", 5)), replaces=True)
    assert newer.manifest.gate.thresholds == {}
    assert newer.manifest.gate.novelty is not None
    assert set(newer.manifest.gate.novelty.experts) == {"rain"}


def test_no_other_expert_is_read_again_when_one_goes_out_of_a_calibrated_bundle(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, make_expert("fog"), make_expert("rain", 1))
    scales = dict.fromkeys(("fog", "rain"), Scale(1.0, 0.1))
    bundle = bundle.set_gate(replace(bundle.manifest.gate, novelty=Novelty(3.5, 0.01, 480, scales)))
    Bundle.open(bundle.path).remove("rain")
    (bundle.path / bundle.manifest.entry("fog").file).write_bytes(b"whoever reads this is refused")
    assert names(bundle.current()) == ["base", "fog"]
