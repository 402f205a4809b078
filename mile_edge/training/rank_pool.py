"""Methods of ranks: one adapter that goes on from task to task, by DAC or MoRA, on the trainer of every other expert.

    state = bundle.experts()[0]
    for task, data in tasks:
        state, result = train_expert(pool, task, data, validation, start=state, ranks=Dac(), ...)
        load_ranks(pool, Dac(), state)      # the network after this task, for evaluation

What is trained is an expert like any other, good for all tasks so far; its file holds the merged ranks (DAC) or the
ranks of every task (MoRA). It is where the next task starts from, and the row of a bundle that serves every frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from mile_edge.bundle import ClassLabel, Expert
from mile_edge.errors import RecipeError
from mile_edge.network.gates.rank_router import ROUTERS, RankRouter, overlap
from mile_edge.network.gates.self_activated import SelfActivated
from mile_edge.network.pool import ExpertPool, rank_layers

Pair = tuple[np.ndarray, np.ndarray]


class RankPool(Protocol):
    """What the trainer asks of a method."""

    @property
    def kind(self) -> str:
        """The bundle's gate."""
        ...

    @property
    def rank(self) -> int:
        """Of the pool that a task trains."""
        ...

    def begin(self, pool: ExpertPool, past: Expert | None, classes: tuple[ClassLabel, ...]) -> None:
        """Put fresh ranks behind those of ``past`` into a pool that was just reset."""
        ...

    def penalty(self, pool: ExpertPool) -> torch.Tensor:
        """What is added to the loss of a step."""
        ...

    def remaining(self, pool: ExpertPool) -> dict[str, Pair]:
        """What a trained task leaves of its pool: each layer's A (k, in) and B (out, k)."""
        ...

    def joined(self, past: Expert | None, expert: Expert) -> Expert:
        """The adapter of all tasks, of which ``expert`` holds what the last one left."""
        ...


@dataclass(frozen=True)
class Mora:
    """Self-activated mixture of ranks (arXiv 2506.21035): old ranks stay, every task adds ``rank`` more.

    Attributes:
        rank: ranks that a task adds.
        top_k, tau, delta: see :class:`mile_edge.network.gates.self_activated.SelfActivated`.
        keep_head: the classifier's rows of classes that were known before stay as they are.
    """

    rank: int = 16
    top_k: int = 16
    tau: float = 0.01
    delta: float = 0.2
    keep_head: bool = True
    kind: str = "mora"

    def begin(self, pool: ExpertPool, past: Expert | None, classes: tuple[ClassLabel, ...]) -> None:
        """See :class:`RankPool`."""
        for name, layer in rank_layers(pool, self.rank).items():
            layer.continue_from(_ranks_of(past, name), SelfActivated(self.top_k, self.tau, self.delta))
        _keep_known_classes(pool, past if self.keep_head else None, classes)

    def penalty(self, pool: ExpertPool) -> torch.Tensor:
        """None: zero."""
        return torch.zeros(())

    def remaining(self, pool: ExpertPool) -> dict[str, Pair]:
        """All of it."""
        return {name: (_numpy(layer.lora_A), _numpy(layer.lora_B)) for name, layer in rank_layers(pool).items()}

    def joined(self, past: Expert | None, expert: Expert) -> Expert:
        """Old ranks, and the new ones behind them."""
        pairs = {name: _behind(_pair_of(past, name), pair) for name, pair in expert.low_rank.items()}
        return replace(_all_tasks(past, expert, pairs, self.kind), adapter="self_activated")


