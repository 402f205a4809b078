"""What NVRTC fills is memory of its own."""

from __future__ import annotations

import contextlib
import ctypes
from typing import Any

import pytest

from mile_edge.runtime.tensorrt.nvrtc import _filled


@pytest.mark.parametrize("text", [b"k", b"", b"kernel"])
def test_no_shared_bytes_are_written_into(text: bytes) -> None:
    def fill(_program: Any, buffer: Any) -> None:
        # Refuses what is not to be written into, which NVRTC itself does not notice.
        (ctypes.c_char * len(text)).from_buffer(buffer).raw = text

    assert _filled(lambda _: (0, len(text)), fill, None) == text


def test_cuda_bindings_take_such_memory() -> None:
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-bindings is not installed")
    program = nvrtc.nvrtcProgram()
    for fill in (nvrtc.nvrtcGetPTX, nvrtc.nvrtcGetCUBIN, nvrtc.nvrtcGetProgramLog):
        # A TypeError would mean that this memory is refused; without NVRTC the call itself is a RuntimeError.
        with contextlib.suppress(RuntimeError):
            assert int(fill(program, bytearray(8))[0]), "there is no such program"
