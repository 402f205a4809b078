"""Publishers, their keys and their packages; and the packages of those who are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bundle_makers import make_expert

from mile_edge.bundle import Expert, Trust, expert_bytes
from mile_edge.bundle.signing import make_key, pack_expert, read_private_key, sign_expert


class Fleet:
    """A publisher that robots trust, one they do not, and one whose key was revoked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trusted = folder / "trusted"
        self.ids = {name: make_key(folder / name, name) for name in ("workshop", "stranger", "former")}
        self.trusted.mkdir()
        for name in ("workshop", "former"):
            (self.trusted / f"{name}.pub").write_bytes((folder / name / f"{name}.pub").read_bytes())
        (self.trusted / "revoked").write_text(f"# lost with a laptop\n{self.ids['former']}  # former\n")
        self.trust = Trust("signed", self.trusted)

    def sign(self, expert: Expert, version: int = 1, by: str = "workshop") -> bytes:
        """A signed package as bytes."""
        key = read_private_key(self.folder / by / f"{by}.key")
        return expert_bytes(sign_expert(pack_expert(expert, version), key))

    def write(self, expert: Expert | None = None, version: int = 1, by: str = "workshop", file: str = "") -> Path:
        """A signed package as a file."""
        expert = expert or make_expert("fog")
        path = self.folder / (file or f"{expert.name}-{version}-{by}.safetensors")
        path.write_bytes(self.sign(expert, version, by))
        return path


def opened(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and body of a file, to be tampered with."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def closed(header: dict[str, Any], body: bytes, **style: Any) -> bytes:
    """A file of a header and a body, by default spelled as packages are."""
    text = json.dumps(header, **({"separators": (",", ":")} | style)).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body
