"""How old the newest frame is when its mask is out, at a camera that is faster than the network."""

from __future__ import annotations

import os
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
        waited, sent = waits_for_processor(at.robot.process.pid), []
        punctual = is_punctual()
        due = began = time.monotonic()
        while time.monotonic() < began + seconds + 1.0:
            now = time.time_ns()
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(now, 10**9)
            at.camera.publish(message)
            sent.append(now)
            due += 1 / rate
            time.sleep(max(0.0, due - time.monotonic()))
        waited = waits_for_processor(at.robot.process.pid) - waited
        messages = [each for each in status.messages if stamp_of(each) < sent[0] + seconds * 1e9]
    period, gaps = 1e3 / rate, np.diff(sent) * 1e-6
    gap = {stamp: float(after) for stamp, after in zip(sent, gaps, strict=False)}
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
        "late_while_the_camera_kept_its_period": sum(
            gap[stamp_of(each)] < period + 1.0 for each, too_late in zip(messages, late, strict=True) if too_late
        ),
        "node_ready_but_without_processor_percent": 100 * waited / (seconds + 1.0),
    }


def is_punctual() -> bool:
    """Give this thread real-time priority, where that is allowed: a camera's clock does not wait for the machine."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except OSError:
        return False
    return True


def waits_for_processor(pid: int) -> float:
    """Seconds that a process's threads were ready to run and the machine gave them no processor."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[1]) for task in tasks) * 1e-9
