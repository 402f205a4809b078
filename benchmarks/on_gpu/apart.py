"""Each part of the benchmark in a process of its own: what it measured before it failed is kept, and so is the rest."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PARTS = ("correctness", "layers", "networks", "experts", "engine")
_SCRIPT = Path(__file__).parents[1] / "gpu.py"
#: A name of the report, and what it gets: a list is continued, anything else is set.
Figure = tuple[str, Any]


@dataclass(frozen=True)
class Order:
    """What is to be measured: interleaved rounds per figure, frames at once, and the bundle of the engine."""

    rounds: int
    batches: tuple[int, ...]
    bundle: Path


@dataclass(frozen=True)
class Answer:
    """What became of a part: its figures by name, and what is missing in one sentence each."""

    figures: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    failed: bool = False


def run_apart(part: str, order: Order, built: Path, limit_s: float) -> Answer:
    """Run one part in a process of its own, for so many seconds at most.

    Args:
        built: a folder in which the parts share the kernel that nvcc built.
    """
    with tempfile.TemporaryDirectory(prefix="mile-edge-gpu-") as folder:
        file = Path(folder) / "part.json"
        line = [sys.executable, str(_SCRIPT), "--part", part, "--json", str(file), "--built", str(built)]
        line += ["--rounds", str(order.rounds), "--batches", *map(str, order.batches), "--bundle", str(order.bundle)]
        try:
            status = subprocess.run(line, check=False, timeout=limit_s, stdout=sys.stderr).returncode
        except subprocess.TimeoutExpired:
            return _ended(part, file, f"it took longer than {limit_s:g} s")
        if status < 0:
            return _ended(part, file, f"signal {signal.Signals(-status).name} ended it")
        return _ended(part, file, f"it ended with status {status}" if status else "")


def _ended(part: str, file: Path, problem: str) -> Answer:
    """What a process wrote before its end; without a problem it wrote all."""
    try:
        answer = Answer(**json.loads(file.read_text()))
    except (OSError, ValueError):
        answer, problem = Answer(), problem or "it wrote nothing"
    if not problem:
        return answer
    return Answer(answer.figures, [*answer.missing, f"{part} failed: {problem}"], failed=True)


def run_here(part: str, order: Order, built: Path, file: Path) -> None:
    """Run one part in this process, writing each figure to ``file`` as soon as it is there."""
    from on_gpu.kernel import MissingError

    figures: dict[str, Any] = {}
    missing: list[str] = []
    failed = False

    def write() -> None:
        aside = file.with_suffix(".aside")
        aside.write_text(json.dumps({"figures": figures, "missing": missing, "failed": failed}))
        aside.replace(file)

    try:
        for name, value in _figures(part, order, built):
            figures[name] = [*figures.get(name, ()), *value] if isinstance(value, list) else value
            write()
    except (MissingError, ImportError) as reason:
        missing.append(f"{part}: {reason}")
    except Exception as error:  # of torch, of CUDA, of TensorRT: whatever it is, it costs this part alone
        failed = True
        traceback.print_exc()
        missing.append(f"{part} failed: {(str(error).splitlines() or [type(error).__name__])[0]}")
    write()


def _figures(part: str, order: Order, built: Path) -> Iterator[Figure]:
    from on_gpu import machine
    from on_gpu.kernel import FusedLowRank, MissingError

    if part == "engine":
        from on_gpu import engine

        yield from engine.measure(order.bundle, order.rounds)
        return
    fused: FusedLowRank | None = None
    reason = ""
    try:
        fused = FusedLowRank(built)
    except MissingError as problem:
        reason = str(problem)
    if part == "machine":
        yield "machine", machine.describe(fused.how if fused else "nothing")
        if reason:
            raise MissingError(reason)
    elif part == "correctness":
        from on_gpu import layers

        if fused is not None:
            for row in layers.check(fused):
                yield "correctness", [row]
    elif part == "layers":
        yield from _layers(fused, order)
    elif part == "networks":
        yield from _networks(fused, order)
    else:
        from on_gpu import experts

        flow = experts.make_flow(fused)
        yield "switching", experts.measure_switching(flow)
        yield "adding", experts.measure_adding(flow)


def _layers(fused: Any, order: Order) -> Iterator[Figure]:
    import torch

    from on_gpu import layers
    from on_gpu.clock import copy_bandwidth

    bandwidth = copy_bandwidth()
    for batch in order.batches:
        for layer in layers.LAYERS:
            yield "layers", [layers.measure(fused, layer, batch, 8, torch.float16, bandwidth, order.rounds)]


def _networks(fused: Any, order: Order) -> Iterator[Figure]:
    from on_gpu import network

    # The base's own choice of layers, and that of the recipe for TensorRT.
    every = r"segformer\.stages\.[123]\..*(q_proj|k_proj|v_proj|o_proj|fc1|fc2)"
    for name, pattern in (("segformer-b0", None), ("segformer-b0", every), ("segformer-b5", None)):
        for batch in order.batches:
            yield "networks", [network.measure(name, (480, 640), fused, order.rounds, layers=pattern, batch=batch)]