@dataclass(frozen=True)
class Dac:
    """Rank-one expert pool (arXiv 2601.22828): of every task only the most active ranks are merged.

    Attributes:
        rank: ranks of a task's pool.
        active: that compute at a time.
        merged: that remain.
        router: "random" or "trained", see :mod:`mile_edge.network.gates.rank_router`.
        orthogonality: weight of the AGO loss.
        limit: rank of the merged adapter; beyond it the sum of all updates is factorised anew and what does not fit is
            lost. No limit where it is missing.
        keep_head: the classifier's rows of classes that were known before stay as they are.

    Raises:
        RecipeError: there is no such router, or the counts do not nest.
    """

    rank: int = 12
    active: int = 8
    merged: int = 4
    router: str = "random"
    orthogonality: float = 0.1
    limit: int | None = None
    keep_head: bool = True
    kind: str = "dac"

    def __post_init__(self) -> None:
        if self.router not in ROUTERS:
            raise RecipeError(f"router {self.router!r} is unknown; choose {' or '.join(ROUTERS)}")
        if not 1 <= self.merged <= self.active <= self.rank:
            counts = f"{self.merged} merged of {self.active} active of {self.rank} ranks"
            raise RecipeError(f"{counts} cannot be; merge at most those that are active, of at most all")

    def begin(self, pool: ExpertPool, past: Expert | None, classes: tuple[ClassLabel, ...]) -> None:
        """See :class:`RankPool`."""
        learns = self.router == "trained"
        for name, layer in rank_layers(pool, self.rank).items():
            router = RankRouter(layer.in_features, self.rank, self.active, self.merged, trained=learns)
            layer.continue_from(_ranks_of(past, name), router)
        _keep_known_classes(pool, past if self.keep_head else None, classes)

    def penalty(self, pool: ExpertPool) -> torch.Tensor:
        """AGO: the mean over layers of how much the ranks about to be merged overlap with those that were."""
        overlaps = []
        for _, layer in rank_layers(pool).items():
            if layer.past_b is not None:
                assert isinstance(layer.rank_gate, RankRouter)
                overlaps.append(overlap(layer.lora_B[:, layer.rank_gate.chosen()], layer.past_b))
        return self.orthogonality * torch.stack(overlaps).mean() if overlaps else torch.zeros(())

    def remaining(self, pool: ExpertPool) -> dict[str, Pair]:
        """The most active ranks, what a trained router scaled them by folded into B."""
        pairs = {}
        for name, layer in rank_layers(pool).items():
            router = layer.rank_gate
            assert isinstance(router, RankRouter)
            chosen = router.chosen()
            pairs[name] = (_numpy(layer.lora_A[chosen]), _numpy(layer.lora_B[:, chosen] * router.gain()[chosen]))
        return pairs

    def joined(self, past: Expert | None, expert: Expert) -> Expert:
        """The merged ranks of all tasks, factorised anew where they are more than the limit."""
        pairs, lost = {}, []
        for name, merged in expert.low_rank.items():
            pair = _behind(_pair_of(past, name), merged)
            if self.limit is not None and len(pair[0]) > self.limit:
                pair, error = factorised(pair, self.limit)
                lost.append(error)
            pairs[name] = pair
        joined = _all_tasks(past, expert, pairs, self.kind)
        account = {"router": self.router} | ({"lost": round(float(np.mean(lost)), 4)} if lost else {})
        return replace(joined, training={**joined.training, **account})


@torch.no_grad()
def load_ranks(pool: ExpertPool, method: RankPool, expert: Expert) -> None:
    """Make the pool the network as it is after an expert's tasks.

    Args:
        pool: of the rank that the method trains.
        expert: that :func:`mile_edge.training.expert.train_expert` gave with ``ranks``, or the base's own.
    """
    pool.load(replace(expert, low_rank={}))
    if not expert.low_rank:
        return
    own = pool.rank if isinstance(method, Mora) else 0
    for name, layer in rank_layers(pool).items():
        a, b = _tensors(expert.low_rank[name])
        split = len(a) - own
        gate = SelfActivated(method.top_k, method.tau, method.delta) if isinstance(method, Mora) else None
        layer.continue_from((a[:split], b[:, :split]), gate)
        if own:
            # All ranks count in the responses' length, so none of the pool's own may be a fresh one.
            layer.lora_A.copy_(a[split:])
            layer.lora_B.copy_(b[:, split:])
    pool.eval()


