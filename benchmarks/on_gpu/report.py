"""The measurements as a table, each held against the bound that was asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

BOUNDS = {"speedup_b0": 2.0, "floor_vit": 0.6, "relative_error": 1e-2, "gated_over_base": 1.03, "add_delay_ms": 1.0}
_FIGURES = ("correctness", "layers", "networks", "switching", "adding", "engine")


def verdicts(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One entry per bound: its worst figure, and whether it holds; ``None`` where nothing was measured.

    The bounds are meant for half precision and rank 8, at one frame; four frames at once are in the table below.
    """
    layers = [row for row in found.get("layers", ()) if row["batch"] == 1 and "fused_cold_us" in row]
    b0 = [row["two_matmuls_warm_us"] / row["fused_warm_us"] for row in layers if row["network"] == "segformer-b0"]
    vit = [row["floor_us"] / row["fused_cold_us"] for row in layers if row["network"] == "vit-b"]
    errors = [row["relative_error"] for row in found.get("correctness", ())]
    gated = [row["gated_over_base"] for row in found.get("networks", ()) if row["batch"] == 1]
    delay = found.get("adding", {}).get("delay_max_ms")
    return [
        _verdict("fused kernel over torch's two products and addition, SegFormer-B0", b0, ">=", BOUNDS["speedup_b0"]),
        _verdict("share of the bandwidth floor, ViT-B, out of device memory", vit, ">=", BOUNDS["floor_vit"]),
        _verdict("largest relative error", errors, "<=", BOUNDS["relative_error"]),
        _verdict("gated pass over frozen base, CUDA graphs", gated, "<=", BOUNDS["gated_over_base"]),
        _verdict(
            "longest delay of a frame by adding, ms", [] if delay is None else [delay], "<=", BOUNDS["add_delay_ms"]
        ),
    ]


def exit_code(found: Mapping[str, Any]) -> int:
    """2 where nothing was measured, 1 where a bound does not hold or a part failed, else 0."""
    if not any(found.get(name) for name in _FIGURES):
        return 2
    return int(found["failed"] or any(entry["holds"] is False for entry in found["verdicts"]))


def render(found: Mapping[str, Any]) -> str:
    """The report as text."""
    lines = []
    if machine := found.get("machine"):
        lines += [
            f"{machine['device']}, SM {machine['capability']}, driver {machine['driver']}, torch {machine['torch']}",
            f"copy bandwidth {machine['copy_gb_per_s']:.0f} GB/s, kernel built by {machine['kernel']}",
            "",
        ]
    columns = ("two_matmuls", "folded", "as_written", "fused", "overlapping")
    if found.get("layers"):
        lines.append("microseconds per layer in a CUDA graph: out of memory / out of cache; % of the floor")
        head = ("network", "layer", "B", "N", "in", "out", "floor", *columns, "floor %", "x")
        lines += _table(head, [_layer(row, columns) for row in found["layers"]])
    if found.get("networks"):
        lines.append("milliseconds per batch of B frames in a CUDA graph")
        names = ("base_ms", "gated_native_ms", "gated_fused_ms", "two_passes_ms")
        head = ("network", "size", "B", "layers", *(name[:-3] for name in names), "gated/base", "two/gated")
        lines += _table(head, [_network(row, names) for row in found["networks"]])
    for title in ("switching", "adding", "engine"):
        if found.get(title):
            lines.append(title + ": " + ", ".join(f"{key} {_number(value)}" for key, value in found[title].items()))
    lines += ["", *(_judged(entry) for entry in found["verdicts"])]
    lines += [f"not measured: {reason}" for reason in found["missing"]]
    return "\n".join(lines)


def _layer(row: Mapping[str, Any], columns: Sequence[str]) -> tuple[str, ...]:
    times = tuple(
        f"{row[f'{name}_cold_us']:.1f}/{row[f'{name}_warm_us']:.1f}" if f"{name}_cold_us" in row else "-"
        for name in columns
    )
    fused = "fused_cold_us" in row
    share = f"{100 * row['floor_us'] / row['fused_cold_us']:.0f}" if fused else "-"
    gain = f"{row['two_matmuls_warm_us'] / row['fused_warm_us']:.1f}" if fused else "-"
    shape = tuple(str(row[key]) for key in ("batch", "tokens", "inputs", "outputs"))
    return (row["network"], row["layer"], *shape, f"{row['floor_us']:.1f}", *times, share, gain)


def _network(row: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    times = tuple(f"{row[name]:.3f}" if name in row else "-" for name in names)
    ratios = (f"{row['gated_over_base']:.3f}", f"{row['two_passes_over_gated']:.2f}")
    return (
        row["network"],
        f"{row['height']}x{row['width']}",
        str(row["batch"]),
        str(row["adapted_layers"]),
        *times,
        *ratios,
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[index]) for row in (head, *rows)) for index in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)] + [
        ""
    ]


def _verdict(what: str, figures: Sequence[float], relation: str, bound: float) -> dict[str, Any]:
    if not figures:
        return {"what": what, "figure": None, "relation": relation, "bound": bound, "holds": None}
    # What is no number is worse than any: min and max would pass it over or not by its place.
    worst = next(filter(math.isnan, figures), min(figures) if relation == ">=" else max(figures))
    holds = worst >= bound if relation == ">=" else worst <= bound
    return {"what": what, "figure": worst, "relation": relation, "bound": bound, "holds": holds}


def _judged(entry: Mapping[str, Any]) -> str:
    if entry["holds"] is None:
        return f"[open] {entry['what']}: not measured (bound {entry['relation']} {entry['bound']})"
    verdict = "holds" if entry["holds"] else "FAILS"
    return f"[{verdict}] {entry['what']}: {_number(entry['figure'])} (bound {entry['relation']} {entry['bound']})"


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
