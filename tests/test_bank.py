"""A change of the bank is whole or none: no expert's name ever stands for another expert's numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bundle_makers import make_bundle, make_expert, write_file

from mile_edge.bundle import Bundle, Novelty, Scale
from mile_edge.errors import BackendError
from mile_edge.runtime.bank import Bank


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
    bank.publish(bundle, lambda: None, lambda _: None)
    assert right(bank, bundle)


def test_what_another_process_changed_since_is_not_undone(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, make_expert("fog"))
    mine = bundle.add(write_file(tmp_path, make_expert("rain", 1)))
    Bundle.open(bundle.path).add(write_file(tmp_path, make_expert("snow", 2)))
    assert [entry.name for entry in mine.undo().manifest.experts] == ["base", "fog", "rain", "snow"]
    other = Bundle.open(bundle.path).remove("fog")
    assert [entry.name for entry in other.undo().manifest.experts] == ["base", "fog", "rain", "snow"]


def test_what_was_calibrated_for_an_expert_goes_with_it(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, make_expert("fog"), make_expert("rain", 1))
    scales = dict.fromkeys(("fog", "rain"), Scale(1.0, 0.1))
    gate = replace(bundle.manifest.gate, thresholds={"fog": 3.0}, novelty=Novelty(3.5, 0.01, 480, scales))
    newer = bundle.set_gate(gate).add(write_file(tmp_path, make_expert("fog", 5)), replaces=True)
    assert newer.manifest.gate.thresholds == {}
    assert newer.manifest.gate.novelty is not None
    assert set(newer.manifest.gate.novelty.experts) == {"rain"}
