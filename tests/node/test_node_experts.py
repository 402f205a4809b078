"""Experts sent to a running robot: good ones are in, all others leave everything as it was."""

from __future__ import annotations

import array
import hashlib
from pathlib import Path
from typing import Any

import pytest
from mile_edge_node.experts import add_from

from mile_edge.bundle import Bundle, Trust, expert_bytes, read_expert, verify_bundle
from mile_edge.bundle.signing import make_key, pack_expert, read_private_key, sign_expert
from mile_edge.errors import MileError
from mile_edge.runtime import Segmenter

MOST = 64 << 20


@pytest.fixture
def spare(tiny_bundle: Path, tmp_path: Path) -> Path:
    """An expert file that fits the bundle and is not in it."""
    entry = next(entry for entry in Bundle.open(tiny_bundle).manifest.experts if entry.name == "fog")
    file = tmp_path / "spare.safetensors"
    file.write_bytes((tiny_bundle / entry.file).read_bytes())
    Bundle.open(tiny_bundle).remove("fog")
    return file


def test_an_expert_comes_from_a_file_or_as_bytes_with_their_hash(tiny_bundle: Path, spare: Path) -> None:
    data = array.array("B", spare.read_bytes())
    with Segmenter.open(tiny_bundle) as segmenter:
        assert add_from(segmenter, str(spare), b"", "", "", MOST) == "fog"
        assert add_from(segmenter, "", data, hashlib.sha256(data).hexdigest().upper(), "mist", MOST) == "mist"
        assert {"fog", "mist"} <= set(segmenter.experts)
    assert verify_bundle(tiny_bundle) == []


@pytest.mark.parametrize(
    "case", ["neither", "both", "hash", "cut", "foreign", "large", "large file", "nowhere", "folder", "nul"]
)
def test_whatever_does_not_fit_is_refused_in_one_sentence_and_changes_nothing(
    tiny_bundle: Path, spare: Path, case: str
) -> None:
    good = spare.read_bytes()
    cut, foreign = good[:-100], b"\x89PNG" + bytes(1000)
    digest = {
        name: hashlib.sha256(data).hexdigest() for name, data in (("good", good), ("cut", cut), ("foreign", foreign))
    }
    given: dict[str, tuple[Any, ...]] = {
        "neither": ("", b"", "", "", MOST),
        "both": (str(spare), good, digest["good"], "", MOST),
        "hash": ("", good, digest["cut"], "", MOST),
        "cut": ("", cut, digest["cut"], "", MOST),
        "foreign": ("", foreign, digest["foreign"], "", MOST),
        "large": ("", good, digest["good"], "", len(good) - 1),
        "large file": (str(spare), b"", "", "", len(good) - 1),
        "nowhere": ("/no/such/file", b"", "", "", MOST),
        "folder": (str(spare.parent), b"", "", "", MOST),
        "nul": ("a\0b", b"", "", "", MOST),
    }
    with Segmenter.open(tiny_bundle) as segmenter:
        before = segmenter.experts
        with pytest.raises(MileError) as refusal:
            add_from(segmenter, *given[case])
        assert ";" in str(refusal.value) or "," in str(refusal.value)
        assert "\n" not in str(refusal.value)
        assert segmenter.experts == before
    assert verify_bundle(tiny_bundle) == []


def test_under_policy_signed_only_a_publisher_s_package_is_taken_by_either_way(
    tiny_bundle: Path, spare: Path, tmp_path: Path
) -> None:
    make_key(tmp_path / "keys", "workshop")
    signed = sign_expert(pack_expert(read_expert(spare), 1), read_private_key(tmp_path / "keys" / "workshop.key"))
    data, plain = expert_bytes(signed), spare.read_bytes()
    with Segmenter.open(tiny_bundle) as segmenter:
        segmenter.trust = Trust("signed", tmp_path / "keys")
        for given in ((str(spare), b"", ""), ("", plain, hashlib.sha256(plain).hexdigest())):
            with pytest.raises(MileError, match="is not signed"):
                add_from(segmenter, *given, "", MOST)
        with pytest.raises(MileError, match="signed as 'fog' and not as"):
            add_from(segmenter, "", data, hashlib.sha256(data).hexdigest(), "mist", MOST)
        assert add_from(segmenter, "", data, hashlib.sha256(data).hexdigest(), "", MOST) == "fog"


def test_a_file_that_came_with_a_hash_must_have_it_and_may_begin_in_shadow(tiny_bundle: Path, spare: Path) -> None:
    digest = hashlib.sha256(spare.read_bytes()).hexdigest()
    with Segmenter.open(tiny_bundle) as segmenter:
        with pytest.raises(MileError, match="has SHA-256"):
            add_from(segmenter, str(spare), b"", "0" * 64, "", MOST)
        assert add_from(segmenter, str(spare), b"", digest, "", MOST, 300) == "fog"
        assert "fog" not in segmenter.experts
        assert segmenter.shadow is not None
        assert segmenter.shadow.plan.frames == 300
