"""Frames in, masks out: one pass gates, applies an expert and segments."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import numpy as np

from mile_edge.bundle import Bundle, ClassLabel, Manifest
from mile_edge.errors import BackendError, SensorError
from mile_edge.runtime.backends import device_batch, make_backend
from mile_edge.runtime.bank import Bank, GateState
from mile_edge.runtime.expert_changes import CLOSED, ExpertChanges
from mile_edge.runtime.fusing import SensorFusion
from mile_edge.runtime.mixture import expert_weights
from mile_edge.runtime.resize import resize_frames, restore
from mile_edge.runtime.routing import StreamRouting
from mile_edge.runtime.segmentation import Segmentation, stage_times


class Segmenter(StreamRouting, SensorFusion, ExpertChanges):
    """A bundle at work. Calls may come from several threads; experts come and go between frames.

    Open one with :meth:`open`, call it with frames, close it or use it as a context manager.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        hysteresis: float | None = None,
        backend: str = "onnx",
        engine: str | os.PathLike[str] | None = None,
        fallback: str | None = None,
        shadow: bool = True,
    ) -> None:
        self._bundle = bundle
        self._open_routing(bundle.manifest.gate, hysteresis, fallback)
        self._bank = Bank(bundle)
        self._open_fusion(bundle)
        self._backend = make_backend(backend, bundle, self._bank.rows, threads, engine)
        self._change = threading.Lock()
        self._idle = threading.Condition()
        self._in_flight: dict[int, GateState] = {}
        self._closed = False
        self._open_changes(bundle, shadow)

    @classmethod
    def open(
        cls,
        bundle: str | os.PathLike[str],
        *,
        threads: int | None = None,
        hysteresis: float | None = None,
        backend: str = "onnx",
        engine: str | os.PathLike[str] | None = None,
        fallback: str | None = None,
        shadow: bool = True,
    ) -> Segmenter:
        """Load a bundle folder.

        Args:
            bundle: the folder.
            threads: of one pass; as many as the process may use where it is missing.
            hysteresis: by how much another expert's distance must be smaller before a stream changes to it; the
                bundle's calibrated margin where it is missing, also as it is calibrated later.
            backend: "onnx" for ONNX Runtime, "tensorrt" or "tensorrt-rtx" for the engine of ``mile-edge build``.
            engine: the engine file; ``BUNDLE/engines/BACKEND.engine`` where it is missing.
            fallback: what serves the next frames of a stream that is novel: its ``nearest`` expert, the ``base``, or
                the gate's usual ``mix`` of experts where it mixes; mix, or else nearest, where it is missing.
            shadow: run the expert that the bundle has in shadow, which changes the bundle at its end; False for
                measurements, which leave the bundle and their own times as they are.

        Raises:
            BundleError: the folder is no bundle, or is damaged.
            ExpertError: the gate cannot follow that fallback.
            BackendError: the backend is missing, refuses the graph, or has no engine that fits.
        """
        return cls(
            Bundle.open(bundle),
            threads=threads,
            hysteresis=hysteresis,
            backend=backend,
            engine=engine,
            fallback=fallback,
            shadow=shadow,
        )

    @property
    def manifest(self) -> Manifest:
        """The bundle as the next frame sees it."""
        return self._bank.state.manifest

    @property
    def bundle(self) -> Bundle:
        """The bundle on disk, as of the last change through this segmenter."""
        return self._bundle

    @property
    def rows(self) -> Mapping[str, int]:
        """Row of the bank, and so place in ``distance``, of each loaded expert."""
        return self._bank.state.rows

    @property
    def classes(self) -> tuple[ClassLabel, ...]:
        """Label space of the masks; class id = place."""
        return self.manifest.classes

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of the loaded experts, the base first."""
        return tuple(entry.name for entry in self.manifest.experts)

    def __call__(
        self,
        frames: Any,
        sensor: str | None = None,
        stream: Hashable = None,
        only: Sequence[str] | None = None,
        on_device: bool = False,
        streams: Sequence[Hashable] | None = None,
    ) -> Segmentation:
        """Segment a batch of frames, each under the expert that the gate chooses for it.

        Args:
            frames: (H, W, 3) or (B, H, W, 3) uint8, of any size. With a TensorRT backend also an array of that device
                (``__cuda_array_interface__``: PyCUDA, CuPy, torch), (B, H, W, 3) at the network's size, which is
                taken without a copy through the host.
            sensor: kind of the sensor, the stream's key where ``stream`` is missing; the gate itself needs no telling.
            stream: whose frames these are, for hysteresis and pins; for example a topic.
            only: names of the experts that may be chosen, to restrict a sensor to some; all where it is missing.
            on_device: leave mask and confidence on the device, at the network's size; TensorRT backends only.
            streams: one stream per frame, in place of ``stream``, for a batch of several sensors.

        Raises:
            SensorError: the array is no batch of uint8 frames, or ``streams`` has another length.
            ExpertError: a name in ``only`` is not loaded, or it is empty.
            BackendError: the pass failed, or the segmenter is closed.
        """
        started = time.perf_counter()
        stream = sensor if stream is None else stream
        with self._frame() as state:
            network = (state.manifest.network.height, state.manifest.network.width)
            if hasattr(frames, "__cuda_array_interface__"):
                resized, (count, height, width) = frames, device_batch(frames, network)
            else:
                frames = _batch(frames)
                resized, (count, height, width) = resize_frames(frames, network), frames.shape[:3]
            ready = time.perf_counter()
            owners = [stream] * count if streams is None else list(streams)
            if len(owners) != count:
                raise SensorError(f"{len(owners)} streams were given for {count} frames; give one per frame")
            biases = {owner: self._bias(state, owner, only) for owner in dict.fromkeys(owners)}
            bias = np.stack([biases[owner] for owner in owners])
            mask, confidence, index, distance = self._backend.run(resized, state, bias, on_device)
        passed = time.perf_counter()
        self._compare(state, resized, mask, owners, dict.fromkeys(owners, only))
        if not on_device:
            mask, confidence = restore(mask, (height, width)), restore(confidence, (height, width))
        timings = stage_times(started, ready, passed)
        return self._answer(state, owners, bias, (mask, confidence, index, distance), timings)

    def forget(self) -> None:
        """Begin anew with every stream, as between two recordings: no hysteresis and no smoothed novelty; pins stay."""
        self._last.clear()
        self._far.clear()
        self.novelty.forget()

    def close(self) -> None:
        """Wait for frames in flight, take no more, and give back what the backend holds; twice is harmless."""
        self._shadow.close()
        with self._idle:
            self._closed = True
            self._idle.wait_for(lambda: not self._in_flight)
        with self._change:
            self._backend.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(
        self,
        state: GateState,
        owners: Sequence[Hashable],
        bias: np.ndarray,
        parts: Sequence[Any],
        timings: dict[str, float],
    ) -> Segmentation:
        mask, confidence, index, distance = parts
        names = tuple(str(state.names[row]) for row in index)
        self._served(state, owners, names, distance)
        verdict = self.novelty.judge(state.novelty, distance, owners)
        return Segmentation(
            mask,
            confidence,
            names,
            index,
            distance,
            expert_weights(distance, bias, index, state.manifest.gate),
            verdict.novel,
            verdict.stream,
            verdict.frame,
            timings,
        )

    def _compare(
        self,
        state: GateState,
        frames: Any,
        masks: Any,
        owners: Sequence[Hashable],
        only: Mapping[Any, Sequence[str] | None],
    ) -> None:
        """Offer a batch at the network's size to the shadow run, if one goes on, before its answer is remembered."""
        if self._shadow.goes_on:
            # A novel stream's fallback is no restriction: the gate would have been asked.
            bias = [self._bias(state, owner, only.get(owner), fallback=False) for owner in owners]
            self._shadow.offer(frames, masks, np.stack(bias))

    @contextmanager
    def _frame(self) -> Iterator[GateState]:
        """Hold the state of this moment: as long as a frame is in flight, no row that it may read is written."""
        ticket = object()
        with self._idle:
            if self._closed:
                raise BackendError(CLOSED)
            state = self._bank.state
            self._in_flight[id(ticket)] = state
        try:
            yield state
        finally:
            with self._idle:
                del self._in_flight[id(ticket)]
                self._idle.notify_all()


def _batch(frames: Any) -> np.ndarray:
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
        kind = "None" if frames is None else getattr(frames, "dtype", type(frames).__name__)
        raise SensorError(f"frames are {kind}, expected a uint8 array; map the sensor's values by its profile first")
    if frames.ndim == 3:
        frames = frames[None]
    if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise SensorError(f"frames have shape {frames.shape}, expected (H, W, 3) or (B, H, W, 3) and nothing empty")
    return frames
