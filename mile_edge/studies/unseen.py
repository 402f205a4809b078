"""Unseen domains: every task in turn under the experts of all others, leave-one-domain-out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mile_edge.studies import metrics
from mile_edge.studies.cells import Cell, Store
from mile_edge.studies.lab import Lab, Stream
from mile_edge.studies.methods import EXPERTS, Experts

# What every other gate is compared with.
HARD = "mile-mahalanobis"


def unseen_cells(lab: Lab) -> list[Cell]:
    """What the report of unseen domains reads."""
    cells: list[Cell] = []
    for stream, task, others in _left_out(lab):
        for method in _gates(lab):
            cells += method.over(lab, others, stream, task, None)
        cells += [lab.score_bank([expert], stream.tasks[task]) for expert in lab_experts(lab, stream)]
    return cells


def unseen_chosen(lab: Lab, store: Store) -> list[Cell]:
    """What else it reads, once it is known whom the gates choose."""
    cells: list[Cell] = []
    for stream, task, others in _left_out(lab):
        for method in _gates(lab):
            cells += (method.second(lab, others, stream, store, task) or {}).values()
    return cells


def unseen_report(lab: Lab, store: Store) -> dict[str, Any]:
    """Scores of every gate on every left-out task, and the difference to the hard gate.

    The intervals of single tasks are over their test frames (bootstrap), those of the mean over tasks (Student's t),
    each the mean of its seeds: what another domain would bring is the question, and seeds of one say little of it.
    """
    rows: list[dict[str, Any]] = []
    differences: dict[str, dict[str, list[float]]] = {}
    for stream, task, others in _left_out(lab):
        counts = {method.name: method.counts_over(lab, others, stream, store, task, None) for method in _gates(lab)}
        alone = [
            EXPERTS["mile-oracle"].counts_over(lab, [expert], stream, store, task, 0)
            for expert in lab_experts(lab, stream)
        ]
        scores = [metrics.miou_of(each) for each in alone]
        row: dict[str, Any] = {
            "task": stream.tasks[task].name,
            "seed": stream.seed,
            "own_expert": scores[task],
            "best_other": max(score for place, score in enumerate(scores) if place != task),
            "gates": {},
        }
        for name, each in counts.items():
            difference, low, high = metrics.difference_interval(each, counts[HARD])
            row["gates"][name] = {
                "miou": metrics.miou_of(each),
                "over_hard": difference,
                "low": low,
                "high": high,
            }
            differences.setdefault(name, {}).setdefault(row["task"], []).append(difference)
        rows.append(row)
    means = {}
    for name, by_task in differences.items():
        values = [float(np.mean(of_seeds)) for of_seeds in by_task.values()]
        low_high = metrics.interval(values) or (None, None)
        miou = float(np.mean([row["gates"][name]["miou"] for row in rows]))
        means[name] = {"miou": miou, "over_hard": float(np.mean(values)), "low": low_high[0], "high": low_high[1]}
    best = max((name for name in means if name != HARD), key=lambda name: means[name]["miou"] or 0.0, default=None)
    return {"hard": HARD, "best": best, "means": means, "tasks": rows}


def lab_experts(lab: Lab, stream: Stream) -> list[Cell]:
    """The experts of a stream's tasks."""
    return [lab.expert(task, stream.seed) for task in stream.tasks]


def _gates(lab: Lab) -> list[Experts]:
    """The gates that choose or mix, :data:`HARD` first."""
    chosen = [EXPERTS[name] for name in dict.fromkeys((HARD, *lab.recipe.methods)) if name in EXPERTS]
    return [method for method in chosen if method.gate not in {"oracle", "random"}]


def _left_out(lab: Lab) -> Iterator[tuple[Stream, int, Sequence[Cell]]]:
    """Every task of the first order under every seed, and the experts of the others."""
    first = lab.streams()[0].order
    for stream in lab.streams():
        if stream.order == first:
            experts = lab_experts(lab, stream)
            for task in range(len(stream.tasks)):
                yield stream, task, [*experts[:task], *experts[task + 1 :]]
