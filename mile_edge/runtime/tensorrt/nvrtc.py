"""CUDA C++ compiled where it is needed, by NVRTC through cuda-bindings: no nvcc and no device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mile_edge.errors import BackendError


def compile_source(code: str, headers: Path, architecture: str, instance: str = "") -> tuple[bytes, str]:
    """Compile one source.

    Args:
        code: CUDA C++.
        headers: the folder of what it includes.
        architecture: such as ``sm_87`` for machine code, ``compute_87`` for PTX.
        instance: of a kernel template, such as ``kernel<float, 2>``, where the source does not name one itself.

    Returns:
        machine code or PTX, and the instance's mangled name, empty where none was asked for.

    Raises:
        BackendError: cuda-bindings or NVRTC is missing, or the source is refused.
    """
    try:
        from cuda.bindings import nvrtc
    except ImportError:
        raise BackendError("cuda-bindings is not installed; pip install cuda-bindings, or build the library") from None
    try:
        _, program = nvrtc.nvrtcCreateProgram(code.encode(), b"low_rank.cu", 0, [], [])
    except RuntimeError as error:
        raise BackendError(f"NVRTC is not installed ({str(error).splitlines()[0]}); build the library") from error
    try:
        if instance:
            nvrtc.nvrtcAddNameExpression(program, instance.encode())
        options = [f"--gpu-architecture={architecture}".encode(), b"--std=c++17", f"-I{headers}".encode()]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if int(status):
            log = _filled(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
            raise BackendError(f"NVRTC refused the kernel ({log.decode(errors='replace').splitlines()[0]})")
        lowered = nvrtc.nvrtcGetLoweredName(program, instance.encode())[1].decode() if instance else ""
        if architecture.startswith("sm_"):
            return _filled(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program), lowered
        return _filled(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program).rstrip(b"\0"), lowered
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _filled(size: Any, fill: Any, program: Any) -> bytes:
    _, length = size(program)
    # Written into: bytes may be shared with whatever else in the process holds the same ones.
    buffer = bytearray(length)
    fill(program, buffer)
    return bytes(buffer)
