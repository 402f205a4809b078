"""How long a frame takes under each kind of gate, by the number of experts: ONNX Runtime, one thread, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime

from mile_edge.bundle import Expert, read_expert
from mile_edge.export.graph import base_graph, segmenter_graph
from mile_edge.network.base import describe
from mile_edge.network.one_pass import FixedClassifier
from mile_edge.network.pool import replace_module
from mile_edge.studies.adapters import EXPERT, bank_inputs, bank_network
from mile_edge.studies.cells import Job, written
from mile_edge.studies.networks import read_base

_WARM_UP = 2


def measure(job: Job) -> None:
    """Time the base alone and every gate's pass with each number of experts, one frame each in turn."""
    params: Any = job.params
    expert = read_expert(job.one("expert") / EXPERT)
    passes: dict[tuple[str, int], Callable[[np.ndarray], object]] = {("base", 0): _base_pass(job, expert)}
    for gate in params["gates"]:
        passes |= _gated_passes(job, gate, expert)
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, 1, *params["size"], 3), np.uint8)
    taken: dict[tuple[str, int], list[float]] = {name: [] for name in passes}
    for turn in range(params["rounds"] + _WARM_UP):
        for name, run in passes.items():
            began = time.perf_counter()
            run(frames[turn % len(frames)])
            if turn >= _WARM_UP:
                taken[name].append((time.perf_counter() - began) * 1e3)
    base = np.array(taken["base", 0])
    rows = [
        {
            "gate": gate,
            "experts": experts,
            "ms": round(float(np.median(times)), 3),
            # Of runs that followed each other, so that a machine that slows down hits both.
            "over_base": round(float(np.median(np.array(times) / base)), 4),
        }
        for (gate, experts), times in taken.items()
    ]
    with written(job, {"rows": rows, "rounds": params["rounds"]}):
        pass


def _base_pass(job: Job, expert: Expert) -> Callable[[np.ndarray], object]:
    params: Any = job.params
    base = read_base(job.one("base"))
    # As wide a classifier as the bank's, so that like is compared with like.
    classifier = FixedClassifier(params["max_classes"], expert.classifier_weight.shape[1])
    replace_module(base, describe(base).classifier, classifier)
    session = _session(base_graph(base, tuple(params["size"])).SerializeToString())
    return lambda frame: session.run(None, {"frames": frame})


def _gated_passes(job: Job, kind: str, expert: Expert) -> dict[tuple[str, int], Callable[[np.ndarray], object]]:
    params: Any = job.params
    network, gate = bank_network(job.one("base"), {**params, "gate": kind})
    session = _session(segmenter_graph(network, "fp32", gate.prototypes).SerializeToString())
    passes: dict[tuple[str, int], Callable[[np.ndarray], object]] = {}
    for count in params["experts"]:
        rng = np.random.default_rng(count)
        experts = [
            replace(
                expert, name=f"e{place}", mean=expert.mean + rng.normal(0, 0.3, expert.mean.shape).astype(np.float32)
            )
            for place in range(count)
        ]
        inputs = {name: tensor.numpy() for name, tensor in bank_inputs(network, gate, experts, expert.classes).items()}
        if kind == "uniform" and count < 2:
            continue

        def run(frame: np.ndarray, inputs: dict[str, np.ndarray] = inputs) -> object:
            return session.run(None, {"frames": frame, **inputs})

        passes[kind, count] = run
    return passes


def _session(graph: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
