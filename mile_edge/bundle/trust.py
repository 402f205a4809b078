"""Which expert files a bundle takes, and whose: the policy of a robot, and its folder of trusted publishers.

The folder holds one PEM public key per publisher, NAME.pub, and may hold a text file `revoked`, one key id per line. It
is read at every decision: a key that is added, removed or revoked counts from the next file on.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mile_edge.bundle.expert import MAX_BYTES, Expert, parse_expert
from mile_edge.bundle.files import named, read_regular, reason
from mile_edge.bundle.package import SIGNATURE, read_package
from mile_edge.bundle.signing import PUBLIC, check_signature, key_id, read_public_key
from mile_edge.bundle.strict_json import NAME, SHA256, Fields, parse_value, shown
from mile_edge.bundle.tensor_file import read_metadata
from mile_edge.errors import ExpertError, RecipeError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

POLICIES = ("open", "hashed", "signed")
REVOKED = "revoked"
MAX_PUBLISHERS = 1024
MAX_REVOKED_BYTES = 1 << 20


@dataclass(frozen=True)
class Trust:
    """What an expert file must show before it may enter a bundle; whatever the policy, it must also fit the bundle.

    policy: "open": nothing. "hashed": its content matches a SHA-256, given beside it or held inside it, so damage is
        noticed; it says nothing of who made it. "signed": a package, unchanged, signed by a trusted publisher.
    keys: the folder of trusted publishers; needed by "signed".
    max_bytes: larger files are refused before they are read.

    Raises:
        RecipeError: the policy is unknown, or is "signed" without a folder.
    """

    policy: str = "open"
    keys: Path | None = None
    max_bytes: int = MAX_BYTES

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise RecipeError(f"expert policy {shown(self.policy)} is unknown; use one of {', '.join(POLICIES)}")
        if self.policy == "signed" and self.keys is None:
            raise RecipeError("expert policy 'signed' needs the folder of trusted publishers; name it")

    def read(self, path: str | os.PathLike[str], where: str, sha256: str = "") -> Admitted:
        """An expert file that this policy takes, read once: what was checked is what is returned.

        Args:
            path: the file.
            where: how messages name it.
            sha256: what its bytes must have, 64 hexadecimal digits; empty where nobody said.

        Raises:
            ExpertError: the policy refuses it, or it is no expert file.
        """
        data = read_regular(path, min(self.max_bytes, MAX_BYTES), where, ExpertError)
        return self.check(data, where, sha256)

    def check(self, data: bytes, where: str, sha256: str = "") -> Admitted:
        """As `read`, for the bytes of a file."""
        found = hashlib.sha256(data).hexdigest()
        if sha256 and found != sha256.strip().lower():
            raise ExpertError(f"{where} has SHA-256 {found} and not {shown(sha256[:80])}; send it again")
        signer = ""
        if self.policy == "signed":
            # Before anything but the header is parsed: a stranger's tensors are never looked at.
            signer = self.signer(data, where)
        elif self.policy == "hashed" and not sha256 and "digest" not in _metadata(data, where):
            raise ExpertError(
                f"{where} holds no digest and came without a SHA-256; give its SHA-256, or write it again with this "
                "mile-edge"
            )
        return Admitted(parse_expert(data, where), data, found, signer)

    def signer(self, data: bytes, where: str) -> str:
        """The trusted publisher who signed a package, whatever the policy.

        Raises:
            ExpertError: nobody did, or nobody who is trusted.
        """
        if self.keys is None:
            raise ExpertError(f"{where} cannot be checked without the folder of trusted publishers; name it")
        metadata = _metadata(data, where)
        signature = metadata.get("signature", "")
        if not signature:
            raise ExpertError(f"{where} is not signed; ask for a signed package, or sign it with experts sign")
        key = _key_of(metadata, where)
        publishers = Publishers.read(self.keys)
        if key in publishers.revoked:
            raise ExpertError(f"{where} is signed with key {key[:16]}, which is revoked; ask for one under a new key")
        if key not in publishers.keys:
            raise ExpertError(
                f"{where} is signed with key {key[:16]}, which no publisher in {named(self.keys)} has; put the "
                "publisher's .pub file there if it is to be trusted"
            )
        name, public = publishers.keys[key]
        if not SIGNATURE.fullmatch(signature):
            raise ExpertError(f"{where} has a signature that is none; fetch it again")
        try:
            check_signature(data, signature, public)
        except ValueError as error:
            raise ExpertError(f"{where}, said to be from publisher {name}, {error}; fetch it again") from None
        return name


OPEN = Trust()


@dataclass(frozen=True)
class Admitted:
    """An expert file that passed: the expert, the bytes it was read from, their SHA-256, and who signed them or ""."""

    expert: Expert
    data: bytes
    sha256: str
    signer: str


@dataclass(frozen=True)
class Publishers:
    """A folder of publishers, as read: key id to name and key, and the ids that are revoked."""

    keys: Mapping[str, tuple[str, Ed25519PublicKey]]
    revoked: frozenset[str]

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Publishers:
        """Read it; a file that cannot be understood refuses the whole folder, since it might be a revocation.

        Raises:
            ExpertError: the folder is missing, writable by everybody, or holds a file that is no key.
        """
        place = Path(folder)
        try:
            names = sorted(path.name for path in place.iterdir())
            for path in (place, *(place / name for name in names)):
                if stat.S_IMODE(path.stat().st_mode) & stat.S_IWOTH:
                    raise ExpertError(f"trusted publishers: everybody may write {named(path)}; chmod o-w it first")
        except OSError as failure:
            raise ExpertError(
                f"folder of trusted publishers {named(place)} cannot be read: {reason(failure)}; check the path"
            ) from None
        files = [name for name in names if name.endswith(PUBLIC)]
        if len(files) > MAX_PUBLISHERS:
            raise ExpertError(
                f"folder of trusted publishers {named(place)} has {len(files)} keys and at most {MAX_PUBLISHERS} are "
                "read; check that it is the right one"
            )
        keys: dict[str, tuple[str, Ed25519PublicKey]] = {}
        for file in files:
            name = file[: -len(PUBLIC)]
            if not NAME.fullmatch(name):
                raise ExpertError(f"key file {named(place / file)} is named after no publisher; use letters and digits")
            public = read_public_key(place / file)
            keys.setdefault(key_id(public), (name, public))
        return cls(keys, _revoked(place / REVOKED) if REVOKED in names else frozenset())


def _revoked(path: Path) -> frozenset[str]:
    text = read_regular(path, MAX_REVOKED_BYTES, f"file of revoked keys {named(path)}", ExpertError)
    ids = set()
    for number, line in enumerate(text.splitlines(), 1):
        key = line.split(b"#")[0].strip().decode("ascii", "replace").lower()
        if key and not SHA256.fullmatch(key):
            raise ExpertError(f"file of revoked keys {named(path)} has no key id in line {number}; give 64 hex digits")
        ids.add(key)
    return frozenset(ids - {""})


def _metadata(data: bytes, where: str) -> dict[str, str]:
    try:
        return read_metadata(data)
    except ValueError as error:
        raise ExpertError(f"{where} {error}; fetch or write it again") from None


def _key_of(metadata: Mapping[str, str], where: str) -> str:
    try:
        entry = parse_value(metadata.get("package", ""))
        package = read_package(Fields({"package": entry}, "", ExpertError, "fetch it again"))
    except (ValueError, ExpertError):
        package = None
    if package is None or not package.key:
        raise ExpertError(f"{where} has a signature and does not say whose; fetch it again")
    return package.key
