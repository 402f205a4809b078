"""The whole network in a CUDA graph: the frozen base, the gated pass, and two passes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from mile_edge.export.graph import tap_dimension
from mile_edge.export.precision import to_half
from mile_edge.network.base import load_base
from mile_edge.network.low_rank import LowRankFunction, LowRankLinear
from mile_edge.network.one_pass import FixedClassifier, FrozenPass, OnePass
from mile_edge.network.pool import ExpertPool, replace_module
from on_gpu.clock import capture, interleaved


@dataclass(frozen=True)
class Inputs:
    """The graph's inputs at addresses that never change; ``bank`` has ``experts`` rows."""

    frames: torch.Tensor
    bank: torch.Tensor
    prototypes: torch.Tensor
    whitening: torch.Tensor
    gate_bias: torch.Tensor

    def all(self) -> tuple[torch.Tensor, ...]:
        """In the order in which :class:`OnePass` takes them."""
        return self.frames, self.bank, self.prototypes, self.whitening, self.gate_bias


@dataclass(frozen=True)
class Networks:
    """The frozen base alone and the gated pass over the same weights, and inputs for the latter."""

    base: FrozenPass
    gated: OnePass
    inputs: Inputs


def make_networks(
    name: str,
    size: tuple[int, int],
    *,
    layers: str | None = None,
    rank: int = 8,
    experts: int = 17,
    batch: int = 1,
    classes: int = 16,
    half: bool = True,
    device: str = "cuda",
) -> Networks:
    """Networks with random weights, as ``mile_edge.export`` would cut them.

    Args:
        name: such as ``segformer-b0``.
        size: (height, width) of the frames.
        layers: regular expression of the adapted layers; the base's own choice where missing.
        experts: rows of the bank.
        half: fp16 with LayerNorm and gate in fp32.
    """
    torch.manual_seed(0)
    base = load_base(f"random:{name}", classes)
    alone = copy.deepcopy(base)
    pool = ExpertPool(base, rank, layers)
    gated = OnePass(pool, size, classes).eval()
    replace_module(alone, pool.description.classifier, FixedClassifier(classes, gated.layout.hidden))
    frozen = FrozenPass(alone, size).eval()
    dim = tap_dimension(gated)
    if half:
        to_half(gated)
        to_half(frozen)
    generator = torch.Generator().manual_seed(1)
    bank = torch.randn(experts, gated.layout.row_length, generator=generator) * 0.02
    inputs = Inputs(
        frames=torch.randint(0, 256, (batch, *size, 3), dtype=torch.uint8, generator=generator).to(device),
        bank=bank.to(torch.float16 if half else torch.float32).to(device),
        prototypes=torch.randn(experts, 1, dim, generator=generator).to(device),
        whitening=torch.eye(dim).to(device),
        gate_bias=torch.zeros(batch, experts).to(device),
    )
    return Networks(frozen.to(device), gated.to(device), inputs)


@contextmanager
def low_rank_by(network: OnePass, function: LowRankFunction | None) -> Iterator[None]:
    """Run a network with another low-rank path in its linear layers; with its own where ``function`` is missing."""
    adapters = [adapter for adapter in network.pool.adapters.values() if isinstance(adapter, LowRankLinear)]
    own = [adapter.low_rank for adapter in adapters]
    for adapter in adapters:
        adapter.low_rank = function or adapter.low_rank
    try:
        yield
    finally:
        for adapter, before in zip(adapters, own, strict=True):
            adapter.low_rank = before


def capture_gated(
    networks: Networks, function: LowRankFunction | None
) -> tuple[torch.cuda.CUDAGraph, list[torch.Tensor]]:
    """The gated pass as a graph, and the tensors in which it leaves mask, confidence, expert and distance."""
    outputs: list[torch.Tensor] = []

    def run() -> None:
        outputs[:] = networks.gated(*networks.inputs.all())

    with torch.no_grad(), low_rank_by(networks.gated, function):
        return capture(run), outputs


def measure(
    name: str,
    size: tuple[int, int],
    function: LowRankFunction | None,
    rounds: int,
    *,
    layers: str | None = None,
    batch: int = 1,
) -> dict[str, object]:
    """Milliseconds per batch: the base, the gated pass by native layers and by the fused kernel, and two passes.

    Two passes: what a gate needs that reads the last layer of the frozen network, one pass for its features and one
    under the expert.
    """
    networks = make_networks(name, size, layers=layers, batch=batch)
    frames = networks.inputs.frames
    with torch.no_grad():
        base = capture(lambda: networks.base(frames))
    graphs = {"base": base, "gated_native": capture_gated(networks, None)[0]}
    best = None
    if function is not None:
        graphs["gated_fused"] = capture_gated(networks, function)[0]
        best = function

    def twice() -> None:
        networks.base(frames)
        networks.gated(*networks.inputs.all())

    with torch.no_grad(), low_rank_by(networks.gated, best):
        graphs["two_passes"] = capture(twice)
    times = interleaved({kind: graph.replay for kind, graph in graphs.items()}, rounds)
    gated = times.get("gated_fused", times["gated_native"])
    row: dict[str, object] = {
        "network": name,
        "height": size[0],
        "width": size[1],
        "batch": batch,
        "adapted_layers": len(networks.gated.pool.adapters),
    }
    row |= {f"{kind}_ms": ms for kind, ms in times.items()}
    row["gated_over_base"] = gated / times["base"]
    row["two_passes_over_base"] = times["two_passes"] / times["base"]
    row["two_passes_over_gated"] = times["two_passes"] / gated
    return row
