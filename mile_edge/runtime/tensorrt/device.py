"""The part of the CUDA runtime that the backend needs: memory, streams, graphs; every failure one sentence.

cuda-bindings is a thin layer over the C API (https://nvidia.github.io/cuda-python/cuda-bindings/): it imports without a
GPU, so that the absence of one is found here and told as such.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mile_edge.errors import BackendError

_PAGE_LOCKED = 0
_NON_BLOCKING = 1
_HOST_TO_DEVICE, _DEVICE_TO_HOST, _DEVICE_TO_DEVICE = "HostToDevice", "DeviceToHost", "DeviceToDevice"
_REMEDIES = {
    2: "the device has no memory left; close other programs that use it, or build with a smaller --max-batch",
    3: "the CUDA driver could not start; see whether nvidia-smi works",
    35: "the NVIDIA driver is missing or older than this CUDA runtime; install a newer one (nvidia-smi tells which)",
    46: "another program holds the device for itself; stop it, or set its compute mode to default",
    100: "no CUDA device was found; see whether nvidia-smi (tegrastats on a Jetson) lists one",
    101: "that CUDA device does not exist",
    700: "the device reported an illegal address; restart the program",
    999: "the device was lost; restart the program, and the machine if nvidia-smi does not answer",
}


# Addresses of arrays that were dropped instead of closed, given back before more is reserved or anything is closed.
_FORGOTTEN: deque[int] = deque()


@dataclass(frozen=True)
class DeviceInfo:
    """A CUDA device: its name and its compute capability, such as "8.7"."""

    name: str
    capability: str


def runtime() -> Any:
    """The cuda.bindings.runtime module.

    Raises:
        BackendError: cuda-bindings is not installed.
    """
    try:
        from cuda.bindings import runtime as module
    except ImportError:
        raise BackendError(
            "cuda-bindings is not installed; pip install 'cuda-bindings>=12.6,<14' of the CUDA version at hand"
        ) from None
    return module


def checked(result: tuple[Any, ...], doing: str) -> Any:
    """What a CUDA call gave beside its status.

    Raises:
        BackendError: the status is an error; the sentence says what to do about it.
    """
    status, *values = result
    code = int(status)
    if code:
        remedy = _REMEDIES.get(code, "see the CUDA runtime's list of errors")
        raise BackendError(f"CUDA failed while {doing} ({status.name}, {code}): {remedy}")
    return values[0] if len(values) == 1 else tuple(values)


def find_device(index: int = 0) -> DeviceInfo:
    """The CUDA device at hand.

    Raises:
        BackendError: there is none, or no driver, or it is too old.
    """
    cuda = runtime()
    try:
        count = checked(cuda.cudaGetDeviceCount(), "looking for a device")
    except RuntimeError as error:  # cuda-bindings' own when the driver's library cannot be loaded
        raise BackendError(f"no CUDA driver can be loaded ({str(error).splitlines()[0]}); install NVIDIA's") from None
    if index >= count:
        raise BackendError(f"CUDA device {index} does not exist; there are {count}")
    properties = checked(cuda.cudaGetDeviceProperties(index), "asking the device for its name")
    name = properties.name.split(b"\0")[0].decode(errors="replace")
    return DeviceInfo(name, f"{properties.major}.{properties.minor}")


class Block(Protocol):
    """Device memory to copy from or to."""

    address: int
    bytes: int


class DeviceArray:
    """Device memory with a shape and a type, at one address for life.

    Args:
        shape: of the array.
        dtype: NumPy type of its numbers.

    Attributes:
        address: of its first byte.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype | type) -> None:
        self.address = 0
        _free_forgotten()
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.bytes = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        self.address = int(checked(runtime().cudaMalloc(max(1, self.bytes)), f"reserving {self.bytes} bytes"))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """So that PyCUDA, CuPy and torch read it where it is."""
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "version": 3,
        }

    def close(self) -> None:
        """Give the memory back; twice is harmless."""
        if self.address:
            # After a lost device even this fails, and there is nothing left to free.
            runtime().cudaFree(self.address)
            self.address = 0
        _free_forgotten()

    def __del__(self) -> None:
        # The garbage collector comes at any moment, within a graph's capture too, and freeing is forbidden there.
        if self.address:
            _FORGOTTEN.append(self.address)
            self.address = 0


