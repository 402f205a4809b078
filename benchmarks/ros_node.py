"""Figures of the robot node over real DDS on loopback.

    bash ros2_ws/test.sh --bench [--frames 10000] [--out FILE]

Two processes: the node, and this one as camera and listener. Prints a table with the machine's load and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from harness import REFERENCE, RELIABLE, Bench, eventually, image, settle, stamp_of, until_flowing
from mile_edge_interfaces.msg import Status
from ros_age import newest_age
from ros_setting import Setting, picture
from sensor_msgs.msg import Image

VGA = (480, 640)


def overhead(bundle: Path, frames: int) -> dict[str, Any]:
    """One frame at a time, so that nothing waits: what the node adds to the network's own time."""
    with Setting("overhead", bundle) as at:
        status, mask = at.bench.listen("camera/status", Status), at.bench.listen("camera/mask", Image)
        confidence = at.bench.listen("camera/confidence", Image)
        mask.keep = confidence.keep = False
        message = image(picture(VGA), "rgb8", 0)
        until_flowing(at.camera, message, status)
        settle(at.camera, message, status)
        status.messages.clear()
        count = status.count
        for number in range(frames):
            message.header.stamp.sec = number
            at.camera.publish(message)
            eventually(lambda: status.count >= count + number + 1, "a mask")  # noqa: B023
        processing = np.array([each.overhead_cpu_ms for each in status.messages])
        resizing_cpu = np.array([each.resize_cpu_ms for each in status.messages])
        parts = {stage: [getattr(each, f"{stage}_ms") for each in status.messages] for stage in STAGES}
    beyond = np.array(parts["total"]) - parts["network"]
    resizing = np.array(parts["resize"]) + parts["restore"]
    return {
        "frames": frames,
        "overhead_cpu_p50_ms": float(np.percentile(processing, 50)),
        "overhead_cpu_p95_ms": float(np.percentile(processing, 95)),
        "with_resizing_cpu_p50_ms": float(np.percentile(processing + resizing_cpu, 50)),
        "with_resizing_cpu_p95_ms": float(np.percentile(processing + resizing_cpu, 95)),
        "overhead_p50_ms": float(np.percentile(beyond, 50)),
        "overhead_p95_ms": float(np.percentile(beyond, 95)),
        "without_resizing_p95_ms": float(np.percentile(beyond - resizing, 95)),
        **{f"{stage}_p50_ms": float(np.percentile(values, 50)) for stage, values in parts.items()},
    }


STAGES = ("wait", "decode", "resize", "network", "restore", "publish", "total")


def headers_and_memory(bundle: Path, frames: int) -> dict[str, Any]:
    """Many masks: stamps and frame ids against what was sent, memory after 500 and at the end."""
    with Setting("headers", bundle) as at:
        wrong, seen, memory = 0, 0, {}
        sent: dict[int, str] = {}
        done = threading.Semaphore(0)

        def check(message: Image) -> None:
            nonlocal wrong, seen
            seen += 1
            wrong += sent.get(stamp_of(message)) != message.header.frame_id
            done.release()

        at.bench.node.create_subscription(Image, "mile_edge/camera/mask", check, RELIABLE)
        message = image(picture((120, 160)), "rgb8", 0)
        sent[0] = "camera"
        while not seen:
            at.camera.publish(message)
            time.sleep(0.2)
        time.sleep(1.0)
        while done.acquire(blocking=False):
            pass
        wrong = seen = 0
        for number in range(frames):
            stamp = 1_700_000_000_000_000_000 + number * 33_333_333
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
            message.header.frame_id = sent[stamp] = f"frame_{number}"
            at.camera.publish(message)
            if not done.acquire(timeout=20):
                raise AssertionError(f"no mask for frame {number}: {at.robot.said[-500:]}")
            if number + 1 in (500, frames):
                memory[number + 1] = at.robot.memory
    return {
        "masks": seen,
        "wrong_headers": wrong,
        "memory_500_mib": memory[500] / 2**20,
        "memory_end_mib": memory[frames] / 2**20,
        "memory_growth_percent": 100 * (memory[frames] / memory[500] - 1),
    }


