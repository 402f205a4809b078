"""The methods that a study compares: for each, which cells it needs and what they say. One table, ``METHODS``.

A method that learns one adapter task after task, such as a pool of ranks, is no more than an entry of
:class:`OneAdapter`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mile_edge.bundle import Expert, read_expert
from mile_edge.studies.adapters import EXPERT, FEATURES, read_counts
from mile_edge.studies.cells import Cell, Store
from mile_edge.studies.routing import choose, prototype_bytes

if TYPE_CHECKING:
    from mile_edge.studies.lab import Lab, Stream


@dataclass(frozen=True)
class Stored:
    """Bytes that the last state of a method takes.

    Attributes:
        adapter, head, prototypes: that one more task adds.
        total: of all that is needed after the last task, the base included.
    """

    adapter: float
    head: float
    prototypes: float
    total: float


@dataclass(frozen=True)
class Method(ABC):
    """One row of the comparison.

    Attributes:
        name: in recipes and reports.
        told: what it is, in a few words.
        pass_of: which measured pass its latency is: ``base``, or a kind of gate.
    """

    name: str
    told: str
    pass_of: str = "base"

    def training(self, lab: Lab, stream: Stream) -> Sequence[Cell]:
        """What was trained for it, all tasks together."""
        return ()

    @abstractmethod
    def scoring(self, lab: Lab, stream: Stream, after: int, task: int) -> Sequence[Cell]:
        """Cells that R[after, task] is read from; nothing where it is not measured."""

    def counts(self, lab: Lab, stream: Stream, store: Store, after: int, task: int) -> np.ndarray | None:
        """Confusions (N, C, C + 1) of the task's test frames after so many tasks."""
        cells = self.scoring(lab, stream, after, task)
        return read_counts(store.path(cells[0])) if cells else None

    def chosen(self, lab: Lab, stream: Stream, store: Store, after: int, task: int) -> Sequence[int] | None:
        """The expert that each test frame went to, as the place of its task; nothing where nobody chooses."""
        return None

    def stored(self, lab: Lab, stream: Stream, store: Store) -> Stored:
        """What it stores."""
        size = _base_bytes(lab, store)
        return Stored(0, 0, 0, size)


class Untouched(Method):
    """The base as it came."""

    def scoring(self, lab: Lab, stream: Stream, after: int, task: int) -> Sequence[Cell]:
        """Its own row of the bank; nothing where nobody knows what its classes are called."""
        return () if not lab.base.params["named"] else (lab.score_bank((), stream.tasks[task]),)


class WholeNetwork(Method):
    """Every weight free: one network for each task, one after the other, or one for all at once."""

    def training(self, lab: Lab, stream: Stream) -> Sequence[Cell]:
        """The networks."""
        if self.name == "joint":
            return (lab.joint(stream.tasks, stream.seed),)
        if self.name == "single-task":
            return [lab.network((task,), stream.seed) for task in stream.tasks]
        return [lab.network(stream.tasks[: last + 1], stream.seed) for last in range(len(stream.tasks))]

    def scoring(self, lab: Lab, stream: Stream, after: int, task: int) -> Sequence[Cell]:
        """The network of that moment; joint training has only the last one."""
        if self.name == "joint":
            if after + 1 < len(stream.tasks):
                return ()
            network = lab.joint(stream.tasks, stream.seed)
        elif self.name == "single-task":
            network = lab.network((stream.tasks[task],), stream.seed)
        else:
            network = lab.network(stream.tasks[: after + 1], stream.seed)
        return (lab.score_network(network, stream.tasks[task]),)

    def stored(self, lab: Lab, stream: Stream, store: Store) -> Stored:
        """One network, or one for each task."""
        results = [store.result(cell) for cell in self.training(lab, stream)]
        if self.name != "single-task":
            return Stored(0, 0, 0, results[-1]["bytes"])
        heads = float(np.mean([result["head"] for result in results]))
        total = float(sum(result["bytes"] for result in results))
        return Stored(total / len(results) - heads, heads, 0, total)


