"""TensorRT behind the segmenter: one bank on the device, lanes of streams and contexts, one graph launch per frame.

A lane is one execution context for one batch size with its own stream, buffers and captured CUDA graph, so that frames
of several sensors run side by side. All lanes read the same bank: an expert that is added is one row copied on a stream
of its own, published to the gate only when the copy is over. Addresses never change, so no graph is ever captured anew.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mile_edge.bundle import Bundle
from mile_edge.bundle.files import named
from mile_edge.errors import BackendError
from mile_edge.runtime.bank import GateState
from mile_edge.runtime.tensorrt import plugin
from mile_edge.runtime.tensorrt.api import Api, find_api, logger_for
from mile_edge.runtime.tensorrt.device import DeviceArray, Stream, find_device
from mile_edge.runtime.tensorrt.lane import Lane
from mile_edge.runtime.tensorrt.manifest import EngineManifest, check_engine, engine_path

PLUGIN_VARIABLE = "MILE_EDGE_PLUGIN"


class TensorRTBackend:
    """An engine with the bank resident on the device.

    Args:
        bundle: whose engine it is.
        bank: (E, P) rows in host memory; :meth:`write_row` brings one to the device.
        backend: "tensorrt" or "tensorrt-rtx".
        engine: its file; ``BUNDLE/engines/BACKEND.engine`` where missing.
        lanes: frames that may be on the device at once, per batch size.

    Raises:
        BackendError: no such TensorRT, no device, no engine, an engine that does not fit or is cut short, or no memory.
    """

    def __init__(
        self, bundle: Bundle, bank: np.ndarray, backend: str, engine: Path | None = None, lanes: int = 2
    ) -> None:
        api = find_api(backend)
        path = engine or engine_path(bundle, backend)
        manifest, data = read_engine(path, bundle, api)
        device = find_device()
        self._max_batch = manifest.max_batch
        self._api = api
        # Order matters at the end: contexts before the engine, the engine before its runtime and logger.
        self._logger, first_error = logger_for(api)
        plugin_sha = _load_plugin(api, self._logger) if manifest.plugin_sha256 else None
        check_engine(manifest, bundle, api, device, plugin_sha)
        self._runtime = api.module.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise BackendError(
                f"{api.name} {api.version} cannot load {named(path)} ({first_error() or 'no reason given'}); "
                f"build it again: mile-edge build {bundle.path} --backend {api.name}"
            )
        self._bank = bank
        self._lanes = _Lanes(lanes)
        self._upload = Stream()
        self._uploading = threading.Lock()
        try:
            self._device_bank = DeviceArray(bank.shape, bank.dtype)
            self._upload.upload(self._device_bank, bank)
            self._upload.synchronise()
        except BaseException:
            self.close()
            raise

    def write_row(self, row: int) -> None:
        """Copy one row of the host's bank to the device; returns when it is there, and frames go on meanwhile.

        Raises:
            BackendError: the device refused.
        """
        with self._uploading:
            self._upload.upload(self._device_bank, self._bank[row], row * self._bank.strides[0])
            self._upload.synchronise()

    def run(self, frames: Any, state: GateState, bias: np.ndarray, on_device: bool = False) -> tuple[Any, ...]:
        """One pass; as :meth:`mile_edge.runtime.onnx_backend.OnnxBackend.run`.

        Args:
            frames: (B, H, W, 3) uint8, NumPy or with ``__cuda_array_interface__``.
            on_device: leave mask and confidence on the device, as arrays with ``__cuda_array_interface__``.

        Raises:
            BackendError: the batch is larger than the engine's, or the device failed.
        """
        if len(bias) > self._max_batch:
            raise BackendError(
                f"a batch of {len(bias)} frames does not fit this engine; give at most {self._max_batch}, or build it "
                f"with --max-batch {len(bias)}"
            )
        if self._engine is None:
            raise BackendError("the segmenter is closed; open the bundle again")
        make = partial(Lane, self._api, self._engine, self._device_bank, state, len(bias))
        with self._lanes.borrowed(len(bias), make) as lane:
            return lane.run(frames, state, bias, on_device)

    def fuse(
        self, frames: np.ndarray, state: GateState, bias: np.ndarray, group: np.ndarray, vector: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """Refused: an engine is built of the graph without fusion.

        Raises:
            BackendError: always.
        """
        raise BackendError("fusing sensors runs in ONNX Runtime only so far; open the bundle with backend='onnx'")

    def close(self) -> None:
        """Give back everything on the device; twice is harmless. No frame may be in flight."""
        self._lanes.close()
        if hasattr(self, "_device_bank"):
            self._device_bank.close()
        self._upload.close()
        self._engine = self._runtime = None


class _Lanes:
    """Lanes by batch size, each used by one thread at a time, at most ``limit`` per size."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._free: dict[int, list[Lane]] = {}
        self._count: dict[int, int] = {}
        self._changed = threading.Condition()

    @contextmanager
    def borrowed(self, batch: int, make: Callable[[], Lane]) -> Iterator[Lane]:
        """A free lane, or a new one where none is free and the limit allows; waits otherwise."""
        with self._changed:
            self._changed.wait_for(lambda: self._free.get(batch) or self._count.get(batch, 0) < self._limit)
            free = self._free.setdefault(batch, [])
            lane = free.pop() if free else None
            if lane is None:
                self._count[batch] = self._count.get(batch, 0) + 1
        try:
            # Outside the lock: making one takes long, and other sensors' frames go on meanwhile.
            lane = lane or make()
            yield lane
        finally:
            with self._changed:
                if lane is None:
                    self._count[batch] -= 1
                else:
                    self._free[batch].append(lane)
                self._changed.notify_all()

    def close(self) -> None:
        """Close the lanes that are free, which is all of them when no frame is in flight."""
        with self._changed:
            for lane in (lane for lanes in self._free.values() for lane in lanes):
                lane.close()
            self._free, self._count = {}, {}


def _load_plugin(api: Api, logger: Any) -> str | None:
    """Load the library that ``MILE_EDGE_PLUGIN`` names; its SHA-256."""
    library = os.environ.get(PLUGIN_VARIABLE)
    if not library:
        raise BackendError(f"the engine needs the low-rank plugin; set {PLUGIN_VARIABLE} to libmile_low_rank.so")
    plugin.load(api, Path(library), logger)
    return plugin.needed_later(Path(library))


def read_engine(path: Path, bundle: Bundle, api: Api) -> tuple[EngineManifest, bytes]:
    """An engine's manifest and bytes, compared with the bundle and with each other; needs no device.

    Raises:
        BackendError: the engine is missing, does not fit, or is not the one its manifest describes.
    """
    command = f"mile-edge build {bundle.path} --backend {api.name}"
    if not path.is_file():
        raise BackendError(f"{named(path)} does not exist; build the engine: {command}")
    manifest = EngineManifest.read(path, bundle.path)
    check_engine(manifest, bundle, api, None, manifest.plugin_sha256)
    size = path.stat().st_size
    if size != manifest.engine_bytes:
        raise BackendError(
            f"engine {named(path)} has {size} bytes of {manifest.engine_bytes}; build it again: {command}"
        )
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != manifest.engine_sha256:
        raise BackendError(f"engine {named(path)} is damaged, its SHA-256 differs; build it again: {command}")
    return manifest, data
