"""`mile-edge inspect`: everything about a bundle or an expert file on one screen."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from mile_edge.bundle import Bundle, ClassLabel, Expert, read_expert
from mile_edge.bundle.files import named
from mile_edge.bundle.strict_json import shown
from mile_edge.cli.experts import describe_expert, describe_experts, experts_table, one_line, size_text
from mile_edge.cli.output import console, write_json

EPILOG = """examples:
  mile-edge inspect bundles/reference
  mile-edge inspect runs/fog/fog.safetensors
  mile-edge inspect bundles/reference --json"""
STRONGEST = 3


def add_parser(subparsers: Any) -> None:
    """Add `inspect BUNDLE-or-FILE`."""
    parser = subparsers.add_parser(
        "inspect",
        help="show what a bundle or an expert file holds",
        description="Show what a bundle or an expert file holds: base, network, layout, gate, classes, experts.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", metavar="BUNDLE|FILE", help="a bundle folder or an expert file (.safetensors)")
    parser.add_argument("--json", action="store_true", help="write JSON to standard output")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print one bundle or one expert; exit status 0."""
    if _is_folder(args.path):
        bundle = Bundle.open(args.path)
        facts = bundle_facts(bundle)
        if args.json:
            write_json(facts)
        else:
            console().print(_bundle_screen(bundle, facts))
        return 0
    expert = read_expert(args.path)
    facts = expert_facts(expert)
    if args.json:
        write_json({"file": str(args.path), "bytes": Path(args.path).stat().st_size, **facts})
    else:
        console().print(_expert_screen(named(args.path), expert, facts))
    return 0


def _is_folder(path: str) -> bool:
    try:
        return Path(path).is_dir()
    except OSError:
        return False


def bundle_facts(bundle: Bundle) -> dict[str, Any]:
    """A bundle as JSON values."""
    manifest = bundle.manifest
    layout, gate = manifest.low_rank, manifest.gate
    rows = manifest.capacity + 1
    return {
        "bundle": manifest.name,
        "schema": manifest.schema,
        "base": {
            "model": manifest.base.model,
            "sha256": manifest.base.sha256,
            "bytes": manifest.base.bytes,
            "parameters": manifest.base.parameters,
        },
        "network": {
            "file": manifest.network.file,
            "bytes": bundle.network_path.stat().st_size,
            "height": manifest.network.height,
            "width": manifest.network.width,
            "precision": manifest.network.precision,
        },
        "low_rank": {
            "rank": layout.rank,
            "layers": len(layout.layers),
            "numbers_per_adapter": layout.classifier_offset,
            "numbers_per_row": layout.row_length,
            "max_classes": layout.max_classes,
            "hidden": layout.hidden,
            "bank_bytes": rows * layout.row_length * (2 if manifest.network.half else 4),
        },
        "gate": {
            "kind": gate.kind,
            "tap": gate.tap,
            "dim": gate.dim,
            "prototypes": gate.prototypes,
            "shrink": gate.shrink,
            "hysteresis": gate.hysteresis,
            "thresholds": gate.thresholds,
            "novelty": None if gate.novelty is None else asdict(gate.novelty),
            **({"top_k": gate.top_k, "tau": gate.tau} if gate.top_k is not None else {}),
            **({"delta": gate.delta} if gate.delta is not None else {}),
            **({"attributes": list(gate.attributes)} if gate.kind == "attribute" else {}),
        },
        **_fusion(bundle),
        "classes": _classes(manifest.classes),
        "sensors": manifest.sensors,
        "capacity": manifest.capacity,
        "experts": describe_experts(bundle),
    }


def _fusion(bundle: Bundle) -> dict[str, Any]:
    info, head = bundle.manifest.fusion, bundle.fusion_head
    if info is None:
        return {}
    training = None if head is None else head.training
    return {"fusion": {"kind": info.kind, "width": info.width, "graph": info.network.file, "training": training}}


def expert_facts(expert: Expert) -> dict[str, Any]:
    """An expert as JSON values; `update_norms` are the Frobenius norms of B A per layer."""
    return {
        **describe_expert(expert, None),
        "base_sha256": expert.base_sha256,
        "rank": expert.rank,
        "tap": expert.tap,
        "classes": _classes(expert.classes),
        "gate_dim": int(expert.mean.size),
        "prototypes": 1 if expert.prototypes is None else len(expert.prototypes),
        "kept_features": 0 if expert.features is None else len(expert.features),
        "attributes": list(expert.attributes),
        "update_norms": {layer: _update_norm(a, b) for layer, (a, b) in expert.low_rank.items()},
        "training": expert.training,
    }


def _update_norm(a: Any, b: Any) -> float:
    # Through the (rank, rank) Gram matrices: B A itself may be a large matrix.
    gram = (a.astype(np.float64) @ a.T.astype(np.float64)) * (b.T.astype(np.float64) @ b.astype(np.float64))
    return float(np.sqrt(max(gram.sum(), 0.0)))


