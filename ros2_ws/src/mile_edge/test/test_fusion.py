"""The fused mask over DDS: the library's own, with one sensor's header, and sensors that die and come back."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import Image
from vision_msgs.msg import LabelInfo

from harness import CONFIGURE, LATCHED, REFERENCE, Bench, Robot, eventually, image, pixels_of, stamp_of
from mile_edge.data.sensors import DEFAULT_PROFILES
from mile_edge.runtime import Segmenter, SensorFrame

Start = Callable[..., Robot]
Frames = dict[str, np.ndarray]
GIVEN = os.environ.get("MILE_EDGE_FUSING_BUNDLE", "")
WORKSHOP = os.environ.get("MILE_EDGE_WORKSHOP_PYTHON", "")
MAKE = "import sys; from mile_edge.bundle import Bundle; from mile_edge.export.fusion import give_fusion; "
MAKE += "give_fusion(Bundle.open(sys.argv[1]), 'uniform')"
SENSORS = {
    "sensors": ["camera", "depth", "thermal"],
    "fuse": ["camera", "depth", "thermal"],
    "hysteresis": 0.0,
    **{f"{name}__topic": name for name in ("camera", "depth", "thermal")},
    **{f"{name}__kind": name for name in ("camera", "depth", "thermal")},
    **{f"{name}__reliability": "reliable" for name in ("camera", "depth", "thermal")},
}


@pytest.fixture(scope="session")
def fusing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped bundle with a graph that fuses."""
    if GIVEN:
        return Path(GIVEN)
    if not WORKSHOP:
        pytest.skip("neither MILE_EDGE_FUSING_BUNDLE nor MILE_EDGE_WORKSHOP_PYTHON is set")
    folder = tmp_path_factory.mktemp("fusing") / "bundle"
    shutil.copytree(REFERENCE, folder)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([WORKSHOP, "-c", MAKE, str(folder)], check=True, env=environment)
    return folder


class Rig:
    """Three sensors of one viewpoint, of which any may fall silent or show nothing; one stamp for a moment."""

    def __init__(self, bench: Bench, frames: Frames) -> None:
        self.sent: dict[str, Any] = {
            "camera": (frames["clear"], "rgb8"),
            "depth": (frames["depth"], "16UC1"),
            "thermal": (frames["thermal"], "mono16"),
        }
        self.alive, self.number = set(self.sent), 0
        self._cameras = {name: bench.camera(name) for name in self.sent}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        noise = np.random.default_rng(0)
        while not self._stop.wait(0.3):
            self.number += 1
            for name in sorted(self.alive, reverse=True):
                pixels, encoding = self.sent[name]
                pixels = pixels.copy()
                # No two frames of a real sensor are equal; the pixel lies outside what the network's mean notices.
                pixels[0, 0] += noise.integers(1, 3).astype(pixels.dtype)
                stamp = 1_000_000_000 + self.number * 100_000_000
                self._cameras[name].publish(image(pixels, encoding, stamp, f"{name}_frame"))

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def test_the_fused_mask_is_the_librarys_with_one_header_and_dead_sensors_drop_out_and_come_back(
    bench: Bench, start: Start, frames: Frames, fusing: Path
) -> None:
    fused, sure = bench.listen("fused/mask", Image), bench.listen("fused/confidence", Image)
    labels = bench.listen("fused/label_info", LabelInfo, LATCHED)
    own, told = bench.listen("thermal/mask", Image), bench.listen("/diagnostics", DiagnosticArray)
    robot = start(bundle=str(fusing), fusion_tolerance=0.02, **SENSORS)
    rig = Rig(bench, frames)

    def diagnosis() -> str:
        lines = [line for array in told.messages[-5:] for line in array.status if line.name == "mile_edge: segmenter"]
        return f"{lines[-1].message} {[(pair.key, pair.value) for pair in lines[-1].values]}" if lines else ""

    try:
        fused.wait(3)
        own.wait(1)
        eventually(lambda: "'fused', 'camera 0." in diagnosis() and "active with" in diagnosis(), "three are fused")
        assert labels.times[0] < fused.times[0]
        rig.alive.discard("thermal")
        eventually(lambda: "without thermal" in diagnosis(), "the dead sensor is named")
        fused.fresh()
        # The first one dies: the next one gives size and header.
        rig.alive.discard("camera")
        eventually(lambda: fused.messages[-1].header.frame_id == "depth_frame", "the header of the next sensor")
        rig.alive |= {"camera", "thermal"}
        eventually(lambda: fused.messages[-1].header.frame_id == "camera_frame", "the first sensor's header again")
        eventually(lambda: "active with" in diagnosis(), "three are fused again")
        # A covered lens takes no part, and has a mask of its own all the same.
        rig.sent["thermal"] = (np.full_like(frames["thermal"], 29000), "mono16")
        eventually(lambda: "thermal (constant image)" in diagnosis(), "the covered sensor is named")
        own.fresh()
    finally:
        rig.stop()
    time.sleep(0.5)
    stamps = [stamp_of(message) for message in fused.messages]
    assert stamps == sorted(set(stamps)), "no header comes twice, and none goes back"
    assert all(message.encoding == "mono8" for message in (*fused.messages, *sure.messages))
    with Segmenter.open(fusing, threads=1, hysteresis=0) as segmenter:
        given = {"camera": frames["clear"], "depth": frames["depth"], "thermal": frames["thermal"]}
        moment = {name: SensorFrame(DEFAULT_PROFILES[name].to_frame(pixels), 1, name) for name, pixels in given.items()}
        wanted = segmenter.fuse(moment, like="camera").mask
    assert (pixels_of(fused.messages[2]) == wanted).mean() > 0.99
    assert "Traceback" not in robot.said


def test_fusion_that_cannot_work_is_one_sentence(bench: Bench, start: Start, fusing: Path) -> None:
    robot = start(active=False, bundle=str(fusing), **{**SENSORS, "fuse": ["camera"]})
    for name, value, reason in (
        ("fuse", ["camera", "rear"], "name two or more of the sensors"),
        ("fuse", ["camera", "camera"], "name two or more of the sensors"),
        ("bundle", str(REFERENCE), "has no graph that fuses"),
    ):
        assert bench.set(**{name: value})[0].successful
        assert bench.set(fuse=SENSORS["fuse"] if name == "bundle" else value)[0].successful
        assert not bench.change(CONFIGURE)
        eventually(lambda: reason in robot.said, reason)  # noqa: B023
    assert bench.set(bundle=str(fusing), fuse=SENSORS["fuse"])[0].successful
    assert bench.change(CONFIGURE)
    assert "Traceback" not in robot.said
