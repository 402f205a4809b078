"""Ed25519 (RFC 8032) over expert packages: making keys, signing, and checking a signature against one key.

What is signed is the file itself: every byte of the package without its metadata entry `signature`, behind a fixed
prefix, so that no signature made for something else can be moved here. Name, version, base, classes, sensors, scores,
the key's id and every tensor are in those bytes. A package whose header is spelled otherwise than this code spells it
is refused, so one signature stands for one file.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mile_edge.bundle.expert import Expert, expert_bytes
from mile_edge.bundle.files import named, read_regular, reason, sync_folder, write_synced
from mile_edge.bundle.package import MAX_VERSION, Package
from mile_edge.bundle.strict_json import NAME, shown
from mile_edge.bundle.tensor_file import without_metadata
from mile_edge.errors import ExpertError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PREFIX = b"mile-edge expert package 1\n"
MAX_KEY_BYTES = 4096
PUBLIC = ".pub"
PRIVATE = ".key"


def pack_expert(expert: Expert, version: int) -> Expert:
    """An expert with a version, still unsigned; an older package's version, date and signature are replaced.

    Raises:
        ExpertError: the version is no number from 1 to 2**31 - 1.
    """
    if type(version) is not int or not 1 <= version <= MAX_VERSION:
        raise ExpertError(f"version {shown(version)} is no release number; give a whole number from 1 to {MAX_VERSION}")
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return replace(expert, package=Package(version, created))


def sign_expert(expert: Expert, private: Ed25519PrivateKey) -> Expert:
    """A packed expert with the publisher's signature; an older signature is replaced.

    Raises:
        ExpertError: it has no version yet.
    """
    if expert.package is None:
        raise ExpertError(f"expert {shown(expert.name)} has no version to be signed; pack it first")
    named_key = replace(expert, package=replace(expert.package, key=key_id(private.public_key()), signature=""))
    signature = private.sign(PREFIX + expert_bytes(named_key))
    assert named_key.package is not None
    return replace(named_key, package=replace(named_key.package, signature=signature.hex()))


def check_signature(data: bytes, signature: str, public: Ed25519PublicKey) -> None:
    """Check the bytes of a package against its signature.

    Args:
        data: the whole file.
        signature: its metadata entry of that name, 128 hexadecimal digits.
        public: the key that the package names.

    Raises:
        ValueError: they do not belong together; the message is a phrase without a subject.
    """
    from cryptography.exceptions import InvalidSignature

    if without_metadata(data, None) != data:
        raise ValueError("is not spelled as packages are")
    try:
        public.verify(bytes.fromhex(signature), PREFIX + without_metadata(data, "signature"))
    except InvalidSignature:
        raise ValueError("does not match its signature") from None


def key_id(public: Ed25519PublicKey) -> str:
    """A public key's id: SHA-256 of its 32 raw bytes, 64 hexadecimal digits."""
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()


def make_key(folder: str | os.PathLike[str], name: str, passphrase: bytes | None = None) -> str:
    """Write a new key pair: NAME.key (PKCS 8, readable by its owner alone) and NAME.pub; existing files stay.

    Returns:
        The key's id.

    Raises:
        ExpertError: the name is none, a file of that name exists, or the folder cannot be written.
    """
    serialization, ed25519 = _library()
    if not NAME.fullmatch(name):
        raise ExpertError(f"{shown(name)} is no publisher's name; use lower-case letters, digits, - and _")
    place = Path(folder)
    private = ed25519.Ed25519PrivateKey.generate()
    secrecy = serialization.NoEncryption() if passphrase is None else serialization.BestAvailableEncryption(passphrase)
    pem = serialization.Encoding.PEM
    secret = private.private_bytes(pem, serialization.PrivateFormat.PKCS8, secrecy)
    public = private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    try:
        place.mkdir(parents=True, exist_ok=True)
        for path in (place / f"{name}{PRIVATE}", place / f"{name}{PUBLIC}"):
            if os.path.lexists(path):
                raise ExpertError(f"key file {named(path)} exists; give another name or move it away")
        write_synced(place / f"{name}{PRIVATE}", secret, mode=0o600)
        write_synced(place / f"{name}{PUBLIC}", public)
        sync_folder(place)
    except OSError as failure:
        raise ExpertError(f"key folder {named(place)} cannot be written: {reason(failure)}; check it") from None
    return key_id(private.public_key())


def read_private_key(path: str | os.PathLike[str], passphrase: bytes | None = None) -> Ed25519PrivateKey:
    """A publisher's secret key from a PEM file, as `make_key` or `openssl genpkey -algorithm ed25519` writes it.

    Raises:
        PassphraseError: it is encrypted and no passphrase was given.
        ExpertError: the file is no Ed25519 key, or the passphrase is wrong.
    """
    serialization, ed25519 = _library()
    where = f"key file {named(path)}"
    data = read_regular(path, MAX_KEY_BYTES, where, ExpertError)
    try:
        key = serialization.load_pem_private_key(data, passphrase)
    except TypeError:
        if passphrase is None:
            raise PassphraseError(f"{where} is encrypted; give its passphrase") from None
        raise ExpertError(f"{where} is not encrypted; give no passphrase") from None
    except _unreadable():
        raise ExpertError(
            f"{where} is no secret key, or its passphrase is wrong; give a file of experts keygen"
        ) from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise ExpertError(f"{where} is no Ed25519 key; give one of experts keygen")
    return key


def read_public_key(path: str | os.PathLike[str]) -> Ed25519PublicKey:
    """A publisher's public key from a PEM file.

    Raises:
        ExpertError: the file is no Ed25519 public key.
    """
    serialization, ed25519 = _library()
    where = f"key file {named(path)}"
    data = read_regular(path, MAX_KEY_BYTES, where, ExpertError)
    try:
        key = serialization.load_pem_public_key(data)
    except _unreadable():
        key = None
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise ExpertError(f"{where} is no Ed25519 public key; replace it with the .pub file of experts keygen")
    return key


class PassphraseError(ExpertError):
    """A secret key is encrypted."""


def _library() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise ExpertError("signatures need the package cryptography; pip install 'cryptography>=41'") from None
    return serialization, ed25519


def _unreadable() -> tuple[type[Exception], ...]:
    """What the library raises for a file that is no key, or one of a kind that it does not know."""
    from cryptography.exceptions import UnsupportedAlgorithm

    return ValueError, UnsupportedAlgorithm
