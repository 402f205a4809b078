"""Adapters in a study: one expert for each task, or one adapter that learns task after task; and their scores."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mile_edge.bundle import Bundle, ClassLabel, Expert, Gate, read_expert, write_expert
from mile_edge.export.graph import tap_dimension
from mile_edge.network.gates import oracle_bias
from mile_edge.network.one_pass import OnePass
from mile_edge.network.pool import ExpertPool
from mile_edge.replay.scores import confusion
from mile_edge.runtime import gate_inputs
from mile_edge.runtime.resize import resize_frames, restore
from mile_edge.studies.cells import Job, written
from mile_edge.studies.data import Frames, class_table, read_frames, union
from mile_edge.studies.networks import augmentation, own_expert, read_base, read_network
from mile_edge.training.evaluate import predict
from mile_edge.training.expert import ExpertTask, train_expert
from mile_edge.training.fit import Schedule
from mile_edge.training.rank_pool import Dac, Mora, RankPool
from mile_edge.training.statistics import KEPT_FEATURES, gate_features

EXPERT = "expert.safetensors"
COUNTS = "counts.npz"
FEATURES = "features.npy"
# Frames of one pass: half the processor time of single ones.
_BATCH = 4


def train_adapter(job: Job) -> None:
    """Train one expert from the base, or go on with one that earlier tasks trained, whole or as a pool of ranks."""
    params: Any = job.params
    data = read_frames(job.one("data"))
    past = read_expert(job.one("start") / EXPERT) if "start" in job.needs else None
    ranks = rank_pool_of(params.get("ranks"))
    if past is not None and ranks is None:
        data = data.in_space(union(past.classes, data.classes))
    # A pool of ranks keeps the head of what its past knows, so its first task has none: it learns the head.
    start = past or (own_expert(job.one("base"), params["rank"]) if ranks is None else None)
    pool = ExpertPool(read_base(job.one("base")), ranks.rank if ranks else params["rank"], params["layers"])
    task = ExpertTask(
        params["name"], (params["sensor"],), (params["domain"],), params["tap"], params["centres"], KEPT_FEATURES
    )
    began = time.process_time()
    expert, done = train_expert(
        pool,
        task,
        [data],
        [],
        size=tuple(params["size"]),
        schedule=Schedule(**params["schedule"]),
        augmentation=augmentation(params["augmentation"]),
        checkpoint=job.checkpoint,
        start=start,
        go_on=past is not None and ranks is None,
        ranks=ranks,
        report=job.report,
    )
    result = {
        "seconds": round(done.seconds, 2),
        "processor_seconds": round(time.process_time() - began, 2),
        "sizes": expert.sizes(),
        "dim": len(expert.mean),
    }
    # Where the frames lie is no part of what was learned.
    expert = replace(expert, training={key: value for key, value in expert.training.items() if key != "data"})
    with written(job, result) as folder:
        write_expert(folder / EXPERT, expert)


def take_expert(job: Job) -> None:
    """Take an expert that a bundle holds; its training is not this study's."""
    bundle = Bundle.open(job.where["bundle"])
    expert = next(each for each in bundle.experts() if each.name == job.params["name"])
    result = {"seconds": 0.0, "processor_seconds": 0.0, "sizes": expert.sizes(), "dim": len(expert.mean)}
    with written(job, result) as folder:
        write_expert(folder / EXPERT, expert)


def rank_pool_of(settings: Mapping[str, Any] | None) -> RankPool | None:
    """A method of ranks from plain JSON with its ``kind``."""
    if settings is None:
        return None
    made: RankPool = {"dac": Dac, "mora": Mora}[settings["kind"]](**settings)
    return made


def pool_features(job: Job) -> None:
    """The gate's feature of every frame of a data set, (N, D) float32."""
    params: Any = job.params
    features = gate_features(
        read_base(job.one("base")), read_frames(job.one("data")), tuple(params["size"]), params["tap"]
    )
    with written(job, {"frames": len(features)}) as folder:
        np.save(folder / FEATURES, features)