def _free_forgotten() -> None:
    # Another thread may take the last one in between.
    with contextlib.suppress(IndexError):
        while True:
            runtime().cudaFree(_FORGOTTEN.popleft())


class PinnedArray:
    """Host memory that the device copies from and to without an extra copy; ``array`` is its NumPy view."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype | type) -> None:
        dtype = np.dtype(dtype)
        count = int(np.prod(shape, dtype=np.int64))
        size = max(1, count * dtype.itemsize)
        self.address = int(checked(runtime().cudaHostAlloc(size, _PAGE_LOCKED), f"pinning {size} bytes"))
        memory = (ctypes.c_uint8 * size).from_address(self.address)
        self.array: np.ndarray = np.ctypeslib.as_array(memory)[: count * dtype.itemsize].view(dtype).reshape(shape)

    def close(self) -> None:
        """Give the memory back; the view must not be used any more."""
        if self.address:
            self.array = np.empty(0, self.array.dtype)
            runtime().cudaFreeHost(self.address)
            self.address = 0


class Stream:
    """A queue of work on the device, independent of the default stream."""

    def __init__(self) -> None:
        self.handle = checked(runtime().cudaStreamCreateWithFlags(_NON_BLOCKING), "making a stream")

    @property
    def address(self) -> int:
        """The handle as TensorRT wants it."""
        return int(self.handle)

    def upload(self, target: DeviceArray, source: np.ndarray, offset: int = 0) -> None:
        """Copy a C-contiguous host array to ``offset`` bytes into the target; asynchronous where it is pinned."""
        assert source.flags.c_contiguous
        self._copy(target.address + offset, source.ctypes.data, source.nbytes, _HOST_TO_DEVICE)

    def download(self, target: np.ndarray, source: Block) -> None:
        """Copy a device array to a C-contiguous host array."""
        assert target.flags.c_contiguous
        self._copy(target.ctypes.data, source.address, source.bytes, _DEVICE_TO_HOST)

    def copy(self, target: Block, address: int) -> None:
        """Fill the target from other device memory."""
        self._copy(target.address, address, target.bytes, _DEVICE_TO_DEVICE)

    def wait_for(self, other: int) -> None:
        """Let work queued here from now on begin after what is queued on another stream, without blocking the host."""
        cuda = runtime()
        flags = cuda.cudaEventDisableTiming
        event = checked(cuda.cudaEventCreateWithFlags(flags), "making an event")
        try:
            checked(cuda.cudaEventRecord(event, other), "marking a stream")
            checked(cuda.cudaStreamWaitEvent(self.handle, event, 0), "waiting for a stream")
        finally:
            cuda.cudaEventDestroy(event)

    def synchronise(self) -> None:
        """Wait until everything queued has run; other Python threads go on meanwhile."""
        checked(runtime().cudaStreamSynchronize(self.handle), "running the network")

    def capture(self, work: Callable[[], None]) -> Graph:
        """What ``work`` queues on this stream, as a graph instead of running it."""
        cuda = runtime()
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        checked(cuda.cudaStreamBeginCapture(self.handle, mode), "beginning a graph")
        try:
            work()
        except BaseException:
            # The stream is useless until its capture has ended, whatever came of it.
            cuda.cudaStreamEndCapture(self.handle)
            raise
        graph = checked(cuda.cudaStreamEndCapture(self.handle), "capturing the graph")
        try:
            return Graph(checked(cuda.cudaGraphInstantiate(graph, 0), "making the graph ready"))
        finally:
            cuda.cudaGraphDestroy(graph)

    def launch(self, graph: Graph) -> None:
        """Queue a captured graph."""
        checked(runtime().cudaGraphLaunch(graph.handle, self.handle), "launching the graph")

    def close(self) -> None:
        """Give the stream back; twice is harmless."""
        if self.handle is not None:
            runtime().cudaStreamDestroy(self.handle)
            self.handle = None

    def _copy(self, target: int, source: int, size: int, kind: str) -> None:
        cuda = runtime()
        direction = getattr(cuda.cudaMemcpyKind, f"cudaMemcpy{kind}")
        checked(cuda.cudaMemcpyAsync(target, source, size, direction, self.handle), f"copying {size} bytes")


class Graph:
    """Captured work, replayed with the addresses it was captured with."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    def close(self) -> None:
        """Give it back; twice is harmless."""
        if self.handle is not None:
            runtime().cudaGraphExecDestroy(self.handle)
            self.handle = None
