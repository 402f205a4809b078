"""Expert files, bundle manifests and engine manifests."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from bundle_makers import DIM, make_bundle, make_expert, make_manifest, raw_file, taken_apart
from mutations import as_json, mutated_bytes, mutated_text, mutated_value
from watch import REFERENCE, Target

from mile_edge.bundle import Bundle, Manifest, expert_bytes, verify_bundle
from mile_edge.bundle.checks import check_expert
from mile_edge.bundle.expert import parse_expert
from mile_edge.runtime.tensorrt.manifest import EngineManifest, EngineTensor, manifest_path


def bundle_targets() -> list[Target]:
    """Parsers of what a robot is sent to run."""
    reference = Manifest.from_json((REFERENCE / "manifest.json").read_bytes())
    tiny = make_expert(prototypes=np.ones((2, DIM), np.float32))
    files = [expert_bytes(tiny), *(path.read_bytes() for path in sorted((REFERENCE / "experts").glob("[cf]*")))]
    manifests = [(make_manifest(), tiny), (reference, None)]
    headers = [taken_apart(tiny), _taken_apart(files[1])]

    def parse(data: bytes, _: Path) -> None:
        expert = parse_expert(data, "the expert file")
        if parse_expert(expert_bytes(expert), "the copy") != expert:
            raise AssertionError("an accepted expert is written otherwise than it was read")
        for manifest, _made in manifests:
            if manifest.base.sha256 == expert.base_sha256:
                check_expert(expert, manifest)

    def lying_header(dice: random.Random) -> bytes:
        header, body = dice.choice(headers)
        if dice.random() < 0.5:
            key = dice.choice(list(header["__metadata__"]))
            text = header["__metadata__"][key]
            lie = (
                as_json(mutated_value(json.loads(text), dice), dice)
                if text[0] in "[{"
                else mutated_text(text.encode(), dice)
            )
            metadata = {**header["__metadata__"], key: lie.decode("utf-8", "replace")}
            return raw_file({**header, "__metadata__": metadata}, body)
        return raw_file(as_json(mutated_value(header, dice), dice), body)

    texts = [(REFERENCE / "manifest.json").read_bytes(), make_manifest().to_json().encode()]
    values = [json.loads(text) for text in texts]

    def manifest(dice: random.Random) -> bytes:
        if dice.random() < 0.6:
            return as_json(mutated_value(dice.choice(values), dice), dice)
        return mutated_text(dice.choice(texts), dice)

    def bundle(data: bytes, folder: Path) -> None:
        place = folder / "bundle"
        if not place.exists():
            make_bundle(folder, make_expert("fog"))
        (place / "manifest.json").write_bytes(data)
        problems = [problem for problem in verify_bundle(place) if "not named by the manifest" not in problem]
        Bundle.open(place)
        if problems:
            raise AssertionError(f"a bundle opens though verify says {problems[0]}")

    tiny_manifest: list[bytes] = []

    def tiny_bundle(dice: random.Random) -> bytes:
        if not tiny_manifest:
            with tempfile.TemporaryDirectory() as folder:
                path = make_bundle(Path(folder), make_expert("fog")).path
                tiny_manifest.append((path / "manifest.json").read_bytes())
        if dice.random() < 0.6:
            return as_json(mutated_value(json.loads(tiny_manifest[0]), dice), dice)
        return mutated_text(tiny_manifest[0], dice)

    engine = _engine()
    return [
        Target("expert-bytes", lambda dice: mutated_bytes(dice.choice(files), dice, files), parse),
        Target("expert-header", lying_header, parse),
        Target("manifest", manifest, lambda data, _: Manifest.from_json(data).to_json()),
        Target("bundle", tiny_bundle, bundle),
        Target("engine-manifest", lambda dice: as_json(mutated_value(engine, dice), dice), _read_engine),
    ]


def _taken_apart(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"].pop("digest", None)
    return header, data[8 + length :]


def _engine() -> dict[str, Any]:
    tensor = EngineTensor("frames", "UINT8", (-1, 48, 64, 3))
    manifest = EngineManifest(
        *(
            "tensorrt",
            "10.3.0",
            "0" * 64,
            "fp32",
            48,
            64,
            4,
            17,
            1000,
            2,
            4,
            (tensor,),
            (tensor,),
            ("8.7",),
            None,
            None,
        ),
        *("0" * 64, 1000, 3.5),
    )
    return dict(json.loads(manifest.to_json()))


def _read_engine(data: bytes, folder: Path) -> None:
    engine = folder / "tensorrt.engine"
    manifest_path(engine).write_bytes(data)
    EngineManifest.read(engine, folder)
