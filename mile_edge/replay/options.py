"""How to replay: what a user may choose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mile_edge.data.sensors import SensorProfile
from mile_edge.errors import RecipeError
from mile_edge.runtime.backends import network_threads
from mile_edge.runtime.fusion import TOLERANCE_NS

# More than any bag holds.
MAX_FRAMES = 10**12


@dataclass(frozen=True)
class ReplayOptions:
    """How to replay a bag.

    Attributes:
        out: folder for the outputs.
        kinds: topic to camera, depth, thermal or off; the rest is found by encoding and name.
        labels: label topics; any that ends in `/label` where empty.
        domains: topic that names the true domain; `/truth/domain` where None.
        class_map: YAML file from the bag's classes to the bundle's.
        limit: stop after this many frames.
        predictions: write `predictions.mcap`.
        threads: of the network; as many as the process may use where None.
        backend: "onnx", "tensorrt" or "tensorrt-rtx", which need an engine.
        profiles: sensor profiles that take the place of the bundle's own of their kind.
        fuse: segment frames of one moment together and fuse them.
        tolerance_ns: how far stamps of one moment may lie apart, nanoseconds.
        fallback: what serves a novel stream, see `Segmenter.open`.
        record_novel: folder of a ring that keeps novel frames.
        record_mb: megabytes that this ring may take.
        shadow: run the expert that the bundle has in shadow, which may go live or be withdrawn by it; otherwise a
            replay leaves the bundle as it is.
    """

    out: Path = Path("out/replay")
    kinds: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    domains: str | None = None
    class_map: Path | None = None
    limit: int | None = None
    predictions: bool = True
    threads: int | None = None
    backend: str = "onnx"
    profiles: tuple[SensorProfile, ...] = ()
    fuse: bool = False
    tolerance_ns: int = TOLERANCE_NS
    fallback: str | None = None
    record_novel: Path | None = None
    record_mb: float = 100.0
    shadow: bool = False


def check_options(options: ReplayOptions) -> None:
    """Refuse numbers that leave nothing to do.

    Raises:
        RecipeError: a limit below 1 or beyond any bag, or a number of threads that no network can run on.
    """
    if options.limit is not None and options.limit < 1:
        raise RecipeError(f"A limit of {options.limit} frames leaves nothing to replay; give 1 or more.")
    if options.limit is not None and options.limit > MAX_FRAMES:
        raise RecipeError(f"A limit of {options.limit} frames is none; give at most {MAX_FRAMES}, or leave it out.")
    network_threads(options.threads)
    if options.tolerance_ns < 0:
        raise RecipeError(f"A tolerance of {options.tolerance_ns / 1e6:g} ms pairs nothing; give 0 or more.")
