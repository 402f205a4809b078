"""Giving a bundle the graph that fuses sensors: the plain graph stays as it is, and the two share their weights."""

from __future__ import annotations

from mile_edge.bundle import Bundle, set_fusion
from mile_edge.bundle.fusion import WIDTH
from mile_edge.errors import RecipeError
from mile_edge.export.bundle import base_of, pool_of
from mile_edge.export.graph import fused_graph
from mile_edge.export.shared_weights import share_weights
from mile_edge.network.base import Base
from mile_edge.network.fused_pass import FusedPass
from mile_edge.network.one_pass import OnePass


def fused_network(bundle: Bundle, kind: str, width: int = WIDTH, base: Base | None = None) -> FusedPass:
    """A bundle's network in torch, with fusion at its end.

    Args:
        bundle: its experts come in as an input, so they are not read.
        kind: one of ``bundle.fusion.FUSIONS``.
        width: numbers per pixel that are fused.
        base: the bundle's base, for bundles whose graph does not hold its exact weights; taken apart by this call.

    Raises:
        BundleError: the base is missing where it is needed.
        RecipeError: the base is not the bundle's.
    """
    manifest = bundle.manifest
    gate, size = manifest.gate, (manifest.network.height, manifest.network.width)
    pool = pool_of(bundle, base_of(bundle) if base is None else base)
    classes = manifest.low_rank.max_classes
    network = OnePass(pool, size, classes, gate.kind, gate.tap, gate.top_k, gate.tau, gate.delta)
    return FusedPass(network, kind, width).eval()


def give_fusion(bundle: Bundle, kind: str, width: int = WIDTH, base: Base | None = None) -> Bundle:
    """Export the graph that fuses and put it into the bundle; without a head it takes the mean of the experts.

    Args:
        bundle, kind, width, base: as :func:`fused_network`.

    Raises:
        RecipeError: the bundle's network is quantised, or the base is not the bundle's.
        BundleError: the bundle cannot be changed, or the base is missing where it is needed.
    """
    precision = bundle.manifest.network.precision
    if bundle.manifest.network.int8:
        raise RecipeError(
            f"{bundle.path} is {precision}, and fusion of quantised networks is not built; use fp32 or fp16"
        )
    graph = fused_graph(fused_network(bundle, kind, width, base), precision, bundle.manifest.gate.prototypes)
    share_weights(graph, bundle.network_path.read_bytes(), bundle.network_path.name)
    return set_fusion(bundle, kind, width, graph.SerializeToString())
