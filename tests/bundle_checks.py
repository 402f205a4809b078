"""What must hold of a bundle on disk, whatever happened to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundle_makers import expected_tree, is_one_sentence, tree

from mile_edge.bundle import Bundle, Manifest, verify_bundle
from mile_edge.errors import MileError


def refused(act: Callable[[], object], error: type[MileError] = MileError) -> str:
    """The one sentence with which `act` is refused."""
    with pytest.raises(error) as caught:
        act()
    assert is_one_sentence(caught.value), caught.value
    return str(caught.value)


def refusal(folder: Path, act: Callable[[], object]) -> str:
    """The one sentence with which `act` is refused, after which nothing below `folder` has changed."""
    before = tree(folder)
    said = refused(act)
    assert tree(folder) == before
    return said


def names(bundle: Bundle) -> list[str]:
    assert [entry.name for entry in bundle.manifest.experts] == [expert.name for expert in bundle.experts()]
    return [entry.name for entry in bundle.manifest.experts]


def whole_state(folder: Path) -> list[str]:
    """The names in a bundle whose only faults are leftovers that the next change sweeps."""
    problems = verify_bundle(folder)
    assert all("not named by the manifest" in problem for problem in problems), problems
    return [entry.name for entry in Manifest.from_json((folder / "manifest.json").read_bytes()).experts]


def assert_swept(folder: Path) -> None:
    Bundle.open(folder)
    assert set(tree(folder)) == expected_tree(folder)


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
