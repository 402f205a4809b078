"""The fused kernel compiled ahead of time from Python: an engine then holds the kernel itself and needs no library.

For TensorRT 10.15 and newer, whose ``tensorrt.plugin`` takes kernels as PTX. The source is that of the library,
``plugin/low_rank_kernel.cuh``; NVRTC compiles it for each layer with the layer's sizes as constants.

Written after NVIDIA's sample (samples/python/quickly_deployable_plugins) and the source of ``tensorrt.plugin``. The
graph and the kernel's entry are tested; the calls of ``tensorrt.plugin`` have not met a real TensorRT yet.
"""

# Without `from __future__ import annotations`: tensorrt.plugin reads annotations as types.
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mile_edge.errors import BackendError
from mile_edge.runtime.tensorrt.api import Api
from mile_edge.runtime.tensorrt.nvrtc import compile_source

NAMESPACE, NAME = "mile", "LowRank"
ENTRY = "mile_low_rank"
_TENSORS = ("product", "bias", "x", "bank", "expert")
_ATTRIBUTES = ("a_start", "b_start", "rank")
_TILE, _MOST_WARPS = 16, 8


@dataclass(frozen=True)
class LayerSizes:
    """What is fixed about a layer when its engine is built; batch, tokens and experts may vary.

    Attributes:
        half: fp16 maps and bank instead of fp32.
        expert_bytes: 8 where indices are int64, 4 where they are int32.
    """

    half: bool
    inputs: int
    outputs: int
    rank: int
    row_length: int
    a_start: int
    b_start: int
    expert_bytes: int = 8

    @property
    def _vector(self) -> int:
        return 8 if self.half else 4

    @property
    def chunks(self) -> int:
        """Inputs in units of four vectors, one for a warp at a time."""
        return _ceil(self.inputs, 4 * self._vector)

    @property
    def blocks(self) -> int:
        """Outputs in the same units."""
        return _ceil(self.outputs, 4 * self._vector)

    @property
    def warps(self) -> int:
        """Warps per block, as ``plan`` of plugin/low_rank_plan.h chooses them for outputs in one part."""
        candidates = range(1, _MOST_WARPS + 1)
        return min(candidates, key=lambda count: (_ceil(self.chunks, count) + _ceil(self.blocks, count), count))

    @property
    def rank_tiles(self) -> int:
        """Tiles of eight ranks that the kernel is compiled for."""
        return 1 if self.rank <= 8 else 2 if self.rank <= 16 else 4 if self.rank <= 32 else 8

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        return self.warps * self.rank_tiles * _TILE * 8 * 4

    @property
    def access(self) -> str:
        """How the kernel may read; TensorRT's tensors begin at multiples of 256 bytes."""
        vector = self._vector
        if self.inputs % vector or self.outputs % vector:
            return "kNumbers"
        rows = self.row_length % vector == 0 and self.a_start % vector == 0
        return "kVectors" if rows and self.b_start % 2 == 0 and self.rank % 2 == 0 else "kMapVectors"


def source(sizes: LayerSizes) -> str:
    """CUDA C++ with one entry, ``mile_low_rank``: TensorRT passes inputs, then scalars, then the output."""
    values = {
        "row_length": sizes.row_length,
        "a_start": sizes.a_start,
        "b_start": sizes.b_start,
        "inputs": sizes.inputs,
        "outputs": sizes.outputs,
        "rank": sizes.rank,
        "chunk_share": _ceil(sizes.chunks, sizes.warps),
        "part_width": sizes.blocks,
        "block_share": _ceil(sizes.blocks, sizes.warps),
        "expert_bytes": sizes.expert_bytes,
    }
    pointers = ", ".join(f"const void* {name}" for name in _TENSORS)
    lines = [f"    layer.{name} = {name};" for name in (*_TENSORS, "y", "experts", "tokens")]
    lines += [f"    layer.{name} = {value};" for name, value in values.items()]
    template = f"mile::{'Half' if sizes.half else 'Single'}, {sizes.rank_tiles}, 1, mile::Access::{sizes.access}"
    return "\n".join(
        (
            '#include "low_rank_kernel.cuh"',
            f'extern "C" __global__ void __launch_bounds__({32 * sizes.warps})',
            f"    {ENTRY}({pointers}, int experts, int tokens, void* y) {{",
            "    mile::LowRankArguments layer = {};",
            *lines,
            f"    mile::low_rank<{template}>(layer);",
            "}\n",
        )
    )


def register(api: Api, folder: Path, capability: str) -> None:
    """Make ``mile::LowRank`` known to TensorRT as a plugin that is compiled when an engine is built; once per process.

    Args:
        folder: where ``low_rank_kernel.cuh`` lies.
        capability: of the device, such as "8.7".

    Raises:
        BackendError: this TensorRT takes no kernels from Python.
    """
    try:
        import tensorrt.plugin as trtp
    except ImportError:
        raise BackendError(
            f"{api.name} {api.version} takes no plugins from Python; build the library instead"
        ) from None
    if not hasattr(trtp, "aot_impl"):
        raise BackendError(f"{api.name} {api.version} takes no compiled kernels; build the library instead")
    if api.module.get_plugin_registry().get_creator(NAME, "1", NAMESPACE) is not None:
        return
    plugin_id = f"{NAMESPACE}::{NAME}"

    # No annotations here: tensorrt.plugin reads them as types of its own, which exist only once it is imported.
    def describe(product, bias, x, bank, expert, a_start, b_start, rank):
        return product.like()

    def compiled(product, bias, x, bank, expert, a_start, b_start, rank, outputs, tactic):
        sizes = LayerSizes(
            half=product.dtype == api.module.float16,
            inputs=x.shape_expr[2].constant_value(),
            outputs=product.shape_expr[2].constant_value(),
            rank=int(rank[0]),
            row_length=bank.shape_expr[1].constant_value(),
            a_start=int(a_start[0]),
            b_start=int(b_start[0]),
            expert_bytes=8 if expert.dtype == api.module.int64 else 4,
        )
        launch = trtp.KernelLaunchParams()
        launch.grid_x = trtp.cdiv(product.shape_expr[1], _TILE)
        launch.grid_z = product.shape_expr[0]
        launch.block_x = 32 * sizes.warps
        launch.shared_mem = sizes.shared_bytes
        scalars = [trtp.SymInt32(bank.shape_expr[0]), trtp.SymInt32(product.shape_expr[1])]
        ptx, _ = compile_source(source(sizes), folder, f"compute_{capability.replace('.', '')}")
        return ENTRY, ptx, launch, trtp.SymIntExprs.from_tuple(scalars)

    tensors = dict.fromkeys(_TENSORS, trtp.TensorDesc)
    describe.__annotations__ = tensors | dict.fromkeys(_ATTRIBUTES, NDArray[np.int64]) | {"return": trtp.TensorDesc}
    compiled.__annotations__ = {"return": tuple[str | bytes, str | bytes, trtp.KernelLaunchParams, trtp.SymExprs]}
    decorate: Callable[[Any], Any] = trtp.register(plugin_id)
    decorate(describe)
    trtp.aot_impl(plugin_id)(compiled)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)
