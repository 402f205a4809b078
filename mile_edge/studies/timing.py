"""How long a frame takes under each kind of gate, by the number of experts: ONNX Runtime, one thread, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import torch

from mile_edge.bundle import Expert, read_expert
from mile_edge.bundle.gate import SUCCESSIVE_KINDS
from mile_edge.export.graph import base_graph, segmenter_graph
from mile_edge.network.base import describe
from mile_edge.network.one_pass import FixedClassifier
from mile_edge.network.pool import replace_module
from mile_edge.studies.adapters import EXPERT, bank_inputs, bank_network
from mile_edge.studies.cells import Job, written
from mile_edge.studies.networks import read_base
from mile_edge.training.rank_pool import Dac, Mora

_WARM_UP = 2
# More than any layer has directions; a graph of so many says nothing new.
MOST_RANKS = 320
Run = Callable[[np.ndarray], object]


def measure(job: Job) -> None:
    """Time the base alone and every gate's pass with each number of experts, one frame each in turn."""
    params: Any = job.params
    expert = read_expert(job.one("expert") / EXPERT)
    passes: dict[tuple[str, int], Run] = {("base", 0): _base_pass(job, expert)}
    for gate in params["gates"]:
        passes |= (_rank_passes if gate in SUCCESSIVE_KINDS else _gated_passes)(job, gate, expert)
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


def _base_pass(job: Job, expert: Expert) -> Run:
    params: Any = job.params
    base = read_base(job.one("base"))
    # As wide a classifier as the bank's, so that like is compared with like.
    classifier = FixedClassifier(params["max_classes"], expert.classifier_weight.shape[1])
    replace_module(base, describe(base).classifier, classifier)
    session = _session(base_graph(base, tuple(params["size"])).SerializeToString())
    return lambda frame: session.run(None, {"frames": frame})


def _gated_passes(job: Job, kind: str, expert: Expert) -> dict[tuple[str, int], Run]:
    """The pass with each number of experts in its bank."""
    params: Any = job.params
    network, gate = bank_network(job.one("base"), {**params, "gate": kind}, expert.rank)
    session = _session(segmenter_graph(network, "fp32", gate.prototypes).SerializeToString())
    passes = {}
    for count in params["experts"]:
        rng = np.random.default_rng(count)
        means = expert.mean + rng.normal(0, 0.3, (count, *expert.mean.shape)).astype(np.float32)
        experts = [replace(expert, name=f"e{place}", mean=mean) for place, mean in enumerate(means)]
        # The graph of a mixture of all wants two rows at least.
        if kind != "uniform" or count > 1:
            passes[kind, count] = _run(session, bank_inputs(network, gate, experts, expert.classes))
    return passes


def _rank_passes(job: Job, kind: str, expert: Expert) -> dict[tuple[str, int], Run]:
    """The pass with one adapter of as many tasks' ranks; the graph depends on how many these are."""
    params: Any = job.params
    each = Mora.rank if kind == "mora" else Dac.merged
    passes = {}
    for count in params["experts"]:
        rank = each * count
        if rank > MOST_RANKS:
            continue
        rng = np.random.default_rng(count)
        pairs = {
            name: (
                rng.normal(0, 0.02, (rank, a.shape[1])).astype(np.float32),
                rng.normal(0, 0.02, (len(b), rank)).astype(np.float32),
            )
            for name, (a, b) in expert.low_rank.items()
        }
        network, gate = bank_network(job.one("base"), {**params, "gate": kind}, rank)
        session = _session(segmenter_graph(network, "fp32", gate.prototypes).SerializeToString())
        row = replace(expert, rank=rank, low_rank=pairs)
        passes[kind, count] = _run(session, bank_inputs(network, gate, [row], expert.classes))
    return passes


def _run(session: onnxruntime.InferenceSession, tensors: Mapping[str, torch.Tensor]) -> Run:
    inputs = {name: tensor.numpy() for name, tensor in tensors.items()}
    return lambda frame: session.run(None, {"frames": frame, **inputs})


def _session(graph: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
