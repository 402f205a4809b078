"""The one thread on which frames are decoded, batched, segmented and handed on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mile_edge.errors import MileError, SensorError
from mile_edge.runtime import Segmenter
from mile_edge.runtime.resize import resize_frames, restore
from mile_edge_node.latest import Arrival, LatestFrames
from mile_edge_node.sensor import Sensor


@dataclass(frozen=True)
class Masked:
    """What became of one message.

    Attributes:
        sensor: whose frame it was.
        message: as it came in; its header belongs to all that is made of it.
        frame: (H, W, 3) uint8, at the sensor's size or at the network's, as the mask.
        mask: (H, W) uint8.
        confidence: (H, W) uint8.
        expert: name of the expert.
        expert_id: its row of the bank.
        distance: to its nearest prototype.
        novel: as the bundle's threshold has it.
        batch: frames that shared the pass.
        received: seconds, monotonic, when the message came in.
        timings: milliseconds of wait, decode, resize, network, restore.
        decode_cpu: processor milliseconds of decode.
        resize_cpu: processor milliseconds of resize and restore.
    """

    sensor: str
    message: Any
    frame: np.ndarray
    mask: np.ndarray
    confidence: np.ndarray
    expert: str
    expert_id: int
    distance: float
    novel: bool
    batch: int
    received: float
    timings: Mapping[str, float]
    decode_cpu: float
    resize_cpu: float


class Worker:
    """Takes the newest frames, batches what is waiting, and hands on what comes out.

    Args:
        segmenter: open.
        sensors: by name.
        queue: where subscriptions put their messages.
        masked: called on the worker's thread for every frame that became a mask.
        refused: called for every message that did not, with its sensor's name and the reason.

    Attributes:
        max_batch: frames that may share a pass; may be set any time.
        at_network_size: leave masks at the network's size; may be set any time.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        sensors: Mapping[str, Sensor],
        queue: LatestFrames,
        masked: Callable[[Masked], None],
        refused: Callable[[str, str], None],
    ) -> None:
        self.max_batch = 4
        self.at_network_size = False
        self._segmenter, self._sensors, self._queue = segmenter, sensors, queue
        self._masked, self._refused = masked, refused
        self._thread = threading.Thread(target=self._run, name="mile_edge worker", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the pass in flight and end; the queue is closed with it."""
        self._queue.close()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while arrivals := self._queue.take(self.max_batch):
            try:
                self._pass(arrivals)
            except Exception as problem:  # the thread must outlive whatever a message or a backend does
                reason = str(problem) if isinstance(problem, MileError) else f"{type(problem).__name__}: {problem}"
                for arrival in arrivals:
                    self._refused(arrival.sensor, reason)

    def _pass(self, arrivals: list[Arrival]) -> None:
        network = self._segmenter.manifest.network
        size = network.height, network.width
        started = time.monotonic()
        taken: list[tuple[Arrival, np.ndarray, dict[str, float], tuple[float, float]]] = []
        inputs: list[np.ndarray] = []
        for arrival in arrivals:
            began, cpu = time.monotonic(), time.thread_time()
            try:
                frame = self._sensors[arrival.sensor].to_frame(arrival.message)
            except SensorError as problem:
                self._refused(arrival.sensor, str(problem))
                continue
            decoded, decode_cpu = time.monotonic(), time.thread_time() - cpu
            inputs.append(resize_frames(frame[None], size))
            timings = {
                "wait": began - arrival.received,
                "decode": decoded - began,
                "resize": time.monotonic() - decoded,
            }
            shown = inputs[-1][0] if self.at_network_size else frame
            taken.append((arrival, shown, timings, (decode_cpu, time.thread_time() - cpu - decode_cpu)))
        if not taken:
            return
        batch = inputs[0] if len(inputs) == 1 else np.concatenate(inputs)
        began = time.monotonic()
        result = self._segmenter(batch, streams=[arrival.sensor for arrival, *_ in taken])
        spent = time.monotonic() - began
        for index, (arrival, frame, timings, (decode_cpu, resize_cpu)) in enumerate(taken):
            began, cpu = time.monotonic(), time.thread_time()
            place, shape = slice(index, index + 1), frame.shape[:2]
            mask, confidence = restore(result.mask[place], shape)[0], restore(result.confidence[place], shape)[0]
            timings |= {"network": spent, "restore": time.monotonic() - began}
            row = int(result.expert_index[index])
            self._masked(
                Masked(
                    arrival.sensor,
                    arrival.message,
                    frame,
                    mask,
                    confidence,
                    result.expert[index],
                    row,
                    float(result.distance[index, row]),
                    bool(result.novel[index]),
                    len(taken),
                    arrival.received,
                    {stage: seconds * 1e3 for stage, seconds in timings.items()},
                    decode_cpu * 1e3,
                    (resize_cpu + time.thread_time() - cpu) * 1e3,
                )
            )
        self._queue.passed(time.monotonic() - started - spent)