def _classes(labels: tuple[ClassLabel, ...]) -> list[dict[str, Any]]:
    return [{"id": index, "name": label.name, "color": list(label.color)} for index, label in enumerate(labels)]


def _bundle_screen(bundle: Bundle, facts: dict[str, Any]) -> Group:
    base, network, low_rank, gate = facts["base"], facts["network"], facts["low_rank"], facts["gate"]
    experts = facts["experts"]
    used = sum(each["adapter_bytes"] + each["head_bytes"] + each["gate_bytes"] for each in experts)
    size = f"{base['parameters'] / 1e6:.2f} M parameters, {size_text(base['bytes'])}"
    pixels = f"{network['width']} x {network['height']} pixels"
    adapter = f"rank {low_rank['rank']} on {low_rank['layers']} layers, {low_rank['numbers_per_adapter']:,} numbers"
    row = f"{low_rank['numbers_per_row']:,} in a row, bank {size_text(low_rank['bank_bytes'])}"
    features = f"{gate['kind']}, {gate['tap']} tap, {gate['dim']} features, {gate['prototypes']} prototypes per expert"
    settings = f"shrink {gate['shrink']:g}, hysteresis {gate['hysteresis']:g}"
    if "top_k" in gate:
        what = "experts" if "delta" not in gate else f"ranks per token (silent below {gate['delta']:g})"
        settings += f", mixes {gate['top_k']} {what} with tau {gate['tau']:g}"
    if "attributes" in gate:
        settings += f", attributes {', '.join(map(one_line, gate['attributes'])) or 'of the experts'}"
    thresholds = f"novelty thresholds for {len(gate['thresholds'])} of {len(experts)}"
    table = _facts_table(
        [
            ("bundle", f"{facts['bundle']} at {named(bundle.path)}, schema {facts['schema']}"),
            ("base", f"{base['model']}, {size}, sha256 {base['sha256'][:12]}"),
            ("network", f"{network['file']}, {pixels}, {network['precision']}, {size_text(network['bytes'])}"),
            ("experts", f"{len(experts) - 1} of {facts['capacity']} rows beside the base, {size_text(used)} in all"),
            ("low rank", f"{adapter}, {row}"),
            ("gate", f"{features}, {settings}, {thresholds}"),
            *_fusion_line(facts),
            ("sensors", ", ".join(facts["sensors"]) or "-"),
            ("classes", _swatches(bundle.manifest.classes, low_rank["max_classes"])),
        ]
    )
    return Group(table, experts_table(bundle))


def _fusion_line(facts: dict[str, Any]) -> list[tuple[str, str]]:
    if "fusion" not in facts:
        return []
    found = facts["fusion"]
    state = "no head trained, so the mean of the sensors" if found["training"] is None else "head trained"
    return [("fusion", f"{found['kind']}, {found['width']} numbers per pixel, {found['graph']}, {state}")]


def _expert_screen(title: str, expert: Expert, facts: dict[str, Any]) -> Group:
    channels = expert.classifier_weight.shape[1]
    features = f"{expert.tap} tap, {expert.mean.size} features, {facts['prototypes']} prototypes"
    norms = sorted(facts["update_norms"].items(), key=lambda item: -item[1])[:STRONGEST]
    adapter = f"rank {expert.rank} on {len(expert.low_rank)} layers" if expert.low_rank else "none"
    table = _facts_table(
        [
            ("expert", f"{expert.name} in {title}"),
            ("base", f"sha256 {expert.base_sha256[:12]}"),
            ("adapter", f"{adapter}, {size_text(facts['adapter_bytes'])}"),
            ("strongest", ", ".join(f"{one_line(layer)} ({norm:.3g})" for layer, norm in norms) or "-"),
            ("head", f"{len(expert.classes)} classes x {channels} channels, {size_text(facts['head_bytes'])}"),
            ("gate", f"{features}, {expert.count} frames, {size_text(facts['gate_bytes'])}"),
            ("sensors", ", ".join(expert.sensors) or "any"),
            ("domains", ", ".join(expert.domains) or "-"),
            ("classes", _swatches(expert.classes, None)),
            *((f"score {one_line(key)}", _value(value)) for key, value in expert.scores.items()),
            *((f"training {one_line(key)}", _value(value)) for key, value in expert.training.items()),
        ]
    )
    return Group(table)


def _value(value: Any) -> str:
    return one_line(value) if isinstance(value, str) else shown(value)


def _facts_table(rows: list[tuple[str, str | Text]]) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 1))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in rows:
        table.add_row(Text(label), Text(value) if isinstance(value, str) else value)
    return table


def _swatches(labels: tuple[ClassLabel, ...], most: int | None) -> Text:
    text = Text()
    for index, label in enumerate(labels):
        red, green, blue = label.color
        text.append("■ ", style=f"rgb({red},{green},{blue})")
        text.append(f"{index} {label.name}   ")
    if most is not None:
        text.append(f"({len(labels)} of {most})")
    return text
