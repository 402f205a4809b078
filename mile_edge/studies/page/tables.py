"""The study's tables: the comparison, the matrices, who was chosen, unseen domains, and what was studied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mile_edge.replay.page.markup import DASH, chip, count, esc, number, percent, table
from mile_edge.replay.page.sections import heat

_MIB = 1 << 20


def comparison(report: Mapping[str, Any], order: str, colors: Mapping[str, str]) -> str:
    """How well every method does on one order of tasks."""
    head = [("method", ""), ("", ""), ("final mean", "num"), ("BWT", "num"), ("plasticity gap", "num")]
    head += [("gate right", "num"), ("oracle less gated", "num")]
    rows = []
    for name, method in report["methods"].items():
        figures = method["figures"][order]
        rows.append(
            [
                (chip(name, colors[name]), ""),
                (esc(method["told"]), "soft"),
                (f"<b>{with_interval(figures['final_mean'])}</b>", "num"),
                *((_points(figures[figure]), "num") for figure in ("bwt", "plasticity_gap")),
                (percent(figures["gate_accuracy"]["mean"]), "num"),
                (_points(figures["oracle_minus_gated"]), "num"),
            ]
        )
    return table(head, rows)


def cost(report: Mapping[str, Any], order: str, colors: Mapping[str, str]) -> str:
    """What every method takes on one order of tasks."""
    head = [("method", ""), ("adapter", "num"), ("head", "num"), ("prototypes", "num"), ("stored in all", "num")]
    head += [("adapters per base", "num"), ("training", "num"), ("frame", "num"), ("over the base", "num")]
    rows = []
    for name, method in report["methods"].items():
        stored, latency = method["stored"][order], method["latency"]
        seconds = method["figures"][order]["training_seconds"]["mean"]
        rows.append(
            [
                (chip(name, colors[name]), ""),
                *((_kib(stored[part]), "num") for part in ("adapter", "head", "prototypes")),
                (f"{stored['total'] / _MIB:.2f} MiB", "num"),
                (number(method["experts_per_base"], 0), "num"),
                (DASH if seconds is None else f"{seconds:.0f} s", "num"),
                (DASH if latency is None else f"{latency['ms']:.1f} ms", "num"),
                (DASH if latency is None else f"{latency['over_base']:.2f}", "num"),
            ]
        )
    return table(head, rows)


def matrices(report: Mapping[str, Any], colors: Mapping[str, str]) -> str:
    """R of every method, order and seed, folded."""
    parts = []
    for name, method in report["methods"].items():
        inner = ""
        for order, seeds in method["streams"].items():
            for seed, run in seeds.items():
                inner += f"<h3>{esc(order)}, seed {esc(seed)}</h3>{_matrix(run['matrix'], report['orders'][order])}"
        mean = " · ".join(with_interval(figures["final_mean"]) for figures in method["figures"].values())
        parts.append(f"<details><summary>{chip(name, colors[name])}<span>{mean}</span></summary>{inner}</details>")
    return "".join(parts)


def _matrix(matrix: list[list[float | None]], tasks: list[str]) -> str:
    head = '<th class="side">after ↓ &nbsp; on →</th>' + "".join(f"<th>{esc(task)}</th>" for task in tasks)
    rows = ""
    for task, row in zip(tasks, matrix, strict=True):
        cells = "".join(
            '<td class="cell" style="--a:0"></td>'
            if value is None
            else f'<td class="cell{" dark" if value > 0.6 else ""}" style="--a:{value:.2f}">{value:.3f}</td>'
            for value in row
        )
        rows += f'<tr><th class="side">{esc(task)}</th>{cells}</tr>'
    return f'<div class="scroll"><table class="heat"><tr>{head}</tr>{rows}</table></div>'


def confusions(report: Mapping[str, Any], tasks: Mapping[str, str], colors: Mapping[str, str]) -> str:
    """Who was chosen, all orders and seeds together, by method."""
    parts = []
    for name, method in report["methods"].items():
        total: dict[str, dict[str, int]] = {}
        for run in (run for seeds in method["streams"].values() for run in seeds.values()):
            for right, row in (run["confusion"] or {}).items():
                for chosen, frames in row.items():
                    total.setdefault(right, {}).setdefault(chosen, 0)
                    total[right][chosen] += frames
        if total:
            frames = sum(sum(row.values()) for row in total.values())
            hits = sum(row.get(right, 0) for right, row in total.items())
            told = f"{percent(hits / frames)} of {count(frames)} frames"
            inner = heat(total, tasks)
            parts.append(f"<details><summary>{chip(name, colors[name])}<span>{told}</span></summary>{inner}</details>")
    return "".join(parts) or '<p class="soft">No method chose an expert.</p>'


def unseen(report: Mapping[str, Any], colors: Mapping[str, str]) -> str:
    """Leave-one-out: the means of every gate, and its difference to the hard gate on every task."""
    found = report["leave_one_out"]
    head = [("gate", ""), ("mean mIoU", "num"), ("over the hard gate, all tasks and seeds", "num")]
    head += [(esc(f"{row['task']}, seed {row['seed']}"), "num") for row in found["tasks"]]
    rows = []
    for name, mean in sorted(found["means"].items(), key=lambda item: -item[1]["miou"]):
        singles = [(_difference(row["gates"][name]), "num") for row in found["tasks"]]
        rows.append(
            [(chip(name, colors[name]), ""), (number(mean["miou"], 3), "num"), (_difference(mean), "num"), *singles]
        )
    for told, key in (
        ("best single expert of the others, in hindsight", "best_other"),
        ("its own expert", "own_expert"),
    ):
        values = [row[key] for row in found["tasks"]]
        singles = [(number(value, 3), "num") for value in values]
        rows.append([(esc(told), "soft"), (number(sum(values) / len(values), 3), "num"), ("", "num"), *singles])
    return table(head, rows)


def tasks(report: Mapping[str, Any]) -> str:
    """What the tasks are, and those that were skipped."""
    head = [("task", ""), ("sensor", ""), ("domain", ""), ("classes", "num"), ("training", "num"), ("test", "num")]
    rows = [
        [
            (esc(name), ""),
            (esc(task["sensor"]), ""),
            (esc(task["domain"]), ""),
            (f'<span title="{esc(", ".join(task["classes"]))}">{len(task["classes"])}</span>', "num"),
            (count(task["train_frames"]), "num"),
            (count(task["test_frames"]), "num"),
        ]
        for name, task in report["tasks"].items()
    ]
    orders = "".join(
        f'<p class="why">Order {esc(name)}: {esc(" → ".join(order))}.</p>' for name, order in report["orders"].items()
    )
    skipped = "".join(
        f'<p class="why warn">Skipped {esc(name)}: {esc(reason)}.</p>' for name, reason in report["skipped"].items()
    )
    return table(head, rows) + '<div style="height:14px"></div>' + orders + skipped


def with_interval(figure: Mapping[str, Any], digits: int = 3) -> str:
    """A mean, and half the width of its 95 % interval where there are several seeds."""
    if figure["mean"] is None:
        return DASH
    reach = "" if figure["low"] is None else f" ± {figure['mean'] - figure['low']:.{digits}f}"
    return f"{figure['mean']:.{digits}f}{reach}"


def _points(figure: Mapping[str, Any]) -> str:
    if figure["mean"] is None:
        return DASH
    reach = "" if figure["low"] is None else f" ± {100 * (figure['mean'] - figure['low']):.1f}"
    return f"{100 * figure['mean']:+.1f}{reach}"


def _difference(row: Mapping[str, Any]) -> str:
    ends = (
        "" if row["low"] is None else f" <span class='soft'>[{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]</span>"
    )
    return f"{100 * row['over_hard']:+.1f}{ends}"


def _kib(size: float) -> str:
    return f"{size / _MIB:.2f} MiB" if size >= _MIB else f"{size / 1024:.0f} KiB" if size else "0"
