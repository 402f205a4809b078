"""Under policy `signed`, all that is not a trusted publisher's, unchanged and newest, is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bundle_makers import is_one_sentence, make_bundle, make_expert, tree
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from package_makers import Fleet, closed, opened

from mile_edge.bundle import Trust, expert_bytes
from mile_edge.bundle.expert import MAX_BYTES
from mile_edge.bundle.signing import pack_expert, read_private_key
from mile_edge.errors import ExpertError, MileError

# The order of the group that Ed25519 signs in: S and S + L are the same to a verifier that does not look.
L = 2**252 + 27742317777372353535851937790883648493
FOG = make_expert("fog")
SMALL_ORDER = ["00" * 32, "01" + "00" * 31, "ec" + "ff" * 30 + "7f", "00" * 31 + "80"]


def hostile(fleet: Fleet) -> Iterator[tuple[str, bytes]]:
    """Files that a robot which trusts the workshop must refuse, by the kind of lie they tell."""
    fog = make_expert("fog", seed=1)
    good = fleet.sign(fog, version=3)

    def altered(act: Callable[[dict[str, Any], dict[str, str]], object], data: bytes = good, **style: Any) -> bytes:
        header, body = opened(data)
        act(header, header["__metadata__"])
        return closed(header, body, **style)

    def package(**changes: Any) -> Callable[[Any, dict[str, str]], object]:
        return lambda _, meta: meta.update(package=json.dumps(json.loads(meta["package"]) | changes, sort_keys=True))

    yield "unsigned: a plain expert", expert_bytes(fog)
    yield "unsigned: packed only", expert_bytes(pack_expert(fog, 3))
    yield "unsigned: signature taken out", altered(lambda _, meta: meta.pop("signature"))
    yield "unsigned: signature empty", altered(lambda _, meta: meta.update(signature=""))
    yield "unsigned: package taken out", altered(lambda _, meta: meta.pop("package"))
    for by in ("stranger", "former"):
        yield f"re-signed: by {by}", fleet.sign(fog, 3, by)
        yield (
            f"re-signed: by {by}, who says workshop",
            altered(package(key=fleet.ids["workshop"]), fleet.sign(fog, 3, by)),
        )
    yield "re-signed: workshop's signature under a stranger's id", altered(package(key=fleet.ids["stranger"]))
    yield "re-signed: with a revoked key, id in capitals", altered(package(key=fleet.ids["former"].upper()))
    signature = opened(good)[0]["__metadata__"]["signature"]
    r, s = signature[:64], int.from_bytes(bytes.fromhex(signature[64:]), "little")
    for times in (1, 2, 3):
        more = (s + times * L).to_bytes(33, "little")[:32].hex()
        yield f"malleated: S + {times} L", altered(lambda _, meta, more=more: meta.update(signature=r + more))
    yield "malleated: signature in capitals", altered(lambda _, meta: meta.update(signature=signature.upper()))
    yield "malleated: signature longer", altered(lambda _, meta: meta.update(signature=signature + "00"))
    yield "malleated: signature of zeros", altered(lambda _, meta: meta.update(signature="0" * 128))
    for point in SMALL_ORDER:
        yield (
            f"malleated: R of small order {point[:2]}..{point[-2:]}",
            altered(lambda _, meta, point=point: meta.update(signature=point + "00" * 32)),
        )
    yield "malleated: header with spaces", altered(lambda *_: None, separators=(", ", ": "))
    yield "malleated: header indented", altered(lambda *_: None, indent=1)
    yield "malleated: one more word of padding", _padded(good)
    yield (
        "malleated: metadata in another order",
        altered(lambda header, meta: header.update(__metadata__=dict(reversed(meta.items())))),
    )
    yield (
        "malleated: tensors in another order",
        altered(lambda header, _: [header.update({name: header.pop(name)}) for name in list(header)[1:3]]),
    )
    header, body = opened(good)
    text = json.dumps(header, separators=(",", ":"))
    again = text[:-1] + ',"__metadata__":' + json.dumps(header["__metadata__"]) + "}"
    yield "malleated: metadata twice", len(again).to_bytes(8, "little") + again.encode() + body
    for key, value in {
        "name": "rain",
        "base_sha256": "cd" * 32,
        "classes": opened(good)[0]["__metadata__"]["classes"].replace("road", "roam"),
        "sensors": '["thermal"]',
        "domains": '["*"]',
        "scores": '{"miou": 1.0}',
        "training": "{}",
        "count": "21",
        "attributes": '["night"]',
        "digest": "0" * 64,
    }.items():
        yield f"altered: {key}", altered(lambda _, meta, key=key, value=value: meta.update({key: value}))
    yield "altered: digest taken out", altered(lambda _, meta: meta.pop("digest"))
    yield "altered: version raised", altered(package(version=4))
    yield "altered: date", altered(package(created="2030-01-01T00:00:00Z"))
    yield "altered: a field more", altered(lambda _, meta: meta.update(note="hello"))
    yield "altered: a weight", good[:-1] + bytes([good[-1] ^ 1])
    yield "altered: bytes behind", good + b"\x00" * 8
    yield "altered: cut off", good[:-4]
    other, _ = opened(fleet.sign(make_expert("fog", seed=2), version=3))
    yield (
        "altered: another expert's signature",
        altered(lambda _, meta: meta.update(signature=other["__metadata__"]["signature"])),
    )
    yield "altered: another's tensors under this header", closed(header, opened(expert_bytes(make_expert(seed=5)))[1])
    yield "downgraded: version 1", fleet.sign(fog, 1)
    yield "downgraded: the present version, another file", fleet.sign(make_expert("fog", seed=3), 2)
    yield "foreign: for another base", fleet.sign(dataclasses.replace(fog, base_sha256="cd" * 32), 3)
    yield "foreign: for another gate", fleet.sign(make_expert("fog", tap="full"), 3)
    yield "foreign: named as the base", fleet.sign(make_expert("base"), 3)
    key = read_private_key(fleet.folder / "workshop" / "workshop.key")
    bare = key.sign(expert_bytes(pack_expert(fog, 3))).hex()
    yield "foreign: signed for another purpose", altered(lambda _, meta: meta.update(signature=bare))
    yield "oversized: 64 MiB and a byte", b"\x00" * (MAX_BYTES + 1)
    huge = {"dtype": "F32", "shape": [2**30, 2**30], "data_offsets": [0, 2**62]}
    yield "oversized: a tensor of an exbibyte", altered(lambda header, _: header.update({"gate.mean": huge}))
    yield "oversized: a header of an exbibyte", (2**60).to_bytes(8, "little") + good[8:]
    yield "no expert: empty", b""
    yield "no expert: pickle", b"\x80\x04\x95" + b"x" * 100


def _padded(data: bytes) -> bytes:
    length = int.from_bytes(data[:8], "little")
    return (length + 8).to_bytes(8, "little") + data[8 : 8 + length] + b" " * 8 + data[8 + length :]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet(tmp_path_factory.mktemp("fleet"))


def test_nothing_hostile_is_accepted_under_policy_signed(fleet: Fleet, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path).add(fleet.write(version=2), trust=fleet.trust).remove("fog")
    before, kinds = tree(bundle.path), []
    path = tmp_path / "hostile.safetensors"
    for kind, data in hostile(fleet):
        path.write_bytes(data)
        with pytest.raises(ExpertError) as caught:
            bundle.add(path, trust=fleet.trust)
        assert is_one_sentence(caught.value), (kind, caught.value)
        kinds.append(kind)
        assert tree(bundle.path) == before, kind
    assert len(kinds) == len(set(kinds)) >= 55
    assert {kind.split(":")[0] for kind in kinds} >= {"unsigned", "re-signed", "downgraded", "oversized", "foreign"}
    # And the one that they were made from is taken.
    good = fleet.write(make_expert("fog", seed=1), version=3, file="good.safetensors")
    assert [entry.name for entry in bundle.add(good, trust=fleet.trust).manifest.experts] == ["base", "fog"]


def test_a_larger_file_than_the_robot_takes_is_refused_before_it_is_read(fleet: Fleet, tmp_path: Path) -> None:
    bundle, path = make_bundle(tmp_path), tmp_path / "sparse.safetensors"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(ExpertError, match="at most 1000 are read"):
        bundle.add(path, trust=dataclasses.replace(fleet.trust, max_bytes=1000))


@given(place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_changed_byte_passes(fleet: Fleet, place: float, mask: int) -> None:
    good = fleet.sign(FOG, 3)
    at = int(place * len(good))
    changed = good[:at] + bytes([good[at] ^ mask]) + good[at + 1 :]
    with pytest.raises(ExpertError):
        fleet.trust.check(changed, "changed")
    assert fleet.trust.check(good, "good").signer == "workshop"


@given(data=st.binary(max_size=200), cut=st.integers(0, 1500), policy=st.sampled_from(["signed", "hashed", "open"]))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bytes_from_anywhere_are_refused_in_a_sentence(fleet: Fleet, data: bytes, cut: int, policy: str) -> None:
    trust = Trust(policy, fleet.trusted)
    with pytest.raises(MileError) as caught:
        trust.check(fleet.sign(FOG, 3)[:cut] + data, "bytes")
    assert is_one_sentence(caught.value)
