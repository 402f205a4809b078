"""The networks of a bundle as its manifest describes them: the frozen base, and the ONNX files made of it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace
from typing import Any

from mile_edge.bundle.strict_json import Fields

# What products of the frozen base compute in; "int8" leaves the rest in fp32 and "int8-fp16" in fp16.
PRECISIONS = ("fp32", "fp16", "int8", "int8-fp16")
PLAIN_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class BaseInfo:
    """The frozen base: its name, the SHA-256 of its weights, their bytes and count, and its configuration."""

    model: str
    sha256: str
    bytes: int
    parameters: int
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Network:
    """One ONNX file beside the manifest: its hash, the size in pixels it works at, and one of PRECISIONS."""

    file: str
    sha256: str
    height: int
    width: int
    precision: str

    def of(self, data: bytes, precision: str | None = None) -> Network:
        """As it is, with another file's bytes."""
        return replace(self, sha256=hashlib.sha256(data).hexdigest(), precision=precision or self.precision)

    @property
    def half(self) -> bool:
        """Whether the bank, and whatever is not int8, is fp16; else it is fp32."""
        return self.precision.endswith("fp16")

    @property
    def int8(self) -> bool:
        """Whether products of the frozen base are quantised."""
        return self.precision.startswith("int8")


def read_base(fields: Fields) -> BaseInfo:
    """A manifest's base, every field checked.

    Raises:
        BundleError: a field is missing, unknown or out of range.
    """
    base = BaseInfo(
        model=fields.text("model"),
        sha256=fields.sha256("sha256"),
        bytes=fields.integer("bytes", 1, 2**40),
        parameters=fields.integer("parameters", 1, 2**40),
        config=fields.mapping("config"),
    )
    fields.finish()
    return base


def read_network(fields: Fields) -> Network:
    """One of a manifest's networks, every field checked.

    Raises:
        BundleError: a field is missing, unknown or out of range.
    """
    network = Network(
        file=fields.matching("file", PLAIN_FILE, "a plain file name inside the bundle"),
        sha256=fields.sha256("sha256"),
        height=fields.integer("height", 1, 16384),
        width=fields.integer("width", 1, 16384),
        precision=fields.choice("precision", PRECISIONS),
    )
    if network.file == "manifest.json" or network.file == "experts":
        fields.fail(fields.path("file"), network.file, "the name of an ONNX file")
    fields.finish()
    return network
