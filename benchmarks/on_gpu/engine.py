"""The bundle's TensorRT engine, built here for this device: milliseconds of a call, and whether it says the same."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from on_gpu.clock import percentile
from on_gpu.kernel import MissingError

# One unseen street, and domains that the reference bundle's experts are for.
_STREET, _DOMAINS = 4243, ("clear", "fog", "night", "snow")


def measure(bundle: Path, rounds: int) -> Iterator[tuple[str, Any]]:
    """The engine's figures, one after the other.

    Raises:
        MissingError: TensorRT does not import here, or serves no device of this machine.
    """
    from mile_edge.bundle import Bundle
    from mile_edge.errors import BackendError
    from mile_edge.runtime import Segmenter
    from mile_edge.runtime.tensorrt.api import find_api
    from mile_edge.runtime.tensorrt.build import BuildOptions, build_engine
    from mile_edge.runtime.tensorrt.device import find_device

    try:
        api, _ = find_api(), find_device()
    except BackendError as error:
        raise MissingError(str(error)) from error
    opened = Bundle.open(bundle)
    with tempfile.TemporaryDirectory(prefix="mile-edge-engine-") as folder:
        path, manifest = build_engine(opened, api, BuildOptions(), Path(folder) / f"{api.name}.engine")
        figures: dict[str, Any] = {
            "backend": f"{api.name} {api.version}",
            "build_s": manifest.build_seconds,
            "engine_bytes": manifest.engine_bytes,
        }
        yield "engine", figures
        with (
            Segmenter.open(bundle, hysteresis=0) as plain,
            Segmenter.open(bundle, hysteresis=0, backend=api.name, engine=path) as engine,
        ):
            figures |= agreement(engine, plain, street())
            yield "engine", figures
            for batch in sorted({1, manifest.max_batch}):
                figures |= times(engine, batch, rounds)
                yield "engine", figures


def street() -> dict[str, np.ndarray]:
    """Frames (H, W, 3) uint8 by domain."""
    from mile_edge.data.world import World

    return {name: view.rgb for name, view in World(_STREET).views(1.0, _DOMAINS).items()}


def agreement(engine: Any, plain: Any, frames: Mapping[str, np.ndarray]) -> dict[str, float]:
    """How often one segmenter chooses the other's expert, and the least share of a frame's pixels that are the same.

    Each frame goes through the engine until a captured graph has answered.
    """
    pixels, experts = [], []
    for name, frame in frames.items():
        wanted = plain(frame, stream=name)
        for _ in range(4):
            found = engine(frame, stream=name)
        pixels.append(float((found.mask == wanted.mask).mean()))
        experts.append(found.expert == wanted.expert)
    return {"same_pixels": min(pixels), "same_experts": sum(experts) / len(experts)}


def times(segmenter: Any, batch: int, rounds: int) -> dict[str, float]:
    """Milliseconds of a call with so many frames of the network's size, from host memory to host memory."""
    network = segmenter.manifest.network
    frames = np.random.default_rng(0).integers(0, 256, (batch, network.height, network.width, 3), np.uint8)
    taken = []
    for index in range(10 + 10 * rounds):
        started = time.perf_counter()
        segmenter(frames)
        if index >= 10:
            taken.append((time.perf_counter() - started) * 1e3)
    return {f"batch_{batch}_ms": statistics.median(taken), f"batch_{batch}_p95_ms": percentile(taken, 0.95)}
