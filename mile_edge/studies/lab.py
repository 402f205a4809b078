"""From a recipe to cells: the one place that says what each piece of work depends on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mile_edge.bundle import Bundle
from mile_edge.errors import DataError
from mile_edge.studies.cells import Cell
from mile_edge.studies.data import Task, make_task
from mile_edge.studies.networks import base_cell
from mile_edge.studies.plan import StudyRecipe, TrainingPlan


@dataclass(frozen=True)
class Stream:
    """Tasks in the order in which they come, under one seed of training."""

    order: str
    tasks: tuple[Task, ...]
    seed: int


class Lab:
    """Makes a study's cells. The same request gives a cell of the same key, so nothing is computed twice.

    Args:
        recipe: of the study.
        folder: that its paths are relative to.

    Attributes:
        tasks: those whose data is here.
        skipped: the others, with the reason.

    Raises:
        DataError: no order has a task left.
        RecipeError: there is no such base.
    """

    def __init__(self, recipe: StudyRecipe, folder: Path) -> None:
        self.recipe, self.base = recipe, base_cell(recipe.base, folder)
        self._bundle = None if recipe.experts is None else Bundle.open(folder / recipe.experts)
        self.tasks: dict[str, Task] = {}
        self.skipped: dict[str, str] = {}
        for name in dict.fromkeys(task for order in recipe.orders.values() for task in order):
            try:
                self.tasks[name] = make_task(name, recipe.tasks[name], recipe, folder)
            except DataError as error:
                self.skipped[name] = str(error)
        if not self.tasks:
            raise DataError(f"no task of the study {recipe.name!r} has data: {next(iter(self.skipped.values()))}")

    def streams(self) -> list[Stream]:
        """Every order under every seed, without the tasks that were skipped."""
        orders = {
            name: tuple(self.tasks[task] for task in order if task in self.tasks)
            for name, order in self.recipe.orders.items()
        }
        return [Stream(name, tasks, seed) for name, tasks in orders.items() if tasks for seed in self.recipe.seeds]

    def expert(self, task: Task, seed: int) -> Cell:
        """The one expert of a task, which all gates share.

        Raises:
            BundleError: the study takes a bundle's experts, and it has none of the task's name.
        """
        if self._bundle is None:
            return self.adapter((task,), seed)
        entry = self._bundle.manifest.entry(task.name)
        params = {"title": f"{task.name} of {self._bundle.path.name}", "name": task.name, "content": entry.sha256}
        return Cell("bundled", params, (), {"bundle": str(self._bundle.path.resolve())})

    def adapter(self, tasks: Sequence[Task], seed: int, ranks: Mapping[str, Any] | None = None) -> Cell:
        """One adapter after these tasks, each learned where the last one ended.

        Args:
            ranks: settings of the method whose ranks are added task by task; without them the same pairs learn on.
        """
        task, past = tasks[-1], tasks[:-1]
        params = {
            "title": f"{'>'.join(each.name for each in tasks)} seed {seed}",
            "name": task.name,
            "sensor": task.sensor,
            "domain": task.domain,
            "centres": self.recipe.centres,
            **self._network(),
            **self._training(self.recipe.expert, seed),
        }
        needs = [("base", self.base), ("data", task.train)]
        if ranks is not None:
            params |= {"ranks": dict(ranks), "title": f"{ranks['kind']} {params['title']}"}
        if past:
            needs.append(("start", self.adapter(past, seed, ranks)))
        return Cell("adapter", params, tuple(needs))

    def network(self, tasks: Sequence[Task], seed: int) -> Cell:
        """A whole network after these tasks, each learned where the last one ended."""
        start = [("start", self.network(tasks[:-1], seed))] if len(tasks) > 1 else []
        title = f"{'>'.join(each.name for each in tasks)} seed {seed}"
        params = {"title": title, **self._training(self.recipe.full, seed)}
        return Cell("network", params, (("base", self.base), ("data", tasks[-1].train), *start))

    def joint(self, tasks: Sequence[Task], seed: int) -> Cell:
        """A whole network trained on all these tasks at once, as many steps for each."""
        if len(tasks) == 1:
            return self.network(tasks, seed)
        together = sorted(tasks, key=lambda task: task.name)
        title = f"{'+'.join(each.name for each in together)} seed {seed}"
        params = {"title": title, **self._training(self.recipe.full, seed, len(tasks))}
        return Cell("network", params, (("base", self.base), *(("data", task.train) for task in together)))

    def features(self, task: Task) -> Cell:
        """The gate's features of a task's test frames."""
        params = {"title": f"{task.name} test", "size": list(self.recipe.size), "tap": self.recipe.tap}
        return Cell("features", params, (("base", self.base), ("data", task.test)))

    def score_network(self, network: Cell, task: Task) -> Cell:
        """Confusions of a whole network on a task's test frames."""
        params = {"title": f"{network.params['title']} on {task.name}", "size": list(self.recipe.size)}
        return Cell("score-network", params, (("base", self.base), ("network", network), ("data", task.test)))

    def score_bank(self, experts: Sequence[Cell], task: Task, gate: str = "oracle", right: int = 0) -> Cell:
        """Confusions of the one pass over a bank on a task's test frames; without experts the base's own row."""
        names = ", ".join(str(expert.params["name"]) for expert in experts) or "base"
        params = {
            "title": f"{gate} of {names} on {task.name}",
            "gate": gate,
            "size": list(self.recipe.size),
            "max_classes": self.recipe.max_classes,
            **self._network(),
        }
        if gate == "oracle":
            params["right"] = right
        if gate == "semla":
            params |= {"top_k": self.recipe.top_k, "tau": self.recipe.tau}
        needs = (("base", self.base), *(("expert", expert) for expert in experts), ("data", task.test))
        return Cell("score-bank", params, needs)

    def latency(self, expert: Cell, gates: Sequence[str]) -> Cell:
        """Times of a frame under these gates."""
        plan = self.recipe.latency
        assert plan is not None
        params = {
            "title": f"of {', '.join(gates)}",
            "gates": list(gates),
            "experts": list(plan.experts),
            "rounds": plan.rounds,
            "size": list(self.recipe.size),
            "max_classes": self.recipe.max_classes,
            "top_k": self.recipe.top_k,
            "tau": self.recipe.tau,
            **self._network(),
        }
        return Cell("latency", params, (("base", self.base), ("expert", expert)))

    def _network(self) -> dict[str, Any]:
        if self._bundle is not None:
            layout, tap = self._bundle.manifest.low_rank, self._bundle.manifest.gate.tap
            layers = "|".join(re.escape(layer.name) for layer in layout.layers)
            return {"rank": layout.rank, "layers": layers, "tap": tap}
        return {"rank": self.recipe.rank, "layers": self.recipe.layers, "tap": self.recipe.tap}

    def _training(self, plan: TrainingPlan, seed: int, times: int = 1) -> dict[str, Any]:
        recipe = self.recipe
        return {
            "schedule": {**asdict(plan), "steps": plan.steps * times, "seed": seed},
            "augmentation": {
                "scale": list(recipe.zoom),
                "foreign": recipe.foreign,
                "crop": None if recipe.crop is None else list(recipe.crop),
            },
            "size": list(recipe.size),
        }