def score_network(job: Job) -> None:
    """Masks of a network that was trained whole, counted frame by frame."""
    params: Any = job.params
    frames, size = read_frames(job.one("data")), tuple(params["size"])
    network, classes = read_network(job.one("base"), job.one("network"))

    def mask(frame: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        with torch.inference_mode():
            return predict(network, frame, size, shape)

    tally = Tally(frames, classes)
    for sample in frames:
        tally.add(sample.label, mask(sample.frame, sample.label.shape) if sample.label is not None else None)
    tally.write(job)


def score_bank(job: Job) -> None:
    """Masks of the one pass over a bank of experts, counted frame by frame.

    With gate ``oracle`` every frame goes to the row ``right``; ``semla`` and ``uniform`` mix the whole bank, and the
    only row of a bank with gate ``mora`` weighs its own ranks.
    """
    params: Any = job.params
    frames = read_frames(job.one("data"))
    experts = bank_experts(job)
    network, gate = bank_network(job.one("base"), params, experts[0].rank)
    experts = [with_statistics(expert, network) for expert in experts]
    classes = union(*(expert.classes for expert in experts))
    inputs = bank_inputs(network, gate, experts, classes)
    if params["gate"] == "oracle":
        inputs["gate_bias"] = oracle_bias(torch.tensor([params["right"]]), len(inputs["bank"]))
    labelled = [sample for sample in frames if sample.label is not None]
    tally = Tally(frames, classes)
    for start in range(0, len(labelled), _BATCH):
        samples = labelled[start : start + _BATCH]
        pixels = np.concatenate([resize_frames(each.frame[None], tuple(params["size"])) for each in samples])
        bias = inputs["gate_bias"].expand(len(samples), -1)
        with torch.inference_mode():
            masks = network(torch.from_numpy(pixels), **{**inputs, "gate_bias": bias})[0].numpy()
        for sample, mask in zip(samples, masks, strict=True):
            tally.add(sample.label, None if sample.label is None else restore(mask[None], sample.label.shape)[0])
    tally.write(job)


def bank_experts(job: Job) -> list[Expert]:
    """The experts of a bank, or the base's own classifier where there are none."""
    own = None if "expert" in job.needs else own_expert(job.one("base"), job.params["rank"])
    return [own] if own is not None else [read_expert(folder / EXPERT) for folder in job.needs["expert"]]


def with_statistics(expert: Expert, network: OnePass) -> Expert:
    """The same expert, or the base's own with statistics of the length that the network's gate reads."""
    dim = tap_dimension(network)
    if len(expert.mean) == dim:
        return expert
    return replace(expert, mean=np.zeros(dim, np.float32), scatter=np.eye(dim, dtype=np.float32))


def bank_network(base: Path, params: Any, rank: int) -> tuple[OnePass, Gate]:
    """The one pass and its gate, before any expert is in it.

    Args:
        base: its cell.
        rank: of the bank's rows.
    """
    kind = "mahalanobis" if params["gate"] == "oracle" else params["gate"]
    top_k, tau, delta = None, None, None
    if kind == "semla":
        top_k, tau = params["top_k"], params["tau"]
    elif kind == "mora":
        top_k, tau, delta = Mora.top_k, Mora.tau, Mora.delta
    pool = ExpertPool(read_base(base), rank, params["layers"])
    size, classes, tap = tuple(params["size"]), params["max_classes"], params["tap"]
    network = OnePass(pool, size, classes, kind, tap, top_k, tau, delta).eval()
    # The rows of a bank that is mixed; nothing is mixed where ranks are.
    mixed = top_k if kind == "semla" else None
    return network, Gate(kind, tap, 0, gate_inputs.prototypes_of(kind, 1), top_k=mixed, tau=tau)


def bank_inputs(
    network: OnePass, gate: Gate, experts: Sequence[Expert], classes: tuple[ClassLabel, ...]
) -> dict[str, torch.Tensor]:
    """Bank, prototypes, whitening and bias for these experts, as the robot side makes them."""
    ids = {label.name: place for place, label in enumerate(classes)}
    rows = [network.layout.pack(expert, [ids[label.name] for label in expert.classes]) for expert in experts]
    # A gate that mixes K experts needs as many rows; those that are free stay closed.
    free = max(0, (gate.top_k or 1) - len(rows))
    bank = np.concatenate([np.stack(rows), np.zeros((free, len(rows[0])), np.float32)])
    gate = replace(gate, dim=len(experts[0].mean))
    empty = np.repeat(gate_inputs.empty_rows(gate)[None], free, axis=0)
    bias = np.concatenate([np.zeros(len(rows), np.float32), np.full(free, gate_inputs.NEVER)])
    return {
        "bank": torch.from_numpy(bank),
        "prototypes": torch.from_numpy(np.concatenate([gate_inputs.prototype_table(experts, gate), empty])),
        "whitening": torch.from_numpy(gate_inputs.whitening(experts, gate)),
        "gate_bias": torch.from_numpy(bias)[None],
    }


class Tally:
    """Confusions of a task's frames, one by one, and a digest of all masks.

    Args:
        frames: their classes are the rows of the confusions.
        classes: that ids in masks mean; those that the task does not have count as wrong.
    """

    def __init__(self, frames: Frames, classes: tuple[ClassLabel, ...]) -> None:
        self._table = class_table(classes, frames.classes)
        self._classes = len(frames.classes)
        self._counts: list[np.ndarray] = []
        self._digest = hashlib.sha256()

    def add(self, label: np.ndarray | None, mask: np.ndarray | None) -> None:
        """One frame's truth and mask, (H, W) uint8 each; nothing where there is no label."""
        if label is None or mask is None:
            return
        named = self._table[mask]
        self._digest.update(named.tobytes())
        self._counts.append(confusion(label, named, self._classes).astype(np.int32))

    def write(self, job: Job) -> None:
        """Make the cell."""
        with written(job, {"frames": len(self._counts), "digest": self._digest.hexdigest()}) as folder:
            np.savez_compressed(folder / COUNTS, counts=np.stack(self._counts))


def read_counts(folder: Path) -> np.ndarray:
    """Confusions (N, C, C + 1) of a scored cell, frame by frame."""
    with np.load(folder / COUNTS) as file:
        return np.asarray(file["counts"])
