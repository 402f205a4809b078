"""The fused kernel from Python: the plugin's library, one that nvcc builds here, or NVRTC through cuda-bindings."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mile_edge.errors import BackendError
from mile_edge.runtime.tensorrt.nvrtc import compile_source
from on_gpu.plan import ALL_VECTORS, MAP_VECTORS, NUMBERS, plan

SOURCE = Path(__file__).parents[2] / "plugin"
_CUDA_ERRORS = {1: "invalid value", 2: "out of memory", 35: "the driver is too old", 209: "no code for this device"}


class MissingError(Exception):
    """Something that a measurement needs is not on this machine; the message says what."""


class FusedLowRank:
    """``mile::LowRank`` on torch's current device and stream; may be captured in a CUDA graph.

    Args:
        built: folder in which what nvcc built is kept, and looked for first.

    Attributes:
        how: how the kernel came to be, for the report.
        overlaps: whether ``overlap`` has an effect here.

    Raises:
        MissingError: there is no library, no nvcc and no NVRTC.
    """

    def __init__(self, built: Path) -> None:
        reasons = []
        for attempt in (_from_library, partial(_from_nvcc, built), _from_nvrtc):
            try:
                self.how, self._launch = attempt()
            except MissingError as reason:
                reasons.append(str(reason))
                continue
            self.overlaps = self.how != "NVRTC" and torch.cuda.get_device_capability() >= (9, 0)
            return
        raise MissingError("the fused kernel could not be built: " + "; ".join(reasons))

    def __call__(
        self,
        product: torch.Tensor,
        bias: torch.Tensor,
        x: torch.Tensor,
        bank: torch.Tensor,
        expert: torch.Tensor,
        offset: int,
        rank: int,
        *,
        out: torch.Tensor | None = None,
        overlap: bool = False,
    ) -> torch.Tensor:
        """Same arguments and result as ``mile_edge.network.low_rank.low_rank``; ``out`` may be ``product``.

        ``overlap`` lets the kernel take its place on the device while the one before still runs.
        """
        product, x = product.contiguous(), x.contiguous()
        out = torch.empty_like(product) if out is None else out
        samples, tokens, inputs = x.shape
        tensors = (product, bias, x, bank, expert, out)
        assert all(t.is_cuda and t.is_contiguous() for t in tensors)
        assert product.dtype == x.dtype == bank.dtype == bias.dtype in (torch.float16, torch.float32)
        call = Call(
            single=x.dtype == torch.float32,
            shape=(samples, tokens, inputs, product.shape[-1], rank),
            experts=bank.shape[0],
            row=(bank.shape[1], offset, offset + rank * inputs),
            expert_bytes=expert.element_size(),
            addresses=tuple(t.data_ptr() for t in tensors),
            overlap=overlap,
            stream=torch.cuda.current_stream().cuda_stream,
        )
        status = self._launch(call)
        if status:
            raise RuntimeError(f"the fused kernel was not launched: {_CUDA_ERRORS.get(status, f'CUDA error {status}')}")
        return out


@dataclass(frozen=True)
class Call:
    """What a launch is told, in the order of ``mile_low_rank`` of plugin/low_rank.h.

    Attributes:
        single: fp32 instead of fp16.
        shape: samples, tokens, inputs, outputs and rank.
        experts: rows of the bank.
        row: its length, and where A and B begin in it.
        expert_bytes: 8 where indices are int64, 4 where they are int32.
        addresses: of product, bias, x, bank, expert and the result.
        overlap: whether the kernel may take its place while the one before still runs.
        stream: its handle.
    """

    single: bool
    shape: tuple[int, ...]
    experts: int
    row: tuple[int, ...]
    expert_bytes: int
    addresses: tuple[int, ...]
    overlap: bool
    stream: int


Launch = Callable[[Call], int]


def _from_library() -> tuple[str, Launch]:
    path = os.environ.get("MILE_EDGE_PLUGIN")
    if not path:
        raise MissingError("MILE_EDGE_PLUGIN names no library")
    return f"library {path}", _launcher(Path(path))


def _from_nvcc(built: Path) -> tuple[str, Launch]:
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc is None:
        raise MissingError("nvcc is not on the PATH")
    major, minor = torch.cuda.get_device_capability()
    library, how = built / "low_rank.so", f"nvcc for sm_{major}{minor}"
    if library.is_file():
        return how, _launcher(library)
    aside = library.with_suffix(".aside")
    command = [nvcc, "-std=c++17", "-O3", f"-arch=sm_{major}{minor}", "-shared", "-Xcompiler=-fPIC,-fvisibility=hidden"]
    done = subprocess.run(
        [*command, "-o", str(aside), str(SOURCE / "low_rank.cu")],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise MissingError(f"{nvcc} could not compile it ({(done.stderr.splitlines() or ['no reason given'])[0]})")
    aside.replace(library)
    return how, _launcher(library)


def _launcher(path: Path) -> Launch:
    try:
        function = ctypes.CDLL(str(path)).mile_low_rank
    except (OSError, AttributeError) as error:
        raise MissingError(f"{path} is no library with the kernel ({error})") from error
    function.argtypes = [ctypes.c_int] * 7 + [ctypes.c_longlong] * 3 + [ctypes.c_int] + [ctypes.c_void_p] * 6
    function.argtypes += [ctypes.c_int, ctypes.c_void_p]
    function.restype = ctypes.c_int

    def launch(call: Call) -> int:
        sizes = (*call.shape, call.experts, *call.row, call.expert_bytes)
        return int(function(call.single, *sizes, *call.addresses, call.overlap, call.stream))

    return launch


class _Arguments(ctypes.Structure):
    """LowRankArguments of plugin/low_rank_kernel.cuh."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("product", "bias", "x", "bank", "expert", "y")),
        *((name, ctypes.c_longlong) for name in ("row_length", "a_start", "b_start")),
        *(
            (name, ctypes.c_int)
            for name in (
                "experts",
                "tokens",
                "inputs",
                "outputs",
                "rank",
                "chunk_share",
                "part_width",
                "block_share",
                "expert_bytes",
            )
        ),
    )


