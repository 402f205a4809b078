"""Signed packages, keys, journals, fusion heads, and what a registry or a run over many bags reads back."""

from __future__ import annotations

import json
import random
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from bundle_makers import SKY, make_bundle, make_expert, write_file
from mutations import as_json, mutated_bytes, mutated_text, mutated_value
from watch import Target

from mile_edge.bundle import FusionHead, Trust, read_expert, write_expert
from mile_edge.bundle.fusion import FUSIONS
from mile_edge.bundle.fusion_head import head_bytes, parse_head
from mile_edge.bundle.journal import JOURNAL, read_journal
from mile_edge.bundle.signing import PUBLIC, make_key, pack_expert, read_private_key, read_public_key, sign_expert
from mile_edge.bundle.trust import REVOKED, Publishers
from mile_edge.fleet.bag_list import list_bags
from mile_edge.fleet.registry import SCHEMA, RegistryEntry, list_entries


def trust_targets() -> list[Target]:
    """Parsers of what one machine tells another."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_key(folder, "workshop")
        public = (folder / f"workshop{PUBLIC}").read_bytes()
        file = write_file(folder, make_expert("fog"))
        private = read_private_key(folder / "workshop.key")
        write_expert(file, sign_expert(pack_expert(read_expert(file), 3), private))
        package = file.read_bytes()
        journal = (make_bundle(folder, make_expert("rain")).path / JOURNAL).read_bytes()
    heads = [_head(kind) for kind in FUSIONS]
    entry = {"schema": SCHEMA, **asdict(RegistryEntry("fog", "ab" * 32, 700, "cd" * 32, ("camera",), ("fog",), 3, 1e9))}
    bags = b"bags:\n  - drive.mcap\n  - more/*.db3\n  - s3://robot/a.mcap\n"

    def signed(data: bytes, folder: Path) -> None:
        keys = folder / "keys"
        keys.mkdir(exist_ok=True, mode=0o755)
        (keys / f"workshop{PUBLIC}").write_bytes(public)
        admitted = Trust("signed", keys).check(data, "the package")
        if data != package:
            raise AssertionError(f"a package that was altered is taken as {admitted}")

    def key(data: bytes, folder: Path) -> None:
        (folder / f"robot{PUBLIC}").write_bytes(data)
        read_public_key(folder / f"robot{PUBLIC}")

    def revoked(data: bytes, folder: Path) -> None:
        keys = folder / "revoking"
        keys.mkdir(exist_ok=True, mode=0o755)
        (keys / f"workshop{PUBLIC}").write_bytes(public)
        (keys / REVOKED).write_bytes(data)
        Publishers.read(keys)

    def journal_of(data: bytes, folder: Path) -> None:
        (folder / JOURNAL).write_bytes(data)
        read_journal(folder, "ab" * 32)

    def registry(data: bytes, folder: Path) -> None:
        place = folder / "index" / "fog"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{'ab' * 32}.json").write_bytes(data)
        list_entries(str(folder))

    def bag_list(data: bytes, folder: Path) -> None:
        (folder / "week.yaml").write_bytes(data)
        list_bags([str(folder / "week.yaml")])

    ids = ("ab" * 32 + "  # lost in March\n" + "cd" * 32 + "\n").encode()
    return [
        Target("signed-package", lambda dice: mutated_bytes(package, dice), signed),
        Target("public-key", lambda dice: mutated_text(public, dice), key),
        Target("revoked-keys", lambda dice: mutated_text(ids, dice), revoked),
        Target("journal", lambda dice: mutated_text(journal, dice), journal_of),
        Target("fusion-head", lambda dice: mutated_bytes(dice.choice(heads), dice, heads), _parse_head),
        Target("registry-entry", lambda dice: _text(entry, dice), registry),
        Target("bag-list", lambda dice: mutated_text(bags, dice), bag_list),
    ]


def _text(value: dict[str, Any], dice: random.Random) -> bytes:
    if dice.random() < 0.7:
        return as_json(mutated_value(value, dice), dice)
    return mutated_text(json.dumps(value).encode(), dice)


def _head(kind: str) -> bytes:
    fields: dict[str, Any] = {"base_sha256": "ab" * 32, "kind": kind, "width": 8, "hidden": 5, "classes": (SKY,)}
    shapes = FusionHead(**fields, weights={}).layout.shapes
    return head_bytes(FusionHead(**fields, weights={name: np.ones(s, np.float32) for name, s in shapes.items()}))


def _parse_head(data: bytes, _: Path) -> None:
    head_bytes(parse_head(data, "the fusion head"))
