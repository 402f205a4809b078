"""How old the newest frame is when its mask is out, at a camera that is faster than the network."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from harness import image, settle, stamp_of, until_flowing
from mile_edge_interfaces.msg import Status
from ros_setting import Setting, picture


def newest_age(bundle: Path, seconds: float, rate: float = 60.0) -> dict[str, Any]:
    """A camera faster than the network: how old the newest frame is when its mask is out.

    The age counts from the moment before the camera hands its frame to DDS, which its stamp is, and once more from its
    arrival in the node. The camera goes on after the masks that count: the last frame of a camera that stops has no
    successor, and waits for a whole pass.
    """
    with Setting("age", bundle, threads=1) as at:
        status = at.bench.listen("camera/status", Status)
        message = image(picture((240, 320)), "rgb8", 0)
        until_flowing(at.camera, message, status)
        settle(at.camera, message, status)
        status.messages.clear()
        waits, sent = ProcessorWaits(at.robot.process.pid), []
        punctual = is_punctual()
        due = began = time.monotonic()
        while time.monotonic() < began + seconds + 1.0:
            now = time.time_ns()
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(now, 10**9)
            at.camera.publish(message)
            sent.append(now)
            due += 1 / rate
            time.sleep(max(0.0, due - time.monotonic()))
        waits.stop()
        messages = [each for each in status.messages if stamp_of(each) < sent[0] + seconds * 1e9]
    period, gaps = 1e3 / rate, np.diff(sent) * 1e-6
    network, age, total = (
        np.array([getattr(each, f"{part}_ms") for each in messages]) for part in ("network", "age", "total")
    )
    late = age > network + period
    return {
        "camera_hz": rate,
        "camera_at_real_time_priority": punctual,
        "camera_period_p99_ms": float(np.percentile(gaps, 99)),
        "camera_period_worst_ms": float(gaps.max()),
        "masks": len(messages),
        "dropped": messages[-1].dropped - messages[0].dropped,
        "inference_p50_ms": float(np.median(network)),
        "age_p50_ms": float(np.median(age)),
        "age_p95_ms": float(np.percentile(age, 95)),
        "beyond_inference_p50_ms": float(np.median(age - network)),
        "beyond_inference_p99_ms": float(np.percentile(age - network, 99)),
        "beyond_inference_worst_ms": float((age - network).max()),
        "later_than_inference_and_period_percent": float(100 * late.mean()),
        "the_same_from_arrival_in_the_node_percent": float(100 * (total > network + period).mean()),
        "late_in_all": int(late.sum()),
        "late_though_the_node_had_a_processor": sum(
            each.age_ms - each.network_ms - period
            > without_processor(each, before, waits) + 1e-6 * max(0, gap_after(sent, each) - period * 1e6)
            for each, before, too_late in zip(messages, [None, *messages[:-1]], late, strict=True)
            if too_late
        ),
        "node_ready_but_without_processor_percent": 100 * waits.total / (seconds + 1.0),
    }


def is_punctual() -> bool:
    """Give this thread real-time priority, where that is allowed: a camera's clock does not wait for the machine."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except OSError:
        return False
    return True


def gap_after(sent: list[int], each: Status) -> int:
    """Nanoseconds from a frame to the camera's next one."""
    place = sent.index(stamp_of(each))
    return sent[place + 1] - sent[place]


class ProcessorWaits:
    """For how long each thread of a process was ready to run while the machine gave it no processor, sampled.

    Args:
        pid: of the process; threads that begin later are not seen.
    """

    def __init__(self, pid: int, every: float = 0.004) -> None:
        self._files = [os.open(task / "schedstat", os.O_RDONLY) for task in Path(f"/proc/{pid}/task").iterdir()]
        self._every, self._times, self._rows = every, [time.time_ns()], [self._read()]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End; `between` may be asked then."""
        self._stop.set()
        self._thread.join()
        for file in self._files:
            os.close(file)
        rows = np.array(self._rows)
        ran = rows[-1, :, 0] - rows[0, :, 0]
        # The network runs on the busiest thread.
        order = np.argsort(-ran)
        self._waited, self._at = rows[:, order, 1], np.array(self._times)

    def between(self, begin: float, end: float) -> tuple[float, float]:
        """Milliseconds that the busiest thread waited between two times (ns), and that the worst other one did."""
        first = max(int(np.searchsorted(self._at, begin, "right")) - 1, 0)
        last = min(int(np.searchsorted(self._at, end)), len(self._at) - 1)
        waited = (self._waited[last] - self._waited[first]) * 1e-6
        return float(waited[0]), float(waited[1:].max())

    @property
    def total(self) -> float:
        """Seconds of all threads together."""
        return float((self._waited[-1] - self._waited[0]).sum() * 1e-9)

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self._rows.append(self._read())
            self._times.append(time.time_ns())

    def _read(self) -> list[list[int]]:
        return [[int(word) for word in os.pread(file, 64, 0).split()[:2]] for file in self._files]


def without_processor(each: Status, before: Status | None, waits: ProcessorWaits) -> float:
    """Milliseconds of a mask's age, beyond the network's, for which the node was ready and the machine was not.

    Of the worker's thread only what lies outside the network's own time, of the others, which receive, all of it.
    """
    published = stamp_of(each) + each.age_ms * 1e6
    ended = published - (each.publish_ms + each.restore_ms) * 1e6
    began, arrived = ended - each.network_ms * 1e6, published - each.total_ms * 1e6
    if before is not None:
        previous = stamp_of(before) + (before.age_ms - before.publish_ms - before.restore_ms) * 1e6
        taken = max(arrived, previous)
    else:
        taken = arrived
    worker = waits.between(taken, began)[0] + waits.between(ended, published)[0]
    return worker + waits.between(stamp_of(each), published)[1]
