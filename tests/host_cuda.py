"""As much of the CUDA runtime and of an engine as a lane uses, on the host's memory: what a lane does needs no GPU.

Work runs when it is queued, except within a capture, which keeps it for the graph's launches. What CUDA forbids on a
thread that captures ends the capture in an error here too. Addresses are real: a wrong one shows.
"""

# ruff: noqa: N802 (the names are CUDA's)
from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np


class HostCuda:
    """Stands where ``cuda.bindings.runtime`` does, with its own statuses.

    Attributes:
        memory: by address, what is reserved on the device.
        calls: names of the calls that reserve, give back and capture, in order.
    """

    def __init__(self, runtime: Any) -> None:
        self.cudaMemcpyKind, self.cudaStreamCaptureMode = runtime.cudaMemcpyKind, runtime.cudaStreamCaptureMode
        self._codes = runtime.cudaError_t
        self.memory: dict[int, Any] = {}
        self.calls: list[str] = []
        self._captured: list[Callable[[], object]] | None = None
        self._broken = False

    def queue(self, work: Callable[[], object]) -> None:
        """Run work, or keep it for the graph that is captured."""
        if self._captured is None:
            work()
        else:
            self._captured.append(work)

    def cudaMalloc(self, size: int) -> tuple[Any, int]:
        self._forbidden("cudaMalloc")
        block = (ctypes.c_uint8 * size)()
        self.memory[ctypes.addressof(block)] = block
        return self._codes.cudaSuccess, ctypes.addressof(block)

    def cudaFree(self, address: int) -> tuple[Any]:
        self._forbidden("cudaFree")
        del self.memory[address]
        return (self._codes.cudaSuccess,)

    def cudaHostAlloc(self, size: int, _flags: int) -> tuple[Any, int]:
        return self.cudaMalloc(size)

    def cudaFreeHost(self, address: int) -> tuple[Any]:
        return self.cudaFree(address)

    def cudaStreamCreateWithFlags(self, _flags: int) -> tuple[Any, int]:
        return self._codes.cudaSuccess, 1

    def cudaStreamDestroy(self, _stream: int) -> tuple[Any]:
        return (self._codes.cudaSuccess,)

    def cudaStreamSynchronize(self, _stream: int) -> tuple[Any]:
        return (self._codes.cudaSuccess,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, _kind: Any, _stream: int) -> tuple[Any]:
        self.queue(lambda: ctypes.memmove(target, source, size))
        return (self._codes.cudaSuccess,)

    def cudaStreamBeginCapture(self, _stream: int, _mode: Any) -> tuple[Any]:
        self.calls.append("capture")
        self._captured, self._broken = [], False
        return (self._codes.cudaSuccess,)

    def cudaStreamEndCapture(self, _stream: int) -> tuple[Any, Any]:
        captured, self._captured = self._captured, None
        if self._broken:
            return self._codes.cudaErrorStreamCaptureInvalidated, None
        return self._codes.cudaSuccess, captured

    def cudaGraphInstantiate(self, graph: Any, _flags: int) -> tuple[Any, Any]:
        return self._codes.cudaSuccess, graph

    def cudaGraphDestroy(self, _graph: Any) -> tuple[Any]:
        return (self._codes.cudaSuccess,)

    def cudaGraphExecDestroy(self, _graph: Any) -> tuple[Any]:
        return (self._codes.cudaSuccess,)

    def cudaGraphLaunch(self, graph: list[Callable[[], object]], _stream: int) -> tuple[Any]:
        for work in graph:
            work()
        return (self._codes.cudaSuccess,)

    def _forbidden(self, name: str) -> None:
        self.calls.append(name)
        self._broken = self._broken or self._captured is not None


class HostEngine:
    """An engine whose mask is the frame's red, its confidence the green, and whose distance is the bias.

    Attributes:
        within: called at every pass, a capture's too.
    """

    def __init__(self, cuda: HostCuda, batch: int, size: tuple[int, int], rows: int) -> None:
        self._cuda = cuda
        image, kinds = (batch, *size), {"UINT8": np.uint8, "FLOAT": np.float32, "INT32": np.int32}
        self._tensors = {
            "frames": ((*image, 3), "UINT8"),
            "bank": ((rows, 4), "FLOAT"),
            "prototypes": ((rows, 1, 2), "FLOAT"),
            "whitening": ((2, 2), "FLOAT"),
            "gate_bias": ((batch, rows), "FLOAT"),
            "mask": (image, "UINT8"),
            "confidence": (image, "UINT8"),
            "expert": ((batch,), "INT32"),
            "distance": ((batch, rows), "FLOAT"),
        }
        self._kinds = {name: (shape, np.dtype(kinds[kind])) for name, (shape, kind) in self._tensors.items()}
        self._addresses: dict[str, int] = {}
        self.within: Callable[[], bool] = lambda: True
        self.num_io_tensors = len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name][0]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=self._tensors[name][1])

    def create_execution_context(self) -> HostEngine:
        return self

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        return tuple(shape) == self._tensors[name][0]

    def set_tensor_address(self, name: str, address: int) -> None:
        self._addresses[name] = address

    def execute_async_v3(self, _stream: int) -> bool:
        if not self.within():
            return False
        self._cuda.queue(self._pass)
        return True

    def _pass(self) -> None:
        at = {name: on_host(self._addresses[name], *self._kinds[name]) for name in self._tensors}
        at["mask"][:], at["confidence"][:] = at["frames"][..., 0], at["frames"][..., 1]
        at["expert"][:], at["distance"][:] = at["gate_bias"].argmax(axis=1), at["gate_bias"]


def on_host(address: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """What lies at an address, without a copy."""
    size = int(np.prod(shape)) * dtype.itemsize
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address)).view(dtype).reshape(shape)