def factorised(pair: Pair, rank: int) -> tuple[Pair, float]:
    """The best pair of a lower rank, and what it loses: ||BA - B'A'|| / ||BA|| in the Frobenius norm.

    Args:
        pair: A (R, in) and B (out, R).
        rank: of the new pair.
    """
    update = pair[1].astype(np.float64) @ pair[0].astype(np.float64)
    left, values, right = np.linalg.svd(update, full_matrices=False)
    root = np.sqrt(values[:rank])
    lost = float(np.linalg.norm(values[rank:]) / max(np.linalg.norm(values), 1e-30))
    return ((root[:, None] * right[:rank]).astype(np.float32), (left[:, :rank] * root).astype(np.float32)), lost


def _pair_of(past: Expert | None, name: str) -> Pair | None:
    return past.low_rank.get(name) if past is not None else None


def _ranks_of(past: Expert | None, name: str) -> tuple[torch.Tensor, torch.Tensor] | None:
    pair = _pair_of(past, name)
    return None if pair is None else _tensors(pair)


def _tensors(pair: Pair) -> tuple[torch.Tensor, torch.Tensor]:
    # Arrays of a file are read-only, which torch has no notion of: copies.
    return torch.from_numpy(np.array(pair[0], np.float32)), torch.from_numpy(np.array(pair[1], np.float32))


def _behind(past: Pair | None, pair: Pair) -> Pair:
    return pair if past is None else (np.concatenate([past[0], pair[0]]), np.concatenate([past[1], pair[1]], axis=1))


def _all_tasks(past: Expert | None, expert: Expert, pairs: dict[str, Pair], kind: str) -> Expert:
    """The expert with all ranks, all classes, and what the gate knows of all tasks: a prototype for each."""
    rank = len(next(iter(pairs.values()))[0])
    account = {**expert.training, "method": kind, "tasks": [*_tasks(past), expert.name]}
    made = replace(expert, low_rank=pairs, rank=rank, training=account)
    if past is None:
        return made
    weight, bias, classes = list(past.classifier_weight), list(past.classifier_bias), list(past.classes)
    known = {label.name: place for place, label in enumerate(classes)}
    for row, label in enumerate(expert.classes):
        if label.name in known:
            place = known[label.name]
            weight[place], bias[place] = expert.classifier_weight[row], expert.classifier_bias[row]
        else:
            weight.append(expert.classifier_weight[row])
            bias.append(expert.classifier_bias[row])
            classes.append(label)
    means = past.mean[None] if past.prototypes is None else past.prototypes
    count = past.count + expert.count
    return replace(
        made,
        classifier_weight=np.stack(weight),
        classifier_bias=np.array(bias, np.float32),
        classes=tuple(classes),
        mean=((past.count * past.mean + expert.count * expert.mean) / count).astype(np.float32),
        # Within tasks, so that the distances are those of a bundle that has an expert for each.
        scatter=past.scatter + expert.scatter,
        count=count,
        prototypes=np.concatenate([means, expert.mean[None]]).astype(np.float32),
        # No sensors stands for any.
        sensors=tuple(dict.fromkeys((*past.sensors, *expert.sensors))) if past.sensors and expert.sensors else (),
        domains=tuple(dict.fromkeys((*past.domains, *expert.domains))),
    )


def _tasks(past: Expert | None) -> list[str]:
    found = [] if past is None else past.training.get("tasks", [])
    return [str(name) for name in found] if isinstance(found, list) else []


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().to(torch.float32).numpy().copy()


class _Kept(nn.Module):
    """Rows that stay what they were; the others are the parameter's."""

    rows: torch.Tensor
    values: torch.Tensor

    def __init__(self, rows: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", rows)
        self.register_buffer("values", values)

    def forward(self, free: torch.Tensor) -> torch.Tensor:
        shape = (-1, *[1] * (free.dim() - 1))
        return torch.where(self.rows.reshape(shape), self.values, free)


def _keep_known_classes(pool: ExpertPool, past: Expert | None, classes: tuple[ClassLabel, ...]) -> None:
    """Let only the classifier's rows of classes that ``past`` lacks learn."""
    if past is None:
        return
    names = {label.name for label in past.classes}
    known = torch.tensor([label.name in names for label in classes])
    for name in ("weight", "bias"):
        values = getattr(pool.classifier, name).detach().clone()
        parametrize.register_parametrization(pool.classifier, name, _Kept(known, values))
