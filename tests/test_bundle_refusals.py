"""Nothing that is refused leaves a trace in the bundle."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from bundle_checks import refusal
from bundle_makers import HIDDEN, LAYERS, SKY, make_bundle, make_expert, raw_file, taken_apart, write_file

from mile_edge.bundle import ClassLabel, expert_bytes, remove_expert

HEADER, BODY = taken_apart(make_expert("new"))
HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "pickle": b"\x80\x04\x95" + b"x" * 500,
    "zip": b"PK\x03\x04" + b"\x00" * 500,
    "truncated": expert_bytes(make_expert("new"))[:-7],
    "header length": (2**40).to_bytes(8, "little") + b"{}",
    "huge shape": raw_file({"a": {"dtype": "F32", "shape": [2**30, 2**30], "data_offsets": [0, 2**62]}}),
    "bf16": raw_file({**HEADER, "gate.mean": {**HEADER["gate.mean"], "dtype": "BF16"}}, BODY),
    "other name": expert_bytes(make_expert("new", base_sha256="cd" * 32)),
    "other tap": expert_bytes(make_expert("new", tap="full")),
    "other gate": expert_bytes(make_expert("new", mean=np.ones(3), scatter=np.eye(3))),
    "missing layer": expert_bytes(make_expert("new", low_rank={LAYERS[0].name: (np.ones((2, 6)), np.ones((4, 2)))})),
    "other hidden": expert_bytes(make_expert("new", classifier_weight=np.ones((2, HIDDEN + 2)))),
    "colour clash": expert_bytes(make_expert("new", classes=(SKY, ClassLabel("road", (9, 9, 9))))),
    "name clash": expert_bytes(make_expert("fog", seed=5)),
    "base clash": expert_bytes(make_expert("base", seed=5)),
    "nan": raw_file(HEADER, b"\xff" * len(BODY)),
    "traversal": raw_file({**HEADER, "__metadata__": {**HEADER["__metadata__"], "name": "../../evil"}}, BODY),
    "absolute": raw_file({**HEADER, "__metadata__": {**HEADER["__metadata__"], "name": "/tmp/evil"}}, BODY),
}


@pytest.mark.parametrize("kind", sorted(HOSTILE))
def test_a_refused_file_changes_nothing(tmp_path: Path, kind: str) -> None:
    bundle = make_bundle(tmp_path, make_expert("fog"))
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(HOSTILE[kind])
    assert "hostile.safetensors" in refusal(tmp_path, lambda: bundle.add(path))


def test_a_refused_path_changes_nothing(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, make_expert("fog"))
    good = write_file(tmp_path, make_expert("rain"))
    (tmp_path / "link").symlink_to(good)
    os.mkfifo(tmp_path / "pipe")
    for strange, reason in (
        ("link", "a symbolic link"),
        ("pipe", "not a plain file"),
        ("absent", "cannot be opened"),
        ("bundle", "not a plain file"),
        ("bundle/manifest.json", "not a safetensors file"),
    ):
        assert reason in refusal(tmp_path, lambda strange=strange: bundle.add(tmp_path / strange))
    for name in ("Rain", "../rain", "", "rain/1", "x" * 65, "rain\n"):
        assert "is no expert name" in refusal(tmp_path, lambda name=name: bundle.add(good, name))
    for name, reason in (("fog", "like one in the bundle"), ("base", "like the bundle's base")):
        assert reason in refusal(tmp_path, lambda name=name: bundle.add(good, name))


def test_the_base_and_the_unknown_stay(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, make_expert("fog"))
    for name in ("base", "nobody", "../fog", "", "fog\n"):
        reason = "is the base" if name == "base" else "has no expert"
        assert reason in refusal(tmp_path, lambda name=name: bundle.remove(name))
        assert reason in refusal(tmp_path, lambda name=name: remove_expert(bundle.path, name))


def test_a_full_bundle_says_so(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, *(make_expert(f"e{index}") for index in range(4)))
    assert len(bundle.experts()) == bundle.manifest.capacity + 1
    source = write_file(tmp_path, make_expert("rain"))
    assert "is full with 4" in refusal(tmp_path, lambda: bundle.add(source))
