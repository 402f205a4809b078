"""``study.json``: what the finished cells of a study say."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import numpy as np
import torch

from mile_edge import __version__
from mile_edge.studies import metrics
from mile_edge.studies.cells import Cell, Store
from mile_edge.studies.lab import Lab, Stream
from mile_edge.studies.methods import METHODS, Experts, Method
from mile_edge.studies.unseen import unseen_cells, unseen_chosen, unseen_report

SCHEMA = 1


def study_cells(lab: Lab) -> list[Cell]:
    """The cells that the report reads, apart from the times of a frame and from what depends on whom gates choose."""
    cells: list[Cell] = []
    for stream in lab.streams():
        for method in _methods(lab):
            cells += method.training(lab, stream)
            for after in range(len(stream.tasks)):
                for task in range(after + 1):
                    cells += method.scoring(lab, stream, after, task)
            if isinstance(method, Experts) and method.needs_features():
                cells += [lab.features(task) for task in stream.tasks]
    if lab.recipe.leave_one_out:
        cells += unseen_cells(lab)
    return cells


def chosen_cells(lab: Lab, store: Store) -> list[Cell]:
    """What else the report reads, once :func:`study_cells` are there to say which experts are chosen."""
    cells: list[Cell] = []
    for stream in lab.streams():
        for method in _methods(lab):
            if isinstance(method, Experts):
                experts = method.training(lab, stream)
                for after in range(len(experts)):
                    for task in range(after + 1):
                        cells += (method.second(lab, experts[: after + 1], stream, store, task) or {}).values()
    if lab.recipe.leave_one_out:
        cells += unseen_chosen(lab, store)
    return cells


def latency_cell(lab: Lab) -> Cell | None:
    """The times of a frame, to be measured while nothing else runs; nothing where the recipe asks for none."""
    if lab.recipe.latency is None:
        return None
    gates = dict.fromkeys(method.pass_of for method in _methods(lab) if method.pass_of != "base")
    stream = lab.streams()[0]
    return lab.latency(lab.expert(stream.tasks[0], stream.seed), list(gates))


def build_report(lab: Lab, store: Store) -> dict[str, Any]:
    """The study's report as plain JSON; figures that were not measured are ``null``."""
    streams = lab.streams()
    latency = latency_cell(lab)
    times = [] if latency is None else store.result(latency)["rows"]
    methods = {method.name: _method(method, lab, store, streams, times) for method in _methods(lab)}
    base = store.result(lab.base)
    recipe = asdict(lab.recipe)
    return {
        "schema": SCHEMA,
        "study": lab.recipe.name,
        "created": datetime.now().isoformat(timespec="seconds"),
        "recipe": recipe,
        "base": {
            "name": lab.base.params["title"],
            "sha256": base["sha256"],
            "bytes": 4 * base["parameters"],
            "classes": [name for name, _ in base["classes"]],
        },
        "tasks": {name: _task(lab, name) for name in lab.tasks},
        "skipped": lab.skipped,
        "orders": {stream.order: [task.name for task in stream.tasks] for stream in streams},
        "seeds": list(lab.recipe.seeds),
        "methods": methods,
        "forgetting_with_oracle_routing": _proof(lab, store, streams),
        "leave_one_out": unseen_report(lab, store) if lab.recipe.leave_one_out else None,
        "latency": times,
        "versions": {"mile-edge": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def _methods(lab: Lab) -> list[Method]:
    return [METHODS[name] for name in lab.recipe.methods]


def _task(lab: Lab, name: str) -> dict[str, Any]:
    task = lab.tasks[name]
    # From the plan: a study that takes a bundle's experts never opens its training data.
    cells = (("train", task.train), ("test", task.test))
    frames = {f"{part}_frames": len(cell.params.get("chosen", ())) or cell.params["frames"] for part, cell in cells}
    classes = [label.name for label in task.classes]
    return {"sensor": task.sensor, "domain": task.domain, "classes": classes, **frames}


def _method(
    method: Method, lab: Lab, store: Store, streams: Sequence[Stream], times: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = {}
    for stream in streams:
        found.setdefault(stream.order, {})[str(stream.seed)] = _stream(method, lab, store, stream)
    stored = {stream.order: asdict(method.stored(lab, stream, store)) for stream in streams}
    figures: dict[str, dict[str, Any]] = {}
    for order, seeds in found.items():
        names = [name for name in next(iter(seeds.values())) if name not in {"matrix", "confusion", "after_each"}]
        figures[order] = {name: _over_seeds([run[name] for run in seeds.values()]) for name in names}
        after_each = zip(*(run["after_each"] for run in seeds.values()), strict=True)
        figures[order]["after_each"] = [_over_seeds(list(each)) for each in after_each]
    tasks = max(len(stream.tasks) for stream in streams)
    base = 4.0 * store.result(lab.base)["parameters"]
    adapter = next(iter(stored.values()))["adapter"]
    return {
        "told": method.told,
        "figures": figures,
        "streams": found,
        "stored": stored,
        "experts_per_base": round(base / adapter, 1) if adapter else None,
        "latency": _latency(method, times, tasks),
    }


def _stream(method: Method, lab: Lab, store: Store, stream: Stream) -> dict[str, Any]:
    """One order under one seed."""
    matrix, confusion = _matrix(method, lab, store, stream), _confusion(method, lab, store, stream)
    trained = [store.result(cell) for cell in method.training(lab, stream)]
    figures: dict[str, Any] = {
        "final_mean": metrics.final_mean(matrix),
        "bwt": metrics.backward_transfer(matrix),
        "plasticity_gap": None,
        "gate_accuracy": None if confusion is None else metrics.right_share(confusion),
        "oracle_minus_gated": None,
        "training_seconds": sum(result["processor_seconds"] for result in trained),
    }
    methods = lab.recipe.methods
    if "single-task" in methods and method.name != "base":
        alone = np.diagonal(_matrix(METHODS["single-task"], lab, store, stream))
        figures["plasticity_gap"] = metrics.plasticity_gap(matrix, list(alone))
    if "mile-oracle" in methods and isinstance(method, Experts):
        oracle = metrics.final_mean(_matrix(METHODS["mile-oracle"], lab, store, stream))
        figures["oracle_minus_gated"] = oracle - figures["final_mean"]
    after_each = [_plain(value) for value in metrics.mean_after_each(matrix)]
    plain = {name: _plain(value) for name, value in figures.items()}
    rows = [[_plain(value) for value in row] for row in matrix]
    return {**plain, "after_each": after_each, "matrix": rows, "confusion": confusion}


def _matrix(method: Method, lab: Lab, store: Store, stream: Stream) -> np.ndarray:
    size = len(stream.tasks)
    matrix = np.full((size, size), np.nan)
    for after in range(size):
        for task in range(after + 1):
            counts = method.counts(lab, stream, store, after, task)
            if counts is not None:
                matrix[after, task] = metrics.miou_of(counts)
    return matrix


def _confusion(method: Method, lab: Lab, store: Store, stream: Stream) -> dict[str, dict[str, int]] | None:
    names = [task.name for task in stream.tasks]
    rows = {}
    for place, name in enumerate(names):
        chosen = method.chosen(lab, stream, store, len(names) - 1, place)
        if chosen is None:
            return None
        rows[name] = {names[expert]: frames for expert, frames in sorted(Counter(chosen).items())}
    return rows


def _proof(lab: Lab, store: Store, streams: Sequence[Stream]) -> dict[str, Any] | None:
    """Whether the masks under an expert that is named are the same, bit by bit, whoever came later."""
    if "mile-oracle" not in lab.recipe.methods:
        return None
    method, compared, different = METHODS["mile-oracle"], 0, []
    for stream in streams:
        for task in range(len(stream.tasks)):
            first, *later = (
                store.result(method.scoring(lab, stream, after, task)[0])["digest"]
                for after in range(task, len(stream.tasks))
            )
            compared += len(later)
            different += [f"{stream.order}, seed {stream.seed}, {stream.tasks[task].name}"] * sum(
                digest != first for digest in later
            )
    return {"bit_identical": not different, "compared": compared, "different": different}


def _latency(method: Method, times: Sequence[dict[str, Any]], tasks: int) -> dict[str, Any] | None:
    """The time with as many experts as there are tasks, or with the next number of experts that was measured."""
    rows = [row for row in times if row["gate"] == method.pass_of]
    if not rows:
        return None
    wanted = 1 if method.name == "sequential-lora" else tasks
    return min(rows, key=lambda row: (row["experts"] < wanted, abs(row["experts"] - wanted)))


def _over_seeds(values: list[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return {"mean": None, "low": None, "high": None, "values": values}
    low, high = metrics.interval(known) or (None, None)
    return {"mean": float(np.mean(known)), "low": low, "high": high, "values": values}


def _plain(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else round(float(value), 6)
