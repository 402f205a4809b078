"""Which engine runs the graph: ONNX Runtime anywhere, TensorRT where there is a device."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mile_edge.bundle import Bundle
from mile_edge.errors import BackendError, RecipeError, SensorError
from mile_edge.runtime.bank import GateState

BACKENDS = ("onnx", "tensorrt", "tensorrt-rtx")
# ONNX Runtime makes every thread that it is asked for, and falls with the process when memory ends.
_MAX_THREADS = 256


class Backend(Protocol):
    """What the segmenter needs of an engine."""

    def run(self, frames: Any, state: GateState, bias: np.ndarray, on_device: bool = False) -> tuple[Any, ...]:
        """One pass: mask, confidence, expert (B,), distance (B, E)."""
        ...

    def fuse(
        self, frames: np.ndarray, state: GateState, bias: np.ndarray, group: np.ndarray, vector: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """One pass of several sensors: as `run`, and fused mask, fused confidence and share (G, B)."""
        ...

    def write_row(self, row: int) -> None:
        """Bring a row of the bank to where the engine reads it."""
        ...

    def close(self) -> None:
        """Give back everything; twice is harmless."""
        ...


def make_backend(
    name: str, bundle: Bundle, bank: np.ndarray, threads: int | None, engine: str | os.PathLike[str] | None
) -> Backend:
    """The backend of that name; each is imported when it is asked for.

    Raises:
        BackendError: it is unknown, not installed, or cannot run this bundle.
    """
    if name == "onnx":
        from mile_edge.runtime.onnx_backend import OnnxBackend

        return OnnxBackend(bundle.network_path, bank, threads, bundle.fused_path)
    if name in BACKENDS:
        from mile_edge.runtime.tensorrt.backend import TensorRTBackend

        return TensorRTBackend(bundle, bank, name, Path(engine) if engine is not None else None)
    raise BackendError(f"backend {name!r} is unknown; choose {', '.join(BACKENDS)}")


def network_threads(threads: int | None) -> int:
    """Threads of one pass on the CPU: as many as this process may use where none are named.

    Raises:
        RecipeError: no network can run on so few or so many.
    """
    if threads is None:
        return len(os.sched_getaffinity(0))
    if not 1 <= threads <= _MAX_THREADS:
        raise RecipeError(f"A network on {threads} threads cannot run; give 1 to {_MAX_THREADS}.")
    return threads


def device_batch(frames: Any, network: tuple[int, int]) -> tuple[int, int, int]:
    """(B, H, W) of frames in device memory.

    Raises:
        SensorError: they are no batch of uint8 frames at the network's size.
    """
    interface = frames.__cuda_array_interface__
    shape, kind = tuple(interface["shape"]), np.dtype(interface["typestr"])
    if len(shape) != 4 or shape[0] < 1 or shape[1:] != (*network, 3) or kind != np.uint8:
        height, width = network
        raise SensorError(
            f"device frames are {shape} {kind}, expected (B, {height}, {width}, 3) uint8; resize them on the device"
        )
    return shape[0], shape[1], shape[2]
