"""One execution context with its stream, its buffers and its captured graph, for one batch size."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from mile_edge.errors import BackendError
from mile_edge.runtime.bank import GateState
from mile_edge.runtime.tensorrt.api import Api
from mile_edge.runtime.tensorrt.device import DeviceArray, Graph, PinnedArray, Stream
from mile_edge.runtime.tensorrt.lent import LendingPool, LentArray

OUTPUTS = ("mask", "confidence", "expert", "distance")
_WARM_UP = 2
_LOG = logging.getLogger("mile_edge.tensorrt")


class Lane:
    """A place on the device where one batch at a time is segmented; used by one thread at a time.

    Args:
        engine: the deserialised engine.
        bank: the experts' rows on the device, shared by all lanes.
        state: the gate at this moment, for shapes.
        batch: samples of every pass.

    Raises:
        BackendError: the device refused, most often for want of memory.
    """

    def __init__(self, api: Api, engine: Any, bank: DeviceArray, state: GateState, batch: int) -> None:
        self._owned: list[Any] = []
        self._seen: GateState | None = None
        self._graph: Graph | None = None
        self._runs = 0
        self._may_capture = True
        try:
            self._stream = self._own(Stream())
            self._context = _context(api, engine)
            self._device = {name: self._buffer(engine, name, state, batch) for name in _names(engine) if name != "bank"}
            self._host = {
                name: self._own(PinnedArray(array.shape, array.dtype)) for name, array in self._device.items()
            }
            self._lent = {
                name: self._own(LendingPool(self._device[name].shape, self._device[name].dtype)) for name in OUTPUTS[:2]
            }
            for name, array in (*self._device.items(), ("bank", bank)):
                if name not in OUTPUTS and not self._context.set_input_shape(name, array.shape):
                    raise BackendError(f"the engine refuses {name} of shape {array.shape}; build it again")
                self._context.set_tensor_address(name, array.address)
        except BaseException:
            self.close()
            raise

    def run(self, frames: Any, state: GateState, bias: np.ndarray, on_device: bool) -> tuple[Any, ...]:
        """One pass.

        Args:
            frames: (B, H, W, 3) uint8 at the network's size, a NumPy array or anything on this device with
                ``__cuda_array_interface__``.
            bias: (B, E) float32.
            on_device: leave mask and confidence on the device, in memory that is used again once they are dropped;
                they may be held longer than the lane lives.

        Returns:
            mask, confidence, expert, distance; arrays that the caller owns, ready when this returns.
        """
        self._take(frames)
        self._pass(state, bias)
        stay = OUTPUTS[:2] if on_device else ()
        kept: list[LentArray] = []
        try:
            for name in OUTPUTS:
                if name in stay:
                    kept.append(self._lent[name].take())
                    self._stream.copy(kept[-1], self._device[name].address)
                else:
                    self._stream.download(self._host[name].array, self._device[name])
            self._stream.synchronise()
        except BaseException:
            for array in kept:
                array.close()
            raise
        return (*kept, *(self._host[name].array.copy() for name in OUTPUTS if name not in stay))

    def close(self) -> None:
        """Give everything back; twice is harmless."""
        if self._graph is not None:
            self._graph.close()
            self._graph = None
        self._context = None
        while self._owned:
            self._owned.pop().close()

    def _take(self, frames: Any) -> None:
        """Queue the copy of the frames into this lane's own buffer."""
        interface = getattr(frames, "__cuda_array_interface__", None)
        if interface is None:
            np.copyto(self._host["frames"].array, frames)
            self._stream.upload(self._device["frames"], self._host["frames"].array)
            return
        address = self._check(interface)
        if interface.get("stream") is not None:
            # The frame may still be on its way on its producer's stream (1 stands for the default stream).
            self._stream.wait_for(int(interface["stream"]))
        self._stream.copy(self._device["frames"], address)

    def _pass(self, state: GateState, bias: np.ndarray) -> None:
        """Queue what changed of the gate, the biases and the network."""
        if state is not self._seen:
            # On this lane's stream, before its next pass: a frame sees prototypes and whitening of one moment.
            for name, value in (("prototypes", state.prototypes), ("whitening", state.whitening)):
                np.copyto(self._host[name].array, value)
                self._stream.upload(self._device[name], self._host[name].array)
            self._seen = state
        np.copyto(self._host["gate_bias"].array, bias)
        self._stream.upload(self._device["gate_bias"], self._host["gate_bias"].array)
        if self._graph is not None:
            self._stream.launch(self._graph)
            return
        self._enqueue()
        self._runs += 1
        if self._runs >= _WARM_UP and self._may_capture:
            # The first passes may still load kernels and reserve memory, which a capture does not allow.
            self._stream.synchronise()
            self._graph = self._captured()

    def _captured(self) -> Graph | None:
        """The network as a graph, or nothing, for good: each pass is then queued anew, as this one already was."""
        try:
            return self._stream.capture(self._enqueue)
        except BackendError as error:
            self._may_capture = False
            _LOG.warning("frames go on without a CUDA graph, a little slower: %s", error)
            return None

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.address):
            raise BackendError("TensorRT could not queue the network; see the log of mile_edge.tensorrt for its reason")

    def _check(self, interface: dict[str, Any]) -> int:
        target = self._device["frames"]
        shape, kind = tuple(interface["shape"]), np.dtype(interface["typestr"])
        if shape != target.shape or kind != target.dtype:
            raise BackendError(f"device frames are {shape} {kind}, expected {target.shape} {target.dtype}")
        strides = interface.get("strides")
        if strides is not None and tuple(strides) != np.empty((0, *shape[1:]), kind).strides:
            raise BackendError(f"device frames have strides {tuple(strides)}; give a C-contiguous array")
        return int(interface["data"][0])

    def _buffer(self, engine: Any, name: str, state: GateState, batch: int) -> DeviceArray:
        shape = tuple(engine.get_tensor_shape(name))
        rows = len(state.names)
        # What is open in the engine is the batch, except that `distance` may have both of its sides open.
        fixed = tuple(rows if size < 0 and place else batch if size < 0 else size for place, size in enumerate(shape))
        return self._own(DeviceArray(fixed, np.dtype(_numpy_name(engine.get_tensor_dtype(name).name))))

    def _own(self, owner: Any) -> Any:
        self._owned.append(owner)
        return owner


def _context(api: Api, engine: Any) -> Any:
    if api.is_rtx:
        config = engine.create_runtime_config()
        # Kernels for this very shape, finished before the first pass: nothing is left to do inside a captured graph.
        strategy = api.module.DynamicShapesKernelSpecializationStrategy.EAGER
        config.dynamic_shapes_kernel_specialization_strategy = strategy
        context = engine.create_execution_context(config)
    else:
        context = engine.create_execution_context()
    if context is None:
        raise BackendError("TensorRT has no memory left for another stream of frames; use fewer or smaller batches")
    return context


def _names(engine: Any) -> list[str]:
    return [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]


def _numpy_name(tensorrt_name: str) -> str:
    return {"FLOAT": "float32", "HALF": "float16", "UINT8": "uint8", "INT32": "int32", "INT64": "int64"}[tensorrt_name]
