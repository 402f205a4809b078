"""From a bundle and frames to a bundle whose frozen base computes in int8."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mile_edge.bundle import Bundle, derive_bundle
from mile_edge.data.folder import FolderDataset
from mile_edge.errors import BackendError, BundleError
from mile_edge.export.shared_weights import share_weights
from mile_edge.quantization.frames import pick_frames
from mile_edge.quantization.judge import Judge, open_graph
from mile_edge.quantization.layers import Layer, find_layers, fold_weights
from mile_edge.quantization.ranges import collect, threshold
from mile_edge.quantization.recipe import Int8Recipe
from mile_edge.quantization.rewrite import quantized_graph
from mile_edge.quantization.search import Choice, search
from mile_edge.runtime.bank import Bank

NOTE = "int8.json"


@dataclass(frozen=True)
class Progress:
    """Where a calibration says how far it is: ``stage(name, passes)`` when a stage begins, ``step()`` per pass."""

    stage: Callable[[str, int], None] = lambda name, passes: None
    step: Callable[[], None] = lambda: None


def calibrate_int8(
    source: Bundle,
    folders: Sequence[FolderDataset],
    out: Path,
    recipe: Int8Recipe,
    progress: Progress | None = None,
) -> tuple[Bundle, dict[str, Any]]:
    """Write a new bundle in int8; the source is only read.

    Args:
        source: an fp32 or fp16 bundle; what does not become int8 stays as it is there.
        folders: frames of all the bundle's domains, labelled where possible, that no test will use.
        out: the folder to create.
        recipe: ranges, bounds, exclusions.
        progress: told of every pass.

    Returns:
        the new bundle and the account that lies in it as ``int8.json``.

    Raises:
        BundleError: the source is int8 already or cannot be quantised, or ``out`` exists or cannot be written.
        DataError: there are too few frames, or they do not fit.
    """
    progress = progress or Progress()
    if source.manifest.network.int8:
        raise BundleError(f"{source.path} is int8 already; calibrate the bundle that it was made from")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BundleError(f"bundle {out} cannot be created: it exists; remove it or give another folder")
    frames = pick_frames(folders, source.manifest, recipe.limit)
    graph = _load(source.network_path)
    layers = find_layers(graph)
    if not layers:
        raise BundleError(f"{source.path} has no products with frozen weights, so nothing can be int8; export it again")
    progress.stage("ranges", len(frames.ranges))
    thresholds = _thresholds(source, graph, layers, frames.ranges, recipe, progress.step)
    progress.stage("the bundle as it is", len(frames.judged))
    judge = Judge(source, graph, frames.judged, progress.step)
    choice = search(layers, lambda chosen: quantized_graph(graph, chosen, thresholds), judge, recipe, progress.stage)
    chosen_names = {cost.name for cost in choice.layers if cost.int8}
    chosen = [layer for layer in layers if layer.name in chosen_names]
    if not chosen:
        raise BundleError(
            f"no layer of {source.path} can be int8 within these bounds; raise --max-drop or give other frames"
        )
    data = quantized_graph(graph, chosen, thresholds).SerializeToString()
    base = _base_graph(source, chosen, thresholds, data)
    account = _account(source, folders, recipe, choice, judge, len(frames.ranges))
    precision = "int8-fp16" if source.manifest.network.half else "int8"
    note = json.dumps(account, indent=1).encode() + b"\n"
    return derive_bundle(source, out, precision, data, base, {NOTE: note}), account


def _load(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(os.fspath(path))
        fold_weights(model)
    except Exception as error:  # onnx, protobuf and ONNX Runtime each raise their own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BackendError(f"{path} cannot be rewritten ({reason}); export the bundle again") from error
    return model


def _thresholds(
    source: Bundle,
    graph: onnx.ModelProto,
    layers: Sequence[Layer],
    frames: Sequence[np.ndarray],
    recipe: Int8Recipe,
    step: Callable[[], None],
) -> dict[str, float]:
    """How far each activation reaches that a layer multiplies by, with every expert as the gate chooses it."""
    wanted = [layer for layer in layers if not recipe.excludes(layer.name)]
    names = tuple(dict.fromkeys(activation for layer in wanted for _, activation in layer.uses))
    watched = onnx.ModelProto()
    watched.CopyFrom(graph)
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    run = open_graph(watched, Bank(source), names)
    histograms = collect(run, names, frames, lambda _: step())
    return {name: threshold(histogram, recipe.ranges, recipe.percentile) for name, histogram in histograms.items()}


def _base_graph(
    source: Bundle, chosen: Sequence[Layer], thresholds: Mapping[str, float], holder: bytes
) -> bytes | None:
    """The base alone with the same layers in int8, so that a benchmark goes on comparing like with like."""
    if source.base_graph_path is None:
        return None
    graph = _load(source.base_graph_path)
    known = {layer.digest: thresholds[layer.uses[0][1]] for layer in chosen}
    layers = [layer for layer in find_layers(graph) if layer.digest in known]
    reaches = {activation: known[layer.digest] for layer in layers for _, activation in layer.uses}
    done = quantized_graph(graph, layers, reaches)
    share_weights(done, holder, source.manifest.network.file)
    return done.SerializeToString()


def _account(
    source: Bundle,
    folders: Sequence[FolderDataset],
    recipe: Int8Recipe,
    choice: Choice,
    judge: Judge,
    frames: int,
) -> dict[str, Any]:
    rest = "fp16" if source.manifest.network.half else "fp32"
    total = sum(cost.numbers for cost in choice.layers)
    small = sum(cost.numbers for cost in choice.layers if cost.int8)
    values: dict[str, Any] = {
        "source_network": source.manifest.network.sha256,
        "recipe": asdict(recipe),
        "data": [str(folder.path) for folder in folders],
        "frames": {"ranges": frames, "judged": len(judge)},
        "truth": "labels" if judge.labelled else f"the {rest} masks, as no frame is labelled",
        "rest": rest,
        "int8_layers": sum(cost.int8 for cost in choice.layers),
        "candidates": len(choice.layers),
        "int8_weights_percent": round(100 * small / total, 1),
        "source_miou": judge.source_miou(),
        "all_int8": asdict(choice.all_int8),
        "result": asdict(choice.result),
        "layers": [asdict(cost) for cost in choice.layers],
    }
    rounded: dict[str, Any] = _rounded(values)
    return rounded


def _rounded(value: Any) -> Any:
    """Plain values with four digits behind the point, which is more than any of them means."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value