@dataclass(frozen=True)
class OneAdapter(Method):
    """One adapter that learns task after task.

    Attributes:
        ranks: settings of a method of ranks, with its ``kind``; without them the same pairs learn on.
    """

    ranks: Mapping[str, Any] | None = None

    def training(self, lab: Lab, stream: Stream) -> Sequence[Cell]:
        """Its states."""
        return [lab.adapter(stream.tasks[: last + 1], stream.seed, self.ranks) for last in range(len(stream.tasks))]

    def scoring(self, lab: Lab, stream: Stream, after: int, task: int) -> Sequence[Cell]:
        """The only row of a bank."""
        weighs_itself = self.ranks is not None and self.ranks["kind"] == "mora"
        gate = "mora" if weighs_itself else "oracle"
        return (lab.score_bank([self.training(lab, stream)[after]], stream.tasks[task], gate),)

    def stored(self, lab: Lab, stream: Stream, store: Store) -> Stored:
        """The base and one adapter; a further task adds what the last one did."""
        sizes = [store.result(cell)["sizes"] for cell in self.training(lab, stream)]
        more = {part: (sizes[-1][part] - sizes[0][part]) / max(1, len(sizes) - 1) for part in ("adapter", "head")}
        total = _base_bytes(lab, store) + sizes[-1]["adapter"] + sizes[-1]["head"]
        return Stored(more["adapter"], more["head"], 0, total)


class Experts(Method):
    """One expert for each task; what differs is who is asked.

    Mixtures (``semla``, ``uniform``) and the oracle run over the growing bank itself. Gates that choose one expert are
    decided on the frames' features, and only experts that are chosen for a frame of a task are scored on it: the pass
    gives the same masks, bit by bit, whoever else is in the bank, which is what the oracle's cells are compared for.
    """

    @property
    def gate(self) -> str:
        """Kind of gate."""
        return self.name.removeprefix("mile-")

    def training(self, lab: Lab, stream: Stream) -> Sequence[Cell]:
        """The experts."""
        return [lab.expert(task, stream.seed) for task in stream.tasks]

    def scoring(self, lab: Lab, stream: Stream, after: int, task: int) -> Sequence[Cell]:
        """The bank of that moment, or the frames' features and the experts that are chosen by them."""
        return self.over(lab, self.training(lab, stream)[: after + 1], stream, task, task)

    def over(self, lab: Lab, experts: Sequence[Cell], stream: Stream, task: int, right: int | None) -> Sequence[Cell]:
        """The same over any bank of experts, on a task's test frames; ``right`` is the row of the task's own expert."""
        shown = stream.tasks[task]
        if self.gate == "oracle":
            assert right is not None
            return (lab.score_bank(experts, shown, "oracle", right),)
        if self.gate in {"semla", "uniform"}:
            ordered = sorted(experts, key=lambda cell: str(cell.params["name"]))
            return (lab.score_bank(ordered, shown, self.gate),)
        return (lab.features(shown), *experts)

    def second(
        self, lab: Lab, experts: Sequence[Cell], stream: Stream, store: Store, task: int
    ) -> Mapping[int, Cell] | None:
        """Who is scored once it is known who is chosen: place to cell; nothing where :meth:`over` was all."""
        if self.gate in {"oracle", "semla", "uniform"}:
            return None
        shown = stream.tasks[task]
        chosen = self._choose(lab, experts, store, lab.features(shown), stream.seed)
        return {int(place): lab.score_bank([experts[place]], shown) for place in np.unique(chosen)}

    def counts(self, lab: Lab, stream: Stream, store: Store, after: int, task: int) -> np.ndarray | None:
        """See :class:`Method`."""
        return self.counts_over(lab, self.training(lab, stream)[: after + 1], stream, store, task, task)

    def counts_over(
        self, lab: Lab, experts: Sequence[Cell], stream: Stream, store: Store, task: int, right: int | None
    ) -> np.ndarray:
        """Confusions under any bank of experts."""
        cells = self.second(lab, experts, stream, store, task)
        if cells is None:
            return read_counts(store.path(self.over(lab, experts, stream, task, right)[0]))
        chosen = self._choose(lab, experts, store, lab.features(stream.tasks[task]), stream.seed)
        each = {place: read_counts(store.path(cell)) for place, cell in cells.items()}
        return np.stack([each[int(place)][frame] for frame, place in enumerate(chosen)])

    def chosen(self, lab: Lab, stream: Stream, store: Store, after: int, task: int) -> Sequence[int] | None:
        """See :class:`Method`; a mixture's nearest expert."""
        if self.gate == "uniform":
            return None
        experts = self.training(lab, stream)[: after + 1]
        if self.gate == "oracle":
            return [task] * len(read_counts(store.path(self.scoring(lab, stream, after, task)[0])))
        features = lab.features(stream.tasks[task])
        return [int(place) for place in self._choose(lab, experts, store, features, stream.seed)]

    def needs_features(self) -> bool:
        """Whether the frames' features say whom it chose."""
        return self.gate not in {"oracle", "uniform"}

    def _choose(self, lab: Lab, experts: Sequence[Cell], store: Store, features: Cell, seed: int) -> np.ndarray:
        held = [_expert(store.path(cell)) for cell in experts]
        kind = "mahalanobis" if self.gate == "semla" else self.gate
        return choose(kind, held, np.load(store.path(features) / FEATURES), lab.recipe, seed)

    def stored(self, lab: Lab, stream: Stream, store: Store) -> Stored:
        """The base, and adapter, head and what the gate reads of every expert."""
        results = [store.result(cell) for cell in self.training(lab, stream)]
        every = {part: [result["sizes"][part] for result in results] for part in ("adapter", "head")}
        # A base's own row in a bundle has no adapter, which says nothing of what one more task adds.
        adapter, head = (float(np.mean([size for size in sizes if size] or [0])) for sizes in every.values())
        prototypes = float(prototype_bytes(self.gate, results[0]["dim"], lab.recipe.centres))
        total = _base_bytes(lab, store) + sum(map(sum, every.values())) + len(results) * prototypes
        return Stored(adapter, head, prototypes, total)