def _from_nvrtc() -> tuple[str, Launch]:
    try:
        from cuda.bindings import driver
    except ImportError:
        raise MissingError("cuda-bindings is not installed (pip install cuda-bindings)") from None
    processors = torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count
    # A context must be current before a module is loaded.
    torch.cuda.synchronize()
    # One at once: without NVRTC the caller must hear of it before the first launch.
    first = "mile::low_rank_kernel<mile::Half, 1, 1, (mile::Access)0>"
    kernels = {first: compile_kernel(driver, first)}

    def launch(call: Call) -> int:
        samples, *sizes = call.shape
        vector = 4 if call.single else 8
        access = _access(call, vector)
        cut = plan(*call.shape, vector=vector, access=access, multiprocessors=processors)
        kind = "Single" if call.single else "Half"
        name = f"mile::low_rank_kernel<mile::{kind}, {cut.rank_tiles}, {cut.token_tiles}, (mile::Access){access}>"
        if name not in kernels:
            kernels[name] = compile_kernel(driver, name)
        shares = (cut.chunk_share, cut.part_width, cut.block_share)
        arguments = _Arguments(*call.addresses, *call.row, call.experts, *sizes, *shares, call.expert_bytes)
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        grid, block = (cut.tiles, cut.parts, samples), (32 * cut.warps, 1, 1)
        (status,) = driver.cuLaunchKernel(
            kernels[name], *grid, *block, cut.shared_bytes, call.stream, ctypes.addressof(pointers), 0
        )
        return int(status)

    return "NVRTC", launch


def compile_kernel(driver: Any, name: str) -> Any:
    """One instance of the kernel template as a function that can be launched."""
    major, minor = torch.cuda.get_device_capability()
    cubin, lowered = compile_cubin(name, f"sm_{major}{minor}")
    status, module = driver.cuModuleLoadData(cubin)
    if int(status):
        raise MissingError(f"the driver refused the kernel that NVRTC compiled (error {int(status)})")
    status, function = driver.cuModuleGetFunction(module, lowered.encode())
    if int(status):
        raise MissingError(f"the kernel that NVRTC compiled lacks {lowered!r} (error {int(status)})")
    return function


def compile_cubin(name: str, architecture: str) -> tuple[bytes, str]:
    """The machine code and the mangled name of one instance of the kernel template.

    Raises:
        MissingError: NVRTC is not installed, or refused the source.
    """
    try:
        return compile_source('#include "low_rank_kernel.cuh"\n', SOURCE, architecture, name)
    except BackendError as error:
        raise MissingError(str(error)) from error


def _access(call: Call, vector: int) -> int:
    _, _, inputs, outputs, rank = call.shape
    product, bias, x, bank, _, y = call.addresses
    length, a_start, b_start = call.row
    if inputs % vector or outputs % vector or any(address % 16 for address in (product, bias, x, y)):
        return NUMBERS
    rows = bank % 16 == 0 and length % vector == 0 and a_start % vector == 0
    return ALL_VECTORS if rows and b_start % 2 == 0 and rank % 2 == 0 else MAP_VECTORS