def lost_while_adding(bundle: Path, rounds: int) -> dict[str, Any]:
    """Experts come and go under load: every frame is a mask or is counted as dropped."""
    own = Path(tempfile.mkdtemp(prefix="mile_edge_bench_")) / "bundle"
    shutil.copytree(bundle, own)
    expert = next(own.glob("experts/fog-*.safetensors"))
    with Setting("adding", own) as at:
        status = at.bench.listen("camera/status", Status)
        message = image(picture((240, 320)), "rgb8", 0)
        until_flowing(at.camera, message, status)
        first, stop, sent = settle(at.camera, message, status), threading.Event(), 0
        status.messages.clear()

        def play() -> None:
            nonlocal sent
            while not stop.wait(0.1):
                sent += 1
                message.header.stamp.sec = sent
                at.camera.publish(message)

        player = threading.Thread(target=play)
        player.start()
        for _ in range(rounds):
            answer = at.bench.ask("add_expert", path=str(expert), name="guest")
            assert answer.success, answer.message
            assert at.bench.ask("remove_expert", name="guest").success
        stop.set()
        player.join()
        eventually(lambda: status.messages and status.messages[-1].header.stamp.sec == sent, "the last frame")
        last = status.messages[-1]
    shutil.rmtree(own.parent, ignore_errors=True)
    published, dropped = last.published - first.published, last.dropped - first.dropped
    return {
        "added": rounds,
        "sent": sent,
        "published": published,
        "dropped": dropped,
        "lost": sent - published - dropped,
    }


def first_mask(bundle: Path, rounds: int) -> dict[str, Any]:
    """`ros2 launch` to the first mask at a camera of 30 Hz."""
    spent = []
    for number in range(rounds):
        bench = Bench(f"/launch{number}")
        mask, camera = bench.listen("camera/mask", Image), bench.camera("image")
        message = image(picture((240, 320)), "rgb8", 0)
        words = [
            "ros2",
            "launch",
            "mile_edge",
            "segment.launch.py",
            f"bundle:={bundle}",
            f"camera:=/launch{number}/image",
        ]
        began = time.monotonic()
        process = subprocess.Popen(
            [*words, f"namespace:=/launch{number}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while not mask.count and time.monotonic() < began + 120:
            camera.publish(message)
            time.sleep(1 / 30)
        spent.append(mask.times[0] - began)
        os.killpg(process.pid, 2)
        process.wait(30)
        bench.close()
    return {"launches": rounds, "median_s": float(np.median(spent)), "worst_s": max(spent)}


def main() -> int:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=REFERENCE, help="bundle folder (default bundles/reference)")
    parser.add_argument("--frames", type=int, default=10_000, help="masks for headers and memory (default 10000)")
    parser.add_argument("--only", nargs="*", help="overhead, headers, age, adding, launch (default all)")
    parser.add_argument("--out", type=Path, default=Path("out/bench-ros.json"), help="JSON file")
    args = parser.parse_args()
    bundle = args.bundle.absolute()
    parts = {
        "overhead": lambda: overhead(bundle, min(300, args.frames)),
        "headers": lambda: headers_and_memory(bundle, args.frames),
        "age": lambda: newest_age(bundle, 20.0),
        "adding": lambda: lost_while_adding(bundle, max(5, min(200, args.frames // 50))),
        "launch": lambda: first_mask(bundle, 5),
    }
    found: dict[str, Any] = {}
    for name, measure in parts.items():
        if args.only and name not in args.only:
            continue
        load = os.getloadavg()[0]
        found[name] = {**measure(), "load_before": load, "load_after": os.getloadavg()[0]}
        print(f"\n{name}")
        for key, value in found[name].items():
            print(f"  {key:>42}: {value:.2f}" if isinstance(value, float) else f"  {key:>42}: {value}")
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
