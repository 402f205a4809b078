"""A node with one camera as a process, for the benchmarks over real DDS on loopback."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from harness import ACTIVATE, CONFIGURE, Bench, Robot


class Setting:
    """A node with one camera, active, and this side of it."""

    def __init__(self, name: str, bundle: Path, **parameters: Any) -> None:
        self.bench = Bench(f"/{name}")
        self.folder = Path(tempfile.mkdtemp(prefix="mile_edge_bench_"))
        given = {
            "bundle": str(bundle),
            "sensors": ["camera"],
            "camera.topic": "image",
            "camera.reliability": "reliable",
        }
        given |= {"camera.depth": 50, **parameters}
        self.robot = Robot(self.bench.namespace, given, self.folder / "log")
        assert self.bench.change(CONFIGURE), self.robot.said
        assert self.bench.change(ACTIVATE), self.robot.said
        self.camera = self.bench.camera("image")

    def __enter__(self) -> Setting:
        return self

    def __exit__(self, *_: object) -> None:
        self.robot.end()
        self.bench.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def picture(size: tuple[int, int]) -> np.ndarray:
    """A frame of the procedural street at some size."""
    from PIL import Image as Picture

    from mile_edge.data.world import World

    rgb = World(4243).views(1.0, ("clear",))["clear"].rgb
    return np.asarray(Picture.fromarray(rgb).resize((size[1], size[0])))
