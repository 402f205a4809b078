"""One adapted layer: the fused kernel against torch's two matrix products and an addition, and the bandwidth floor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from on_gpu.clock import capture, interleaved
from on_gpu.kernel import FusedLowRank

EXPERTS = 16
# As many launches to a graph, at least, as make its own start negligible.
_LAUNCHES = 48


@dataclass(frozen=True)
class Layer:
    """A linear layer of a network at a frame size: tokens per frame, inputs, outputs."""

    network: str
    name: str
    tokens: int
    inputs: int
    outputs: int


# SegFormer at 480x640: stages 2 to 4 hold 60x80, 30x40 and 15x20 tokens; keys and values of stages 2 and 3 see 15x20.
LAYERS = (
    *(Layer("segformer-b0", f"stage {s} q", n, c, c) for s, n, c in ((2, 4800, 64), (3, 1200, 160), (4, 300, 256))),
    *(Layer("segformer-b0", f"stage {s} v", 300, c, c) for s, c in ((2, 64), (3, 160))),
    Layer("segformer-b0", "stage 2 fc1", 4800, 64, 256),
    Layer("segformer-b0", "stage 3 fc1", 1200, 160, 640),
    *(Layer("segformer-b5", f"stage {s} q", n, c, c) for s, n, c in ((2, 4800, 128), (3, 1200, 320), (4, 300, 512))),
    Layer("segformer-b5", "stage 3 fc1", 1200, 320, 1280),
    *(Layer("vit-b", "qkv", n, 768, 768) for n in (1200, 1600)),
    *(Layer("vit-b", "fc1", n, 768, 3072) for n in (1200, 1600)),
    Layer("vit-b", "fc2", 1600, 3072, 768),
)


@dataclass(frozen=True)
class Case:
    """One set of a layer's tensors."""

    product: torch.Tensor
    bias: torch.Tensor
    x: torch.Tensor
    bank: torch.Tensor
    expert: torch.Tensor
    offset: int
    rank: int

    def reference(self, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """What the layer means, in ``dtype``."""
        a, b = self.adapters(dtype)
        narrow = self.x.to(dtype) @ a.transpose(1, 2)
        return self.product.to(dtype) + (narrow @ b.transpose(1, 2) + self.bias.to(dtype))

    def adapters(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """A (B, rank, in) and B (B, out, rank) of each sample."""
        inputs, outputs = self.x.shape[-1], self.product.shape[-1]
        rows = self.bank.to(dtype)[self.expert]
        middle = self.offset + self.rank * inputs
        return (
            rows[:, self.offset : middle].reshape(-1, self.rank, inputs).contiguous(),
            rows[:, middle : middle + self.rank * outputs].reshape(-1, outputs, self.rank).contiguous(),
        )


def make_case(
    layer: Layer, batch: int, rank: int, dtype: torch.dtype, seed: int = 0, offset: int = 0, tail: int = 0
) -> Case:
    """Random tensors; every sample its own expert as far as the bank goes."""
    generator = torch.Generator(device="cuda").manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return (torch.randn(*shape, device="cuda", generator=generator) * scale).to(dtype)

    row = offset + rank * (layer.inputs + layer.outputs) + tail
    return Case(
        normal(batch, layer.tokens, layer.outputs),
        normal(layer.outputs),
        normal(batch, layer.tokens, layer.inputs),
        normal(EXPERTS, row, scale=(layer.inputs * rank) ** -0.25),
        torch.randperm(EXPERTS, device="cuda", generator=generator)[:batch],
        offset,
        rank,
    )


def relative_error(fused: FusedLowRank, case: Case) -> float:
    """Largest difference to fp64, over the largest value."""
    wanted = case.reference()
    found = fused(case.product, case.bias, case.x, case.bank, case.expert, case.offset, case.rank)
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


def check(fused: FusedLowRank) -> Iterator[dict[str, object]]:
    """Relative errors, one by one, over shapes, ranks, odd sizes, odd rows, and every sample under its own expert."""
    odd = Layer("odd", "sizes", 37, 51, 70)
    cases = [(layer, rank, 0, 0) for layer in LAYERS[:3] + LAYERS[-4:-2] for rank in (8, 16, 32, 64)]
    cases += [(LAYERS[0], 5, 0, 0), (LAYERS[1], 8, 3, 4883), (odd, 8, 0, 0), (odd, 13, 5, 1)]
    for dtype in (torch.float16, torch.float32):
        for layer, rank, offset, tail in cases:
            case = make_case(layer, 3, rank, dtype, offset=offset, tail=tail)
            yield {
                "layer": f"{layer.network} {layer.name}",
                "dtype": str(dtype).removeprefix("torch."),
                "rank": rank,
                "row_offset": offset,
                "relative_error": relative_error(fused, case),
            }


def measure(
    fused: FusedLowRank | None, layer: Layer, batch: int, rank: int, dtype: torch.dtype, bandwidth: float, rounds: int
) -> dict[str, object]:
    """Microseconds per layer, in a CUDA graph and without.

    ``cold`` goes through so many sets of tensors that none is left in the L2 cache when its turn comes again: that time
    is held against the bandwidth. ``warm`` runs one set again and again, as right behind the frozen product.

    two_matmuls: x A^T, that times B^T, added to the product; A and B already gathered and without bias.
    as_written: the same with gather and bias, as ``mile_edge.network.low_rank`` runs it.
    folded: the best torch can do, the addition folded into the second product, without bias.
    fused: the kernel as the plugin launches it; overlapping: by programmatic dependent launch.
    """
    itemsize = torch.empty((), dtype=dtype).element_size()
    map_bytes = batch * layer.tokens * (layer.inputs + 2 * layer.outputs) * itemsize
    weight_bytes = (min(batch, EXPERTS) * rank * (layer.inputs + layer.outputs) + layer.outputs) * itemsize
    cache = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    free, _ = torch.cuda.mem_get_info()
    sets = min(max(2, -(-4 * cache // map_bytes)), max(1, free // 3 // map_bytes))
    cases = [make_case(layer, batch, rank, dtype, seed) for seed in range(sets)]
    row: dict[str, object] = {
        "network": layer.network,
        "layer": layer.name,
        "batch": batch,
        "tokens": layer.tokens,
        "inputs": layer.inputs,
        "outputs": layer.outputs,
        "rank": rank,
        "dtype": str(dtype).removeprefix("torch."),
        "bytes": map_bytes + weight_bytes,
        "floor_us": (map_bytes + weight_bytes) / bandwidth * 1e6,
    }
    variants = _variants(fused, dtype)
    for kind, chosen in (("cold", cases), ("warm", cases[:1])):
        repeats = max(1, -(-_LAUNCHES // len(chosen)))
        graphs = {name: _graph_of(make, chosen, repeats) for name, make in variants.items()}
        times = interleaved({name: graph.replay for name, graph in graphs.items()}, rounds)
        for name, ms in times.items():
            row[f"{name}_{kind}_us"] = ms * 1e3 / (repeats * len(chosen))
    eager = interleaved({name: _eager(make, cases[0], 20) for name, make in variants.items()}, max(5, rounds // 3))
    for name, ms in eager.items():
        row[f"{name}_eager_us"] = ms * 1e3 / 20
    return row


Work = Callable[[], object]


def _variants(fused: FusedLowRank | None, dtype: torch.dtype) -> dict[str, Callable[[Case], Work]]:
    from mile_edge.network.low_rank import low_rank

    def two_matmuls(case: Case) -> Work:
        a, b = (part.transpose(1, 2) for part in case.adapters(dtype))
        out = torch.empty_like(case.product)
        return lambda: torch.add(case.product, (case.x @ a) @ b, out=out)

    def folded(case: Case) -> Work:
        a, b = (part.transpose(1, 2) for part in case.adapters(dtype))
        out = torch.empty_like(case.product)
        return lambda: torch.baddbmm(case.product, case.x @ a, b, out=out)

    def as_written(case: Case) -> Work:
        return lambda: low_rank(case.product, case.bias, case.x, case.bank, case.expert, case.offset, case.rank)

    variants: dict[str, Callable[[Case], Work]] = {
        "two_matmuls": two_matmuls,
        "folded": folded,
        "as_written": as_written,
    }
    if fused is not None:

        def kernel(case: Case) -> Work:
            out = torch.empty_like(case.product)
            parts = (case.product, case.bias, case.x, case.bank, case.expert, case.offset, case.rank)
            return lambda: fused(*parts, out=out)

        def overlapping(case: Case) -> Work:
            out = torch.empty_like(case.product)
            parts = (case.product, case.bias, case.x, case.bank, case.expert, case.offset, case.rank)
            return lambda: fused(*parts, out=out, overlap=True)

        variants["fused"] = kernel
        if fused.overlaps:
            variants["overlapping"] = overlapping
    return variants


def _graph_of(make: Callable[[Case], Work], cases: list[Case], repeats: int) -> torch.cuda.CUDAGraph:
    return capture(_all_of([make(case) for case in cases] * repeats), warm_up=1)


def _eager(make: Callable[[Case], Work], case: Case, repeats: int) -> Work:
    return _all_of([make(case)] * repeats)


def _all_of(works: list[Work]) -> Work:
    def run() -> None:
        # A result that nobody keeps gives its memory back to the next call, as in a network.
        for work in works:
            work()

    return run
