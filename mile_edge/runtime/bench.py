"""What gating costs: the gated pass, the frozen base alone, switching and adding, timed in turns on one machine."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime

from mile_edge.bundle import Bundle, Expert, write_expert
from mile_edge.errors import BundleError
from mile_edge.runtime.backends import network_threads
from mile_edge.runtime.fusion import SensorFrame
from mile_edge.runtime.segmenter import Segmenter


@dataclass(frozen=True)
class BenchResult:
    """Medians of interleaved runs; times in milliseconds, ratios of runs that followed each other directly.

    Attributes:
        base_ms: the frozen base alone, with the same resizing of scores at its end.
        gated_ms: the one pass with its gate and an expert's row.
        gated_over_base: median over rounds of the one over the other.
        two_pass_over_base: the same for a base pass whose features choose the expert, followed by the expert's pass.
        switch_ms: what a frame under another expert than the last takes beyond one under the same expert.
        add_expert_ms: from the call with a file to the first mask that may use it, beyond one frame.
        expert_bytes: adapter of one expert; its head and gate statistics are in ``head_bytes`` and ``gate_bytes``.
        base_bytes: all weights of the base in fp32.
        experts_per_base: adapters that weigh as much as the base.
        experts: rows in use during the run, the base included.
        fused_over_batch: a fused pass of three sensors' frames over a plain batch of the three; ``None`` for a bundle
            that does not fuse.
    """

    base_ms: float
    gated_ms: float
    gated_over_base: float
    two_pass_over_base: float
    switch_ms: float
    add_expert_ms: float
    expert_bytes: int
    head_bytes: int
    gate_bytes: int
    base_bytes: int
    experts_per_base: float
    experts: int
    height: int
    width: int
    threads: int
    rounds: int
    fused_over_batch: float | None = None


def bench(
    bundle: Bundle,
    *,
    rounds: int = 30,
    experts: int | None = None,
    threads: int | None = None,
    report: Callable[[int, int], None] = lambda done, rounds: None,
) -> BenchResult:
    """Time a bundle; works on a copy, the bundle itself is not touched.

    Args:
        rounds: interleaved rounds after two of warm-up.
        experts: experts beside the base; made-up ones fill what the bundle lacks. The bundle's own where missing.
        threads: of one pass; all that the process may use where missing.

    Raises:
        BundleError: the bundle has no graph of the base alone.
    """
    if bundle.base_graph_path is None:
        raise BundleError(f"{bundle.path} has no graph of the base alone to compare with; export it again")
    threads = network_threads(threads)
    wanted = max(1, len(bundle.manifest.experts) - 1) if experts is None else experts
    with tempfile.TemporaryDirectory(prefix="mile-edge-bench-") as folder:
        made_up, spare = _fill(bundle, wanted, Path(folder))
        base = _base_session(bundle.base_graph_path, threads)
        with Segmenter.open(made_up.path, threads=threads, hysteresis=0, shadow=False) as segmenter:
            result = _measure(made_up, segmenter, base, spare, rounds, threads, report)
    return replace(result, fused_over_batch=_fused_over_batch(bundle, rounds, threads))


def _measure(
    bundle: Bundle,
    segmenter: Segmenter,
    base: Callable[[np.ndarray], None],
    spare: Path,
    rounds: int,
    threads: int,
    report: Callable[[int, int], None],
) -> BenchResult:
    network = bundle.manifest.network
    names = segmenter.experts
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, 1, network.height, network.width, 3), np.uint8)
    pairs: list[tuple[float, float]] = []
    switches: list[float] = []
    adds: list[float] = []
    for index in range(rounds + 2):
        frame = frames[index % len(frames)]
        pair = _there_and_back(base, segmenter, frame)
        switch = _switching(segmenter, frame, names[index % len(names)], names[(index + 1) % len(names)])
        adding = _adding(segmenter, frame, spare)
        if index >= 2:
            pairs.append(pair)
            switches.append(switch)
            adds.append(adding)
            report(index - 1, rounds)
    measured = np.array(pairs)
    sizes = _sizes(bundle)
    return BenchResult(
        base_ms=_median(measured[:, 0]),
        gated_ms=_median(measured[:, 1]),
        gated_over_base=_median(measured[:, 1] / measured[:, 0], 4),
        two_pass_over_base=_median(measured.sum(axis=1) / measured[:, 0], 4),
        switch_ms=_median(np.array(switches)),
        add_expert_ms=_median(np.array(adds)),
        expert_bytes=sizes["adapter"],
        head_bytes=sizes["head"],
        gate_bytes=sizes["gate"],
        base_bytes=bundle.manifest.base.bytes,
        experts_per_base=round(bundle.manifest.base.bytes / sizes["adapter"], 1),
        experts=len(names),
        height=network.height,
        width=network.width,
        threads=threads,
        rounds=rounds,
    )


def _there_and_back(base: Callable[[np.ndarray], None], segmenter: Segmenter, frame: np.ndarray) -> tuple[float, float]:
    """Mean times of base and gated pass in the order base, gated, gated, base: a machine that slows down hits both."""
    first, second, third, fourth = (_milliseconds(each, frame) for each in (base, segmenter, segmenter, base))
    return (first + fourth) / 2, (second + third) / 2


def _switching(segmenter: Segmenter, frame: np.ndarray, one: str, other: str) -> float:
    """What the first frame under another expert takes beyond the second, over a switch there and one back."""
    extra = 0.0
    # After a run of the base alone the caches hold its weights: the first frame would pay for that, not for the switch.
    segmenter.pin(other)
    segmenter(frame)
    for name in (one, other):
        segmenter.pin(name)
        first = _milliseconds(segmenter, frame)
        extra += (first - _milliseconds(segmenter, frame)) / 2
    segmenter.auto()
    return extra


def _adding(segmenter: Segmenter, frame: np.ndarray, file: Path) -> float:
    """From the call with a file to the first mask that may use it, beyond a plain frame."""
    started = time.perf_counter()
    name = segmenter.add_expert(file)
    segmenter(frame)
    taken = (time.perf_counter() - started) * 1e3
    plain = _milliseconds(segmenter, frame)
    segmenter.remove_expert(name)
    return taken - plain


def _fused_over_batch(bundle: Bundle, rounds: int, threads: int) -> float | None:
    """Median of a fused pass over a plain batch of as many frames, in the order plain, fused, fused, plain."""
    if bundle.manifest.fusion is None:
        return None
    kinds, network = ("camera", "depth", "thermal"), bundle.manifest.network
    frames = np.random.default_rng(0).integers(0, 256, (4, len(kinds), network.height, network.width, 3), np.uint8)
    ratios = []
    with Segmenter.open(bundle.path, threads=threads, hysteresis=0, shadow=False) as segmenter:

        def fused(batch: np.ndarray) -> None:
            segmenter.fuse({kind: SensorFrame(frame, 1, kind) for kind, frame in zip(kinds, batch, strict=True)})

        def plain(batch: np.ndarray) -> None:
            segmenter(batch, streams=kinds)

        for index in range(rounds + 2):
            times = [_milliseconds(each, frames[index % len(frames)]) for each in (plain, fused, fused, plain)]
            ratios.append((times[1] + times[2]) / (times[0] + times[3]))
    return _median(np.array(ratios[2:]), 4)


def _milliseconds(work: Callable[[np.ndarray], object], frame: np.ndarray) -> float:
    started = time.perf_counter()
    work(frame)
    return (time.perf_counter() - started) * 1e3


def _median(values: np.ndarray, digits: int = 3) -> float:
    return round(float(np.median(values)), digits)


def _base_session(path: Path, threads: int) -> Callable[[np.ndarray], None]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(frame: np.ndarray) -> None:
        session.run(None, {"frames": frame})

    return run


def _sizes(bundle: Bundle) -> dict[str, int]:
    adapted = [expert for expert in bundle.experts() if expert.adapter != "none"]
    return adapted[0].sizes()


def _fill(bundle: Bundle, wanted: int, folder: Path) -> tuple[Bundle, Path]:
    """A copy of the bundle with ``wanted`` experts, random ones where it lacks them, and a spare expert's file."""
    path = folder / "bundle"
    own = bundle.experts()
    # A gate that mixes K experts needs as many rows.
    capacity = max(wanted + 1, len(own), bundle.manifest.gate.top_k or 0)
    data, base = bundle.network_path.read_bytes(), Path(str(bundle.base_graph_path)).read_bytes()
    gate = replace(bundle.manifest.gate, thresholds={}, novelty=None)
    # A candidate would need its file and a row, and seen versions refuse what was rolled back: it is to be added here.
    empty = replace(bundle.manifest, experts=(), capacity=capacity, gate=gate, candidate=None, versions={})
    copy = Bundle.create(path, empty, data, base, own[0])
    kept = list(own[1 : wanted + 1])
    while len(kept) < wanted + 1:
        kept.append(_random_expert(bundle, len(kept)))
    spare = folder / "spare.safetensors"
    for expert in kept[:-1]:
        file = folder / f"{expert.name}.safetensors"
        write_expert(file, expert)
        copy = copy.add(file)
    write_expert(spare, _random_expert(bundle, wanted) if len(own) > wanted else kept[-1])
    return copy, spare


def _random_expert(bundle: Bundle, number: int) -> Expert:
    rng = np.random.default_rng(number)
    own, layout = bundle.experts()[0], bundle.manifest.low_rank
    pairs = {
        layer.name: (
            rng.normal(0, 0.02, (layout.rank_of(layer), layer.in_features)).astype(np.float32),
            rng.normal(0, 0.02, (layer.out_features, layout.rank_of(layer))).astype(np.float32),
        )
        for layer in layout.layers
    }
    adapter = "self_activated" if bundle.manifest.gate.kind == "mora" else "low_rank"
    shifted = np.asarray(own.mean) + rng.normal(0, 0.3, own.mean.shape).astype(np.float32)
    return replace(own, name=f"made-up-{number}", adapter=adapter, low_rank=pairs, mean=shifted)