@lru_cache(maxsize=256)
def _expert(folder: Path) -> Expert:
    return read_expert(folder / EXPERT)


def _base_bytes(lab: Lab, store: Store) -> float:
    return 4.0 * store.result(lab.base)["parameters"]


_ALL: tuple[Method, ...] = (
    Untouched("base", "the base as it came, never trained on a task"),
    WholeNetwork("single-task", "full fine-tuning, one network for each task: the single-task oracle"),
    WholeNetwork("joint", "full fine-tuning on all tasks at once"),
    WholeNetwork("sequential-full", "full fine-tuning, one task after the other"),
    OneAdapter("sequential-lora", "one adapter, one task after the other", "mahalanobis"),
    OneAdapter("dac", "one adapter, most active ranks of each task merged", "dac", {"kind": "dac", "router": "random"}),
    OneAdapter("dac-trained", "the same, its router trained", "dac", {"kind": "dac", "router": "trained"}),
    OneAdapter("mora", "one adapter, ranks of all tasks weigh themselves", "mora", {"kind": "mora"}),
    Experts("mile-oracle", "one expert each, the right one named", "mahalanobis"),
    Experts("mile-mahalanobis", "one expert each, nearest mean under one covariance", "mahalanobis"),
    Experts("mile-kmeans", "one expert each, nearest of several centres", "mahalanobis"),
    Experts("mile-gaussian", "one expert each, most likely diagonal Gaussian", "mahalanobis"),
    Experts("mile-l2", "one expert each, nearest mean", "mahalanobis"),
    Experts("mile-cosine", "one expert each, nearest direction", "mahalanobis"),
    Experts("mile-ridge", "one expert each, least squares", "mahalanobis"),
    Experts("mile-probe", "one expert each, logistic regression on kept features", "mahalanobis"),
    Experts("mile-attribute", "one expert each, nearest in attributes (MAGE-inspired)", "mahalanobis"),
    Experts("mile-random", "one expert each, drawn for every frame", "mahalanobis"),
    Experts("semla", "the nearest experts mixed for every frame", "semla"),
    Experts("uniform", "all experts mixed, equal weights", "uniform"),
)
METHODS: Mapping[str, Method] = {method.name: method for method in _ALL}
EXPERTS: Mapping[str, Experts] = {method.name: method for method in _ALL if isinstance(method, Experts)}
"""Those of them that have one expert for each task, whom a gate chooses among."""
