"""From a trained base and a recipe to a bundle that a robot opens."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import torch
from torch import nn

from mile_edge.bundle import BaseInfo, Bundle, ClassLabel, Expert, Gate, Manifest, Network
from mile_edge.data.folder import LabelledFrame
from mile_edge.data.sensors import DEFAULT_PROFILES
from mile_edge.errors import RecipeError
from mile_edge.export.attributes import similarity_of
from mile_edge.export.graph import base_graph, segmenter_graph, tap_dimension
from mile_edge.export.recipe import ExportRecipe
from mile_edge.export.shared_weights import share_weights
from mile_edge.export.weights import record_weights, recover_weights
from mile_edge.network.base import Base, base_from_weights, base_sha256, config_of, describe
from mile_edge.network.one_pass import FixedClassifier, OnePass
from mile_edge.network.pool import ExpertPool, classifier_parameters, replace_module
from mile_edge.runtime.gate_inputs import HYSTERESIS, prototypes_of
from mile_edge.training.expert import ExpertTask, Head, assemble
from mile_edge.training.statistics import centres_of, gate_features, kept_of, summarise

SEGMENTER, BASE = "segmenter.onnx", "base.onnx"


def export_bundle(
    base: Base, own: Expert, recipe: ExportRecipe, out: Path, *, name: str | None = None, alone: bool = True
) -> Bundle:
    """Write a bundle whose only expert is the base itself.

    Args:
        base: the frozen network, with the classifier of ``own``; taken apart by this call.
        own: row 0, the base's classifier and the statistics of what it was trained on.
        recipe: precision, size, layers, rank, tap, gate and capacity.
        out: folder to create.
        name: of the bundle; the recipe's where it is missing.
        alone: write the frozen base as a graph of its own as well, which only the benchmark reads.

    Raises:
        RecipeError: the recipe does not fit the base.
        BundleError: the folder exists or cannot be written.
    """
    classifier = describe(base).classifier
    config = config_of(base)
    weights = {name: weight.clone() for name, weight in base.state_dict().items() if not name.startswith(classifier)}
    alone_graph = _alone(base, own, recipe) if alone else None
    pool = ExpertPool(base, recipe.rank, recipe.layers)
    settings = recipe.top_k, recipe.tau, recipe.delta
    network = OnePass(pool, recipe.size, recipe.max_classes, recipe.gate, recipe.tap, *settings).eval()
    layout, parameters = network.layout, pool.base_parameters
    dim = tap_dimension(network)
    prototypes = prototypes_of(recipe.gate, recipe.prototypes)
    graph = segmenter_graph(network, recipe.precision, prototypes)
    if recipe.precision == "fp32":
        record_weights(graph, weights)
    data = graph.SerializeToString()
    if alone_graph is not None:
        share_weights(alone_graph, data, SEGMENTER)
    height, width = recipe.size
    manifest = Manifest(
        name=name or recipe.name,
        base=BaseInfo(recipe.base, pool.base_sha256, 4 * parameters, parameters, config),
        classes=own.classes,
        network=Network(SEGMENTER, "0" * 64, height, width, recipe.precision),
        base_graph=None if alone_graph is None else Network(BASE, "0" * 64, height, width, recipe.precision),
        low_rank=layout,
        gate=Gate(
            kind=recipe.gate,
            tap=recipe.tap,
            dim=dim,
            prototypes=prototypes,
            shrink=recipe.shrink,
            hysteresis=HYSTERESIS[recipe.gate] if recipe.hysteresis is None else recipe.hysteresis,
            top_k=recipe.top_k,
            attributes=recipe.attributes,
            similarity=similarity_of(recipe.attributes, recipe.attribute_vectors),
            tau=recipe.tau,
            delta=recipe.delta,
        ),
        capacity=recipe.capacity,
        sensors={kind: profile.to_dict() for kind, profile in DEFAULT_PROFILES.items()},
        experts=(),
    )
    return Bundle.create(out, manifest, data, None if alone_graph is None else alone_graph.SerializeToString(), own)


def _alone(base: Base, own: Expert, recipe: ExportRecipe) -> onnx.ModelProto:
    """The frozen base's own graph, its classifier as wide as the bank's: the benchmark compares like with like."""
    alone = copy.deepcopy(base)
    wide = FixedClassifier(recipe.max_classes, own.classifier_weight.shape[1])
    replace_module(alone, describe(base).classifier, wide)
    return base_graph(alone, recipe.size, recipe.precision)


def base_of(bundle: Bundle) -> Base:
    """The frozen base of a bundle as a torch network again, with the classifier of row 0.

    Raises:
        BundleError: the bundle's graph does not hold the exact weights (half precision, or folded batch norms).
    """
    weights = recover_weights(bundle.network_path.read_bytes())
    own = bundle.experts()[0]
    config = dict(bundle.manifest.base.config)
    labels = dict(enumerate(label.name for label in own.classes))
    config |= {"id2label": labels, "label2id": {name: index for index, name in labels.items()}}
    classifier = describe(config["model_type"]).classifier
    weights[f"{classifier}.weight"] = torch.from_numpy(np.array(own.classifier_weight))[:, :, None, None]
    weights[f"{classifier}.bias"] = torch.from_numpy(np.array(own.classifier_bias))
    return base_from_weights(config, weights)


def pool_of(bundle: Bundle, base: Base, rank: int | None = None) -> ExpertPool:
    """A pool over the very layers that a bundle adapts.

    Args:
        rank: of the pool; the bundle's where it is missing.

    Raises:
        RecipeError: the base is not the bundle's.
    """
    info = bundle.manifest.base
    pattern = "|".join(re.escape(layer.name) for layer in bundle.manifest.low_rank.layers)
    pool = ExpertPool(base, rank or bundle.manifest.low_rank.rank, pattern)
    if pool.base_sha256 != info.sha256:
        raise RecipeError(
            f"the base has hash {pool.base_sha256[:12]}, the bundle wants {info.sha256[:12]}; give its own base"
        )
    return pool


def base_expert(
    base: Base,
    recipe: ExportRecipe,
    classes: tuple[ClassLabel, ...],
    frames: Sequence[LabelledFrame],
    name: str,
    sensors: tuple[str, ...],
    domains: tuple[str, ...],
    attributes: tuple[str, ...] = (),
) -> Expert:
    """Row 0: the base's own classifier and the statistics of the frames it was trained on, without an adapter."""
    weight, bias = classifier_parameters(cast("nn.Conv2d", base.get_submodule(describe(base).classifier)))
    features = gate_features(base, frames, recipe.size, recipe.tap)
    gate = Gate(recipe.gate, recipe.tap, features.shape[1], recipe.prototypes)
    statistics = summarise(features, centres_of(gate), kept=kept_of(gate))
    head = Head(weight.detach().flatten(1).numpy().copy(), bias.detach().numpy().copy(), classes)
    task = ExpertTask(name, sensors, domains, recipe.tap, attributes=attributes)
    return assemble(task, statistics, head, {}, base_sha256(base), recipe.rank, {"frames": len(frames)})
