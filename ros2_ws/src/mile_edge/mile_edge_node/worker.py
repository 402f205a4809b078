"""The one thread on which frames are decoded, batched, segmented and handed on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mile_edge.errors import MileError, SensorError
from mile_edge.runtime import Segmentation, Segmenter
from mile_edge.runtime.resize import resize_frames, restore
from mile_edge_node.fusing import FusedMask, Moment
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
        novelty: the score that this follows from, 1 at the limit; NaN without calibration.
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
    novelty: float
    batch: int
    received: float
    timings: Mapping[str, float]
    decode_cpu: float
    resize_cpu: float


@dataclass
class _Taken:
    """A frame on its way: timings and processor times in seconds."""

    arrival: Arrival
    frame: np.ndarray
    timings: dict[str, float]
    decode_cpu: float
    resize_cpu: float = 0.0


class Worker:
    """Takes the newest frames, batches what is waiting, and hands on what comes out.

    Args:
        segmenter: open.
        sensors: by name.
        queue: where subscriptions put their messages.
        masked: called on the worker's thread for every frame that became a mask.
        refused: called for every message that did not, with its sensor's name and the reason.
        moment: the sensors that are fused, None for none.
        fused: called on the worker's thread for every fused mask.
        unfused: called with the reason where none came of frames.

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
        moment: Moment | None = None,
        fused: Callable[[FusedMask], None] = lambda _: None,
        unfused: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.max_batch = 4
        self.at_network_size = False
        self._segmenter, self._sensors, self._queue = segmenter, sensors, queue
        self._masked, self._refused = masked, refused
        self._moment, self._fused, self._unfused = moment, fused, unfused
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
        while arrivals := self._queue.take(self._most()):
            try:
                self._pass(arrivals)
            except Exception as problem:  # the thread must outlive whatever a message or a backend does
                reason = str(problem) if isinstance(problem, MileError) else f"{type(problem).__name__}: {problem}"
                for arrival in arrivals:
                    self._refused(arrival.sensor, reason)

    def _most(self) -> int:
        return max(self.max_batch, len(self._moment.names) if self._moment is not None and self._moment.wanted else 0)

    def _pass(self, arrivals: list[Arrival]) -> None:
        started, spent = time.monotonic(), 0.0
        taken = list(filter(None, map(self._decoded, arrivals)))
        if self._moment is not None and self._moment.wanted:
            taken, spent = self._fused_pass(self._moment, taken)
        if taken:
            spent += self._plain_pass(taken)
        self._queue.passed(time.monotonic() - started - spent)

    def _decoded(self, arrival: Arrival) -> _Taken | None:
        began, cpu = time.monotonic(), time.thread_time()
        try:
            frame = self._sensors[arrival.sensor].to_frame(arrival.message)
        except SensorError as problem:
            self._refused(arrival.sensor, str(problem))
            return None
        timings = {"wait": began - arrival.received, "decode": time.monotonic() - began}
        return _Taken(arrival, frame, timings, time.thread_time() - cpu)

    def _plain_pass(self, taken: list[_Taken]) -> float:
        """Segment frames in one pass; seconds that the network took."""
        inputs = []
        for each in taken:
            began, cpu = time.monotonic(), time.thread_time()
            inputs.append(resize_frames(each.frame[None], self._size()))
            each.timings["resize"] = time.monotonic() - began
            each.resize_cpu = time.thread_time() - cpu
            if self.at_network_size:
                each.frame = inputs[-1][0]
        batch = inputs[0] if len(inputs) == 1 else np.concatenate(inputs)
        began = time.monotonic()
        result = self._segmenter(batch, streams=[each.arrival.sensor for each in taken])
        spent = time.monotonic() - began
        for index, each in enumerate(taken):
            began, cpu = time.monotonic(), time.thread_time()
            place, shape = slice(index, index + 1), each.frame.shape[:2]
            mask, confidence = restore(result.mask[place], shape)[0], restore(result.confidence[place], shape)[0]
            each.timings |= {"network": spent, "restore": time.monotonic() - began}
            each.resize_cpu += time.thread_time() - cpu
            self._hand_on(each, mask, confidence, result, index, len(taken))
        return spent

    def _fused_pass(self, moment: Moment, taken: list[_Taken]) -> tuple[list[_Taken], float]:
        """Fuse where that is due; the frames that are still without a mask, and seconds that the network took."""
        for each in taken:
            if each.arrival.sensor in moment.names:
                if self.at_network_size:
                    each.frame = resize_frames(each.frame[None], self._size())[0]
                moment.put(each.arrival.sensor, each.arrival.message, each.frame, each.arrival.received)
        frames = moment.frames()
        if not moment.due({each.arrival.sensor for each in taken}, frames):
            return taken, 0.0
        try:
            fused = self._segmenter.fuse(frames, tolerance_ns=moment.tolerance_ns, like=moment.lead(frames))
        except MileError as problem:
            # Each sensor's own mask comes all the same.
            self._unfused(str(problem))
            return taken, 0.0
        stages = {stage: milliseconds * 1e-3 for stage, milliseconds in fused.timings.items()}
        rest = []
        for each in taken:
            if (result := fused.sensors.get(each.arrival.sensor)) is None:
                rest.append(each)
                continue
            each.timings |= {stage: stages[stage] for stage in ("resize", "network", "restore")}
            self._hand_on(each, result.mask[0], result.confidence[0], result, 0, len(fused.sensors))
        absent = {**fused.absent, **moment.silent(frames)}
        if (message := moment.header_of(fused.stream)) is not None:
            self._fused(FusedMask(message, fused.mask, fused.confidence, fused.weights, absent))
        return rest, stages["network"]

    def _size(self) -> tuple[int, int]:
        network = self._segmenter.manifest.network
        return network.height, network.width

    def _hand_on(
        self, taken: _Taken, mask: np.ndarray, confidence: np.ndarray, result: Segmentation, index: int, batch: int
    ) -> None:
        row = int(result.expert_index[index])
        self._masked(
            Masked(
                taken.arrival.sensor,
                taken.arrival.message,
                taken.frame,
                mask,
                confidence,
                result.expert[index],
                row,
                float(result.distance[index, row]),
                bool(result.novel[index]),
                float(result.novelty[index]),
                batch,
                taken.arrival.received,
                {stage: seconds * 1e3 for stage, seconds in taken.timings.items()},
                taken.decode_cpu * 1e3,
                taken.resize_cpu * 1e3,
            )
        )
