"""Expert packages: one file, whose signature covers all of it, under a policy that a robot keeps."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bundle_makers import is_one_sentence, make_bundle, make_expert, write_file
from package_makers import Fleet, closed, opened

from mile_edge.bundle import Bundle, Trust, expert_bytes, read_expert, write_expert
from mile_edge.bundle.package import MAX_VERSION
from mile_edge.bundle.signing import PassphraseError, make_key, pack_expert, read_private_key, sign_expert
from mile_edge.bundle.trust import Publishers
from mile_edge.errors import ExpertError, RecipeError


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def names(bundle: Bundle) -> list[str]:
    return [entry.name for entry in bundle.manifest.experts]


def test_a_package_is_an_expert_file_still(fleet: Fleet, tmp_path: Path) -> None:
    path = fleet.write(make_expert("fog"), version=3)
    expert = read_expert(path)
    assert expert.package is not None
    assert (expert.package.version, expert.package.key) == (3, fleet.ids["workshop"])
    assert replace(expert, package=None) == make_expert("fog")
    assert expert_bytes(expert) == path.read_bytes()
    safetensors = pytest.importorskip("safetensors.numpy")
    a = safetensors.load_file(path)["block.0.query.lora_A"]
    assert np.array_equal(a.astype(np.float32), make_expert("fog").low_rank["block.0.query"][0])
    assert names(make_bundle(tmp_path).add(path)) == ["base", "fog"]


def test_a_signed_package_is_taken_and_the_journal_says_whose(fleet: Fleet, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path).add(fleet.write(version=3), trust=fleet.trust)
    assert names(bundle) == ["base", "fog"]
    assert '"signer":"workshop","policy":"signed"' in (bundle.path / "journal.jsonl").read_text()
    assert bundle.manifest.versions["fog"].version == 3


def test_the_signature_is_plain_ed25519_over_the_file_without_it(fleet: Fleet, tmp_path: Path) -> None:
    header, body = opened(fleet.sign(make_expert("fog")))
    signature = bytes.fromhex(header["__metadata__"].pop("signature"))
    (tmp_path / "message").write_bytes(b"mile-edge expert package 1\n" + closed(header, body))
    (tmp_path / "signature").write_bytes(signature)
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", fleet.trusted / "workshop.pub", "-rawin"]
    try:
        done = subprocess.run(
            [*command, "-in", tmp_path / "message", "-sigfile", tmp_path / "signature"],
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("no openssl on this machine")
    assert done.returncode == 0, done.stderr


def test_a_version_never_falls_unless_asked(fleet: Fleet, tmp_path: Path) -> None:
    old, new = fleet.write(version=1), fleet.write(make_expert("fog", seed=1), version=2)
    bundle = make_bundle(tmp_path).add(new, trust=fleet.trust)
    for policy in (fleet.trust, Trust("hashed"), Trust("open")):
        with pytest.raises(ExpertError, match="version 2 was here already; give a newer one") as caught:
            bundle.add(old, trust=policy, replaces=True)
        assert is_one_sentence(caught.value)
    # Remembered also after removal, by whoever opens the bundle then.
    bundle = Bundle.open(bundle.remove("fog").path)
    with pytest.raises(ExpertError, match="version 2 was here"):
        bundle.add(old, trust=fleet.trust)
    with pytest.raises(ExpertError, match="without a version"):
        bundle.add(write_file(tmp_path, make_expert("fog")))
    other = fleet.write(make_expert("fog", seed=2), version=2, file="other.safetensors")
    with pytest.raises(ExpertError, match="from another file"):
        bundle.add(other, trust=fleet.trust)
    assert names(bundle.add(new, trust=fleet.trust)) == ["base", "fog"]
    bundle = bundle.remove("fog").add(old, trust=fleet.trust, downgrade=True)
    assert bundle.manifest.versions["fog"].version == 2


def test_a_newer_version_takes_the_older_one_s_row_in_one_change(fleet: Fleet, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path).add(fleet.write(version=1)).add(write_file(tmp_path, make_expert("rain")))
    newer = fleet.write(make_expert("fog", seed=1), version=2)
    with pytest.raises(ExpertError, match="ask to replace it"):
        bundle.add(newer)
    bundle = bundle.add(newer, trust=fleet.trust, replaces=True)
    assert names(bundle) == ["base", "fog", "rain"]
    assert replace(bundle.experts()[1], package=None) == make_expert("fog", seed=1)
    with pytest.raises(ExpertError, match="like the bundle's base"):
        bundle.add(fleet.write(make_expert("base")), replaces=True)


def test_a_key_that_is_revoked_counts_from_the_next_file_on(fleet: Fleet, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path).add(fleet.write(version=1), trust=fleet.trust)
    (fleet.trusted / "revoked").write_text(fleet.ids["workshop"])
    with pytest.raises(ExpertError, match="which is revoked; ask"):
        bundle.add(fleet.write(version=2), trust=fleet.trust, replaces=True)
    # Rotation: the new key beside the old one, and releases under the new.
    (fleet.trusted / "stranger.pub").write_bytes((tmp_path / "stranger" / "stranger.pub").read_bytes())
    bundle = bundle.add(fleet.write(version=2, by="stranger"), trust=fleet.trust, replaces=True)
    assert bundle.manifest.versions["fog"].version == 2


def test_a_renamed_package_is_no_longer_the_publisher_s(fleet: Fleet, tmp_path: Path) -> None:
    bundle, path = make_bundle(tmp_path), fleet.write()
    with pytest.raises(ExpertError, match="signed as 'fog' and not as 'mist'"):
        bundle.add(path, "mist", trust=fleet.trust)
    assert bundle.add(path, "mist").experts()[1].package is None


def test_under_hashed_damage_is_noticed_and_an_unhashed_file_refused(tmp_path: Path) -> None:
    hashed, bundle = Trust("hashed"), make_bundle(tmp_path)
    data = expert_bytes(make_expert("fog"))
    header, body = opened(data)
    del header["__metadata__"]["digest"]
    path = tmp_path / "bare.safetensors"
    path.write_bytes(closed(header, body))
    with pytest.raises(ExpertError, match="holds no digest"):
        bundle.add(path, trust=hashed)
    with pytest.raises(ExpertError, match="has SHA-256"):
        bundle.add(path, trust=hashed, sha256="0" * 64)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ExpertError, match="does not match its own digest"):
        bundle.add(path, trust=hashed)
    path.write_bytes(data)
    assert names(bundle.add(path, trust=hashed)) == ["base", "fog"]


def test_a_folder_of_keys_that_cannot_be_read_whole_trusts_nobody(fleet: Fleet, tmp_path: Path) -> None:
    bundle, path = make_bundle(tmp_path), fleet.write()

    def refused(match: str) -> None:
        with pytest.raises(ExpertError, match=match) as caught:
            bundle.add(path, trust=fleet.trust)
        assert is_one_sentence(caught.value)

    (fleet.trusted / "torn.pub").write_text("-----BEGIN PUBLIC KEY-----\n")
    refused("no Ed25519 public key")
    (fleet.trusted / "torn.pub").unlink()
    (fleet.trusted / "linked.pub").symlink_to(tmp_path / "stranger" / "stranger.pub")
    refused("symbolic link")
    (fleet.trusted / "linked.pub").unlink()
    (fleet.trusted / "revoked").write_text("everything by workshop\n")
    refused("no key id in line 1")
    (fleet.trusted / "revoked").unlink()
    fleet.trusted.chmod(0o777)
    refused("everybody may write")
    fleet.trusted.chmod(0o755)
    assert names(bundle.add(path, trust=fleet.trust)) == ["base", "fog"]
    with pytest.raises(RecipeError, match="needs the folder"):
        Trust("signed")
    with pytest.raises(RecipeError, match="is unknown"):
        Trust("mostly")
    with pytest.raises(ExpertError, match="cannot be read"):
        Publishers.read(tmp_path / "absent")


def test_keys_are_the_owner_s_alone_and_never_overwritten(tmp_path: Path) -> None:
    key = make_key(tmp_path, "robot-7", b"open sesame")
    assert (tmp_path / "robot-7.key").stat().st_mode & 0o777 == 0o600
    assert len(key) == 64
    with pytest.raises(PassphraseError):
        read_private_key(tmp_path / "robot-7.key")
    with pytest.raises(ExpertError, match="passphrase is wrong"):
        read_private_key(tmp_path / "robot-7.key", b"open barley")
    assert read_private_key(tmp_path / "robot-7.key", b"open sesame")
    with pytest.raises(ExpertError, match="exists; give another name"):
        make_key(tmp_path, "robot-7")
    with pytest.raises(ExpertError, match="no publisher's name"):
        make_key(tmp_path, "../robot")


def test_what_cannot_be_packed_or_signed_is_told_in_a_sentence(fleet: Fleet, tmp_path: Path) -> None:
    key = read_private_key(tmp_path / "workshop" / "workshop.key")
    with pytest.raises(ExpertError, match="pack it first"):
        sign_expert(make_expert(), key)
    for version in (0, -1, MAX_VERSION + 1, True):
        with pytest.raises(ExpertError, match="whole number from 1"):
            pack_expert(make_expert(), version)
    write_expert(tmp_path / "packed.safetensors", pack_expert(make_expert(), 1))
    with pytest.raises(ExpertError, match="not signed"):
        make_bundle(tmp_path).add(tmp_path / "packed.safetensors", trust=fleet.trust)
