"""What makes an expert file a package: a version, and whose signature over all of it.

A package is the expert file itself with two more entries of metadata, so whatever opens an expert opens a package.
`package` is a JSON object that says version, date and key; `signature` covers every byte of the file but itself.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from mile_edge.bundle.strict_json import Fields
from mile_edge.errors import ExpertError

SCHEMA = 1
MAX_VERSION = 2**31 - 1
SIGNATURE = re.compile(r"[0-9a-f]{128}")
CREATED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
REMEDY = "pack it again with this mile-edge"


@dataclass(frozen=True)
class Package:
    """What a publisher adds to an expert.

    version: counts up with each release of an expert's name; a bundle takes no older one than it has seen.
    created: UTC, such as "2026-11-22T23:30:00Z"; for people only, since a robot's clock may be anywhere.
    key: SHA-256 of the publisher's raw public key in hexadecimal digits, empty while it is not signed.
    signature: Ed25519, 64 bytes in hexadecimal digits, empty while it is not signed.
    """

    version: int
    created: str
    key: str = ""
    signature: str = ""

    def statement(self) -> str:
        """The metadata entry `package`, the same text for equal packages."""
        values = {"schema": SCHEMA, "version": self.version, "created": self.created}
        return json.dumps({**values, "key": self.key} if self.key else values, sort_keys=True)


def read_package(meta: Fields) -> Package | None:
    """The package in an expert's metadata, whose entry `package` is already parsed; None for a plain expert.

    Raises:
        ExpertError: it is incomplete, or of a later schema.
    """
    if meta.peek("package") is None:
        if meta.peek("signature") is not None:
            raise ExpertError(f"it has a signature and is no package; {REMEDY}")
        return None
    fields = Fields(meta.take("package"), "package", ExpertError, REMEDY)
    schema = fields.peek("schema")
    if type(schema) is int and schema > SCHEMA:
        raise ExpertError(f"its package schema is {schema} and this mile-edge reads up to {SCHEMA}; update mile-edge")
    fields.integer("schema", 1, SCHEMA)
    package = Package(
        version=fields.integer("version", 1, MAX_VERSION),
        created=fields.matching("created", CREATED, "a date such as 2026-11-22T23:30:00Z"),
        key=fields.sha256("key") if fields.peek("key") is not None else "",
        signature=""
        if meta.peek("signature") is None
        else meta.matching("signature", SIGNATURE, "128 hexadecimal digits"),
    )
    fields.finish()
    if package.signature and not package.key:
        raise ExpertError(f"it has a signature and does not say whose; {REMEDY}")
    return package
